"""BA-LoRA in JAX: low-rank fine-tuning with regularizers on the model's outputs."""

from typing import Any

__all__ = ["__version__", "load_pretrained", "register_term"]


def __getattr__(name: str) -> Any:
    # Imported at first use, so that help and errors of the command line need not wait for jax.
    if name == "load_pretrained":
        from balora_jax.models import load_pretrained

        return load_pretrained
    if name == "__version__":
        from importlib.metadata import version

        return version("balora-jax")
    if name == "register_term":
        from balora_jax.regularizers.registration import register_term

        return register_term
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
