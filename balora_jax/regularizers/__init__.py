"""The paper's three regularizers, on logits: `nlg` for language models, `nlu` for classifiers."""

from balora_jax.regularizers import nlg, nlu

__all__ = ["nlg", "nlu"]
