"""The three regularizers of BA-LoRA on logits: `nlg` for language models, `nlu` for classifiers."""

from balora_jax.regularizers import nlg, nlu

__all__ = ["nlg", "nlu"]
