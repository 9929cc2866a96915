"""Writing a PEFT folder: a plain LoRA on the unchanged base."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from balora_jax.adapters.peft_format.names import (
    CONFIG,
    PREFIX,
    STACKS,
    WEIGHTS,
    factor_names,
    layer_names,
)
from balora_jax.adapters.targets import Path, dotted, embedding_tables, linear_kernels

TASK_TYPES = {
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "sequence-classification": "SEQ_CLS",
}


def export_adapter(
    folder: str | pathlib.Path,
    lora: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    base: str,
    task: str = "causal-lm",
    revision: str | None = None,
    fan_in_fan_out: bool = False,
    full_names: bool = False,
    head: Mapping[str, np.ndarray] | None = None,
    head_modules: Sequence[str] = (),
) -> None:
    """Write a `lora` collection as a plain LoRA on the unchanged base, for PEFT to load.

    Args:
      folder: created if it does not exist.
      lora: {a, b} at each target with the scale folded into b, as `student_lora` returns it in the
        delta form. PiSSA in either form is a LoRA of twice the rank on the original weights,
        [A - A0 | A0] [B ; B - B0].
      params: frozen parameters, for the names of all layers.
      base: the base model's hub id or folder.
      task: causal-lm, seq2seq-lm or sequence-classification.
      revision: the base's revision on the hub.
      fan_in_fan_out: True if the base stores its kernels as [in, out] (GPT-2's Conv1D).
      full_names: True if the base has layers outside `params`, such as those of images, which
        shorter names of the targets may match.
      head: tensors of fully trained modules, by their Hugging Face names.
      head_modules: names of those modules, for PEFT's modules_to_save.
    """
    flat = traverse_util.flatten_dict(lora)
    paths = sorted({path[:-1] for path in flat})
    tensors = {}
    for name, tensor in (head or {}).items():
        tensors[PREFIX + name] = np.asarray(tensor, np.float32)
    tables = embedding_tables(params)
    for path in paths:
        a = np.asarray(flat[(*path, "a")], np.float32)
        b = np.asarray(flat[(*path, "b")], np.float32)
        tensors |= _peft_tensors(path, a, b, of_embedding=path in tables)
    rank = int(flat[(*paths[0], "a")].shape[-1])
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[task],
        "base_model_name_or_path": base,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": _target_modules(paths, params, full_names),
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "use_rslora": False,
        "modules_to_save": list(head_modules) or None,
        "inference_mode": True,
    }
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _peft_tensors(
    path: Path, a: np.ndarray, b: np.ndarray, *, of_embedding: bool
) -> dict[str, np.ndarray]:
    """PEFT's tensors of one target, two for each of its layers."""
    is_stacked = a.ndim == 3
    layers = range(len(a)) if is_stacked else [None]
    tensors = {}
    for layer in layers:
        a_name, b_name = factor_names(path, layer, of_embedding=of_embedding)
        layer_a = a[layer] if is_stacked else a
        layer_b = b[layer] if is_stacked else b
        tensors[PREFIX + a_name] = np.ascontiguousarray(layer_a.T)
        tensors[PREFIX + b_name] = np.ascontiguousarray(layer_b.T)
    return tensors


def _target_modules(paths: list[Path], params: Mapping[str, Any], full_names: bool) -> list[str]:
    """The shortest names that match the targets and no other layer, for PEFT's target_modules."""
    kernels = linear_kernels(params) | embedding_tables(params)
    others = set(kernels) - set(paths)
    names: set[str] = set()
    for path in paths:
        suffix = None if full_names else _unambiguous_suffix(path, others)
        if suffix is None:
            names |= set(layer_names(path, kernels[path]))
        else:
            names.add(dotted(suffix))
    return sorted(names)


def _unambiguous_suffix(path: Path, others: set[Path]) -> Path | None:
    """The shortest end of a path, within its layer, that ends none of the others; None if none."""
    inside = len(path)
    for length, part in enumerate(reversed(path)):
        if part in STACKS:
            inside = length
            break
    for length in range(1, inside + 1):
        suffix = path[-length:]
        if not any(other[-length:] == suffix for other in others):
            return suffix
    return None
