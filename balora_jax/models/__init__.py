"""Models in Flax Linen, and their Hugging Face folders."""

from balora_jax.models.head import Head, head
from balora_jax.models.pretrained import abstract_params, init_params, load_model, load_pretrained, save_pretrained

__all__ = ["Head", "abstract_params", "head", "init_params", "load_model", "load_pretrained", "save_pretrained"]
