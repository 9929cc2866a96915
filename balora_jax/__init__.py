"""BA-LoRA in JAX: low-rank fine-tuning with regularizers on the model's outputs."""

from typing import Any

__all__ = ["load_pretrained"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help and errors need not wait for jax.
    if name == "load_pretrained":
        from balora_jax.models import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
