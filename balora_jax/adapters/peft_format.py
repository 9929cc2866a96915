"""PEFT's adapter folder: adapter_config.json and adapter_model.safetensors, written and read.

PEFT keeps lora_A [rank, in] and lora_B [out, rank] for each layer apart and scales by lora_alpha / r.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from balora_jax.adapters.targets import Path, dotted, linear_kernels
from balora_jax.errors import BadInput

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# The containers of repeated layers in Hugging Face's names; stacked kernels get their index after them.
STACKS = ("layers", "layer", "h", "block")
TASK_TYPES = {
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "sequence-classification": "SEQ_CLS",
}
# Options that change what the two matrices mean; an adapter that uses one would load as something else.
UNSUPPORTED = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "modules_to_save",
    "lora_bias",
)


def layer_name(path: Path, layer: int | None) -> str:
    """Hugging Face's name of a layer: (model, layers, self_attn, q_proj), 3 -> model.layers.3.self_attn.q_proj."""
    if layer is None:
        return dotted(path)
    at = next(i for i, part in enumerate(path) if part in STACKS) + 1
    return dotted((*path[:at], str(layer), *path[at:]))


def export_adapter(
    folder: str | pathlib.Path,
    lora: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    base: str,
    task: str = "causal-lm",
    revision: str | None = None,
    fan_in_fan_out: bool = False,
    head: Mapping[str, np.ndarray] | None = None,
    head_modules: Sequence[str] = (),
) -> None:
    """Writes a `lora` collection as a plain LoRA on the untouched base, loadable by PEFT.

    Args:
      folder: created if need be.
      lora: {a, b} at each target with the scale folded into b, as `student_lora` gives it in the delta form; PiSSA
        in either form is a LoRA of twice the rank on the original weights ([A - A0 | A0] [B ; B - B0]).
      params: the frozen tree, to tell which layers exist.
      base: the base model's hub id or folder, for adapter_config.json.
      task: causal-lm, seq2seq-lm or sequence-classification.
      revision: the base's revision on the hub.
      fan_in_fan_out: whether the base keeps its kernels as [in, out] (GPT-2's Conv1D).
      head: Hugging Face's tensors of modules that were trained whole, by name.
      head_modules: those modules' names; PEFT's modules_to_save.
    """
    flat = traverse_util.flatten_dict(lora)
    paths = sorted({path[:-1] for path in flat})
    tensors = {
        PREFIX + name: np.asarray(tensor, np.float32) for name, tensor in (head or {}).items()
    }
    for path in paths:
        a, b = (np.asarray(flat[(*path, leaf)], np.float32) for leaf in ("a", "b"))
        for layer in range(len(a)) if a.ndim == 3 else [None]:
            name = PREFIX + layer_name(path, layer)
            at = () if layer is None else layer
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[at].T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[at].T)
    rank = int(flat[(*paths[0], "a")].shape[-1])
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[task],
        "base_model_name_or_path": base,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": _target_modules(paths, params),
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


def _target_modules(paths: list[Path], params: Mapping[str, Any]) -> list[str]:
    """Short names where they mean just these layers, every layer's full name where a short one would catch others."""
    kernels = linear_kernels(params)
    others = set(kernels) - set(paths)
    names: set[str] = set()
    for path in paths:
        depth = next((n for n, part in enumerate(reversed(path)) if part in STACKS), len(path))
        clear = (
            path[-n:]
            for n in range(1, depth + 1)
            if not any(other[-n:] == path[-n:] for other in others)
        )
        short = next(clear, None)
        names |= {dotted(short)} if short else set(_layer_names(path, kernels[path]))
    return sorted(names)


def _layer_names(path: Path, shape: tuple[int, ...]) -> list[str]:
    return [layer_name(path, layer) for layer in (range(shape[0]) if len(shape) == 3 else [None])]


def load_adapter(folder: str | pathlib.Path, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Reads a PEFT LoRA folder as a `lora` collection for `params`: float32 {a, b}, the scale folded into b.

    Raises:
      BadInput: no such files, an adapter that is no plain LoRA, or layers that are not those of `params`.
    """
    config, tensors = _read(pathlib.Path(folder))
    alpha, rank = config.get("lora_alpha", 8), config["r"]
    scale = alpha / (np.sqrt(rank) if config.get("use_rslora") else rank)
    lora: dict[Path, np.ndarray] = {}
    for path, shape in linear_kernels(params).items():
        names = [PREFIX + name for name in _layer_names(path, shape)]
        found = [name for name in names if f"{name}.lora_A.weight" in tensors]
        if not found:
            continue
        if found != names:
            missing = sorted(set(names) - set(found))
            raise BadInput(
                f"{folder} adapts only some layers of {dotted(path)}; missing: {', '.join(missing)}"
            )
        a = np.stack([tensors.pop(f"{name}.lora_A.weight").T for name in names])
        b = np.stack([tensors.pop(f"{name}.lora_B.weight").T for name in names]) * np.float32(scale)
        if (a.shape[-2], b.shape[-1]) != tuple(shape[-2:]):
            raise BadInput(
                f"{folder}: {dotted(path)} is {a.shape[-2]} x {b.shape[-1]}, the model's {shape[-2:]}"
            )
        lora[(*path, "a")], lora[(*path, "b")] = (a, b) if len(shape) == 3 else (a[0], b[0])
    if tensors or not lora:
        raise BadInput(
            f"{folder} has layers this model lacks: {', '.join(sorted(tensors)[:5]) or 'it is empty'}"
        )
    return traverse_util.unflatten_dict(lora)


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} is no PEFT adapter: it has no {name} (a pickled .bin is not read: it can run code)"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            tensors = {
                name: np.asarray(file.get_tensor(name), np.float32) for name in list(file.keys())
            }
    except (ValueError, SafetensorError) as error:
        raise BadInput(f"{folder}: {CONFIG} or {WEIGHTS} cannot be read ({error})") from error
    odd = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        raise BadInput(
            f"{folder} is no plain LoRA ({', '.join(odd) or config.get('peft_type')}); accepted: LoRA, bias none"
        )
    return config, tensors
