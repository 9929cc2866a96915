"""BA-LoRA in JAX: low-rank fine-tuning with regularizers on the model's outputs."""

import importlib
from typing import Any

# Imported at first use, so that help and errors of the command line need not wait for jax.
_PLACES = {
    "Result": "balora_jax.runs.result",
    "finetune": "balora_jax.runs.finetune",
    "load_adapter": "balora_jax.adapters.peft_format",
    "load_pretrained": "balora_jax.models",
    "load_run": "balora_jax.runs.result",
    "register_term": "balora_jax.regularizers.registration",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("balora-jax")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
