"""PEFT's adapter folder, written and read: adapter_config.json and adapter_model.safetensors.

PEFT stores lora_A [rank, in] and lora_B [out, rank] separately for each layer, and scales their
product by lora_alpha / r. Modules that were trained whole, such as a classifier's head, are in the
same file.
"""

from balora_jax.adapters.peft_format.names import STACKS
from balora_jax.adapters.peft_format.reading import (
    adapter_shapes,
    conversion_note,
    load_adapter,
    load_whole_modules,
    module_names,
)
from balora_jax.adapters.peft_format.writing import export_adapter

__all__ = [
    "STACKS",
    "adapter_shapes",
    "conversion_note",
    "export_adapter",
    "load_adapter",
    "load_whole_modules",
    "module_names",
]
