"""The objective from hidden states and a frozen head, never holding [tokens, V]. Tested equal to `objective`."""

from balora_jax.streaming.nlg import cross_entropy, nlg
from balora_jax.streaming.svd import head_factor, svd

__all__ = ["cross_entropy", "head_factor", "nlg", "svd"]
