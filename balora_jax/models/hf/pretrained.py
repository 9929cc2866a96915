"""Models in and out of Hugging Face folders."""

import dataclasses
import json
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from huggingface_hub.errors import StrictDataclassError
from jax.typing import DTypeLike
from transformers import AutoConfig, PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.base import Classifier, Model
from balora_jax.models.hf.checkpoint import (
    TOKENIZER_FILES,
    Checkpoint,
    read_json,
    resolve_folder,
    write_checkpoint,
)
from balora_jax.models.hf.names import Entry, Place, Reading, compare, parts, read_params
from balora_jax.models.hf.registry import CAUSAL_LM, MODEL_TYPES, Task


class Loaded(NamedTuple):
    """A model as it was loaded.

    Attributes:
        model: the Linen module.
        params: its parameters.
        notes: sentences a person should read, such as that the head starts fresh.
        fresh: the paths of the head's modules that start fresh.
        stored_labels: the labels of the checkpoint's own head, where they are not as many as asked for.
    """

    model: Model
    params: dict
    notes: list[str]
    fresh: tuple[tuple[str, ...], ...] = ()
    stored_labels: int | None = None


def load_pretrained(
    source: str | Path,
    *,
    task: str = CAUSAL_LM,
    dtype: DTypeLike = "float32",
    num_labels: int | None = None,
    revision: str | None = None,
    place: Place | None = None,
    key: jax.Array | None = None,
) -> tuple[Model, dict]:
    """A pre-trained model and its parameters; what `load_checkpoint` notes becomes a warning.

    Args:
        source: a Hugging Face folder (config.json and safetensors) or a hub id.
        task: "causal-lm", "seq2seq-lm" or "sequence-classification".
        dtype: what the parameters are stored in and the model computes in; `model.clone(dtype=...)` changes
            the latter.
        num_labels: outputs of a classification head; those of the checkpoint when not given.
        revision: the hub's branch, tag or commit.
        place: puts one leaf, given its path and numpy value, on its devices; jnp.asarray when not given.
        key: where a head that the checkpoint lacks starts; jax.random.key(0) when not given.

    Returns:
        The Linen module and its parameters, named as Hugging Face does, layers stacked on the leading axis.

    Raises:
        BadInput: the folder, its configuration or its weights cannot be used.
    """
    loaded = load_checkpoint(
        source,
        task=task,
        dtype=dtype,
        num_labels=num_labels,
        revision=revision,
        place=place,
        key=key,
    )
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return loaded.model, loaded.params


def load_checkpoint(
    source: str | Path,
    *,
    task: str = CAUSAL_LM,
    dtype: DTypeLike = "float32",
    num_labels: int | None = None,
    revision: str | None = None,
    place: Place | None = None,
    key: jax.Array | None = None,
) -> Loaded:
    """As `load_pretrained`, with notes to show a person instead of warnings."""
    folder = resolve_folder(source, revision)
    model = load_model(folder, task=task, dtype=dtype, num_labels=num_labels)
    kind, does = MODEL_TYPES[model.config.model_type], _task(model.config.model_type, task)
    checkpoint = Checkpoint(folder)
    model = _tied(model, kind.tied_by_weights, "lm_head.weight" not in checkpoint.headers)
    reading = compare(kind.names, abstract_params(model), checkpoint, does.head)
    key = jax.random.key(0) if key is None else key

    def start(entry: Entry) -> np.ndarray:
        return _fresh(entry, key, model.config.init_std)

    place = place or (lambda path, value: jnp.asarray(value))
    params = read_params(reading, checkpoint, jnp.dtype(dtype), place, start)
    names = [name for entry in reading.fresh for name in entry.names]
    notes = (
        [f"{folder} has no such head for {model.labels} labels; starting fresh: {', '.join(names)}"]
        if names
        else []
    )
    modules = [tuple(module.split(".")) for module in does.head]
    fresh = tuple(m for m in modules if any(entry.path[: len(m)] == m for entry in reading.fresh))
    return Loaded(model, params, notes, fresh, _stored_labels(reading, checkpoint))


def load_model(
    source: str | Path,
    *,
    task: str = CAUSAL_LM,
    dtype: DTypeLike = "float32",
    num_labels: int | None = None,
    revision: str | None = None,
) -> Model:
    """The model a folder's config.json describes, without its weights; arguments as for `load_pretrained`."""
    hf = _hf_config(resolve_folder(source, revision))
    module, config = _task(hf.model_type, task).module, MODEL_TYPES[hf.model_type].parse(hf)
    labels = {"labels": num_labels or hf.num_labels} if issubclass(module, Classifier) else {}
    return module(config, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), **labels)


def init_params(model: Model, key: jax.Array) -> dict:
    """Fresh random parameters, stored in the model's param_dtype.

    Args:
        model: the module.
        key: a random key.

    Returns:
        The parameters, as `load_pretrained` has them.
    """
    return jax.jit(model.init)(key, jnp.zeros((1, 1), jnp.int32))["params"]


