"""The names of PEFT's files, and of the layers in them."""

from balora_jax.adapters.targets import Path, dotted

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
A_END = ".lora_A.weight"
B_END = ".lora_B.weight"
EMBEDDING_A_END = ".lora_embedding_A"
EMBEDDING_B_END = ".lora_embedding_B"
# PEFT saves the base's own weights beside the factors of embed_tokens and lm_head.
BASE_END = ".base_layer.weight"
ENDS = (A_END, B_END, EMBEDDING_A_END, EMBEDDING_B_END, BASE_END)
# Containers of repeated layers in Hugging Face's names; a stacked kernel's layer index follows.
STACKS = ("layers", "layer", "h", "block")


def layer_name(path: Path, layer: int | None) -> str:
    """Hugging Face's name of a layer.

        (model, layers, self_attn, q_proj), 3     ->  model.layers.3.self_attn.q_proj
        (bert, pooler, dense),              None  ->  bert.pooler.dense

    Args:
      path: path of the kernel's module.
      layer: index into a stacked kernel; None for a kernel that is not stacked.
    """
    if layer is None:
        return dotted(path)
    stack = next(index for index, part in enumerate(path) if part in STACKS)
    return dotted((*path[: stack + 1], str(layer), *path[stack + 1 :]))


def layer_names(path: Path, shape: tuple[int, ...]) -> list[str]:
    """Hugging Face's names of all layers of a kernel.

    Args:
      path: path of the kernel's module.
      shape: the kernel's, [in, out] or [layers, in, out].
    """
    layers = range(shape[0]) if len(shape) == 3 else [None]
    return [layer_name(path, layer) for layer in layers]


def factor_names(path: Path, layer: int | None, *, of_embedding: bool) -> tuple[str, str]:
    """PEFT's names of a layer's A and B.

    Args:
      path: path of the kernel's module, or of the embedding.
      layer: as for `layer_name`.
      of_embedding: True for an embedding.
    """
    name = layer_name(path, layer)
    if of_embedding:
        return name + EMBEDDING_A_END, name + EMBEDDING_B_END
    return name + A_END, name + B_END


def module_name(tensor: str) -> str:
    """Hugging Face's name of the module that a tensor belongs to.

    Args:
      tensor: PEFT's name of a factor, or that of a module's own tensor; without PEFT's prefix.
    """
    end = next((end for end in ENDS if tensor.endswith(end)), None)
    return tensor.rpartition(".")[0] if end is None else tensor.removesuffix(end)