def abstract_params(model: Model) -> dict:
    """The parameters' shapes and types alone, as jax.ShapeDtypeStruct."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def save_pretrained(
    folder: str | Path,
    params: dict,
    *,
    source: str | Path,
    task: str = CAUSAL_LM,
    num_labels: int | None = None,
    label_names: Sequence[str] = (),
    pad_token_id: int | None = None,
    revision: str | None = None,
    max_bytes: int = 5 * 10**9,
) -> Path:
    """Writes a Hugging Face folder: config.json, safetensors, and the tokenizer of the source.

    Args:
        folder: where; weights that are there are replaced.
        params: the whole model's parameters, in the type they are to be stored in.
        source: the folder or hub id they come from, whose configuration and tokenizer are copied.
        task, num_labels: what the model does, as when it was loaded.
        label_names: the classes' names, for config.json; Hugging Face's LABEL_0, ... where the source has none.
        pad_token_id: what batches are filled up with, for config.json where the source has none: without it,
            Hugging Face's decoders classify one text at a time.
        revision: the hub's branch, tag or commit.
        max_bytes: more than this is split over several files with an index.

    Returns:
        The folder.

    Raises:
        BadInput: the parameters are not those of the source's configuration, or the folder is the source.
    """
    folder, origin = Path(folder), resolve_folder(source, revision)
    if folder.resolve() == origin.resolve():
        raise BadInput(
            f"{folder} is the folder the model comes from; accepted: another folder to save into"
        )
    model = load_model(origin, task=task, num_labels=num_labels)
    kind = MODEL_TYPES[model.config.model_type]
    _check_params(
        params, abstract_params(_tied(model, kind.tied_by_weights, "lm_head" not in params))
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder, parts(kind.names, params), max_bytes)
    for pattern in ("generation_config.json", *TOKENIZER_FILES):
        for path in origin.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    dtype = jax.tree.leaves(params)[0].dtype
    config = _saved_config(read_json(origin / "config.json"), model, task, dtype, label_names)
    if pad_token_id is not None and model.config.pad_token_id is None:
        config["pad_token_id"] = pad_token_id
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _saved_config(
    config: dict, model: Model, task: str, dtype: np.dtype, label_names: Sequence[str]
) -> dict:
    config = {key: value for key, value in config.items() if key != "torch_dtype"}
    config |= {
        "dtype": str(dtype),
        "architectures": [_task(model.config.model_type, task).architecture],
    }
    if isinstance(model, Classifier) and (
        label_names or len(config.get("id2label", ())) != model.labels
    ):
        labels = {
            str(i): name
            for i, name in enumerate(label_names or [f"LABEL_{i}" for i in range(model.labels)])
        }
        config |= {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
    return config


def _hf_config(folder: Path) -> PretrainedConfig:
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        raise BadInput(
            f"{folder}/config.json's model_type is {kind!r}; accepted: {', '.join(MODEL_TYPES)}"
        )
    if "quantization_config" in raw:
        raise BadInput(
            f"{folder}/config.json has a quantization_config; accepted: weights that are not quantized"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{folder}/config.json is not a valid {kind} configuration ({reason})"
        ) from error


def _task(model_type: str, task: str) -> Task:
    tasks = MODEL_TYPES[model_type].tasks
    if task not in tasks:
        raise BadInput(
            f"task is {task!r}, which {model_type} models do not do here; accepted: {', '.join(tasks)}"
        )
    return tasks[task]


def _tied(model: Model, by_weights: bool, tied: bool) -> Model:
    """The model with its head tied or not as the weights have it, where it is they that tell."""
    return model.clone(config=dataclasses.replace(model.config, tied=tied)) if by_weights else model


def _stored_labels(reading: Reading, checkpoint: Checkpoint) -> int | None:
    """The rows of the checkpoint's last head layer, if it is there and does not fit."""
    for entry in reading.fresh:
        if entry.names[0] in reading.stored and entry.path[-1] == "kernel":
            return checkpoint.headers[reading.stored[entry.names[0]]].shape[0]
    return None


def _fresh(entry: Entry, key: jax.Array, std: float) -> np.ndarray:
    """A kernel starts normal, a bias at zero, a scale at one; each leaf from its own key."""
    if entry.path[-1] != "kernel":
        return np.full(entry.shape, 1.0 if entry.path[-1] == "scale" else 0.0, np.float32)
    key = jax.random.fold_in(key, zlib.crc32(".".join(entry.path).encode()))
    return np.asarray(std * jax.random.normal(key, entry.shape))


def _check_params(params: dict, shapes: dict) -> None:
    def described(tree: dict) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in leaves
        }

    given, wanted = described(params), described(shapes)
    wrong = sorted(
        name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name)
    )
    if wrong:
        raise BadInput(
            f"the parameters to save are missing, unexpected or misshapen: {', '.join(wrong)}"
        )
