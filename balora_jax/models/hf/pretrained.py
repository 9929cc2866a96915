"""Load models from Hugging Face folders, and save them as such."""

import collections
import dataclasses
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from balora_jax.errors import BadInput
from balora_jax.models.base import CausalLM, Classifier, Model
from balora_jax.models.hf.checkpoint import (
    Checkpoint,
    resolve_folder,
    write_checkpoint,
)
from balora_jax.models.hf.config_file import CONFIG_FILE, read_config
from balora_jax.models.hf.files import copied_files, has_file, read_json
from balora_jax.models.hf.names import (
    Match,
    TableEntry,
    beside_kept,
    match_checkpoint,
    tensors_of,
)
from balora_jax.models.hf.reading import ShardingOf, read_params
from balora_jax.models.hf.registry import CAUSAL_LM, MODEL_TYPES, Task

GENERATION = "generation_config.json"
# No vocabulary has as many.
LARGEST_TOKEN = 2**31


class Loaded(NamedTuple):
    """A loaded model.

    Attributes:
      model: the Linen module.
      params: its parameters.
      notes: sentences for a person to read, such as that the head starts fresh.
      fresh: the paths of the head's modules that start fresh.
      stored_labels: the number of labels of the checkpoint's head if the model has another number.
      pretrained: the modules of a language model that an adapter's have taken the place of; None if
        there are none.
    """

    model: Model
    params: dict
    notes: list[str]
    fresh: tuple[tuple[str, ...], ...] = ()
    stored_labels: int | None = None
    pretrained: dict | None = None


def load_pretrained(
    source: str | Path,
    *,
    task: str = CAUSAL_LM,
    dtype: DTypeLike = "float32",
    num_labels: int | None = None,
    revision: str | None = None,
    sharding_of: ShardingOf | None = None,
    key: jax.Array | None = None,
) -> tuple[Model, dict]:
    """Load a pre-trained model; notes such as a fresh head become warnings.

    Args:
      source: a Hugging Face folder (config.json and safetensors) or a hub id.
      task: "causal-lm", "seq2seq-lm" or "sequence-classification".
      dtype: element type of the parameters and of the computation; `model.clone(dtype=...)`
        changes the latter.
      num_labels: outputs of the classification head; those of the checkpoint if None.
      revision: the hub's branch, tag or commit.
      sharding_of: gives the sharding of a parameter, by its path and its shape; the default device
        if None.
      key: random key of a head that the checkpoint lacks; jax.random.key(0) if None.

    Returns:
      The Linen module and its parameters, named as Hugging Face's, with layers stacked on the
      leading axis.

    Raises:
      BadInput: the folder, its configuration or its weights cannot be used.
    """
    loaded = load_checkpoint(
        source,
        task=task,
        dtype=dtype,
        num_labels=num_labels,
        revision=revision,
        sharding_of=sharding_of,
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
    sharding_of: ShardingOf | None = None,
    key: jax.Array | None = None,
) -> Loaded:
    """Load a pre-trained model together with notes on how it was loaded.

    Args:
      source: as for `load_pretrained`, like the other arguments.
      task: the model's task.
      dtype: element type of the parameters and of the computation.
      num_labels: outputs of the classification head.
      revision: the hub's branch, tag or commit.
      sharding_of: gives the sharding of a parameter.
      key: random key of a head that the checkpoint lacks.

    Returns:
      The model, its parameters and the notes.

    Raises:
      BadInput: the folder, its configuration or its weights cannot be used.
    """
    folder = resolve_folder(source, revision)
    model = load_model(folder, task=task, dtype=dtype, num_labels=num_labels)
    model_type = MODEL_TYPES[model.config.model_type]
    head = _task(model.config.model_type, task).head
    checkpoint = Checkpoint(folder)
    if model_type.tied_by_weights:
        model = _with_tied(model, "lm_head.weight" not in checkpoint.headers)
    match = match_checkpoint(model_type.naming, abstract_params(model), checkpoint, head)

    if key is None:
        key = jax.random.key(0)

    def initialize(entry: TableEntry) -> np.ndarray:
        return _initial_value(entry, key, model.config.init_std)

    params = read_params(match, checkpoint, jnp.dtype(dtype), sharding_of, initialize)
    return Loaded(
        model=model,
        params=params,
        notes=_notes(folder, model, match),
        fresh=_fresh_modules(head, match),
        stored_labels=_stored_labels(match, checkpoint),
    )


def tasks_of(source: str | Path, revision: str | None = None) -> tuple[str, ...]:
    """List the tasks of a pre-trained model; none for an unknown model type.

    Args:
      source: as for `load_pretrained`.
      revision: likewise.

    Raises:
      BadInput: the folder or its configuration cannot be used.
    """
    model_type = read_config(resolve_folder(source, revision)).model_type
    return tuple(MODEL_TYPES[model_type].tasks) if model_type in MODEL_TYPES else ()


def end_ids(source: str | Path, revision: str | None = None) -> tuple[int, ...]:
    """Read the tokens that end a generated text from generation_config.json, such as a turn's end.

    Args:
      source: as for `load_pretrained`.
      revision: likewise.

    Returns:
      The tokens; none where the folder has no such file.

    Raises:
      BadInput: the file cannot be used.
    """
    folder = resolve_folder(source, revision)
    if not has_file(folder, GENERATION):
        return ()
    value = read_json(folder / GENERATION).get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and 0 <= token < LARGEST_TOKEN for token in found):
        raise BadInput(
            f"{folder / GENERATION} has eos_token_id {value!r:.100}; accepted: a token, or a list "
            "of them"
        )
    return tuple(found)


def _notes(folder: Path, model: Model, match: Match) -> list[str]:
    if not match.fresh:
        return []
    names = ", ".join(name for entry in match.fresh for name in entry.names)
    return [f"{folder} has no such head for {model.labels} labels; starting fresh: {names}"]


def _fresh_modules(head: tuple[str, ...], match: Match) -> tuple[tuple[str, ...], ...]:
    """Return the paths of the head's modules that have a fresh parameter."""
    fresh = []
    for module in head:
        path = tuple(module.split("."))
        if any(entry.path[: len(path)] == path for entry in match.fresh):
            fresh.append(path)
    return tuple(fresh)


def load_model(
    source: str | Path,
    *,
    task: str = CAUSAL_LM,
    dtype: DTypeLike = "float32",
    num_labels: int | None = None,
    revision: str | None = None,
) -> Model:
    """Create the model that a folder's config.json describes, without its weights.

    Args:
      source: as for `load_pretrained`, like the other arguments.
      task: the model's task.
      dtype: element type of fresh parameters and of the computation.
      num_labels: outputs of the classification head.
      revision: the hub's branch, tag or commit.

    Returns:
      The Linen module.

    Raises:
      BadInput: the folder or its configuration cannot be used.
    """
    folder = resolve_folder(source, revision)
    # Saving copies these files; a bad one is found before anything is trained.
    copied_files(folder)
    hf_config = read_config(folder)
    module = _task(hf_config.model_type, task).module
    try:
        config = MODEL_TYPES[hf_config.model_type].parse(hf_config)
    except BadInput as error:
        # The sentence starts with the name of config.json.
        raise BadInput(f"{folder}/{error}") from error
    dtype = jnp.dtype(dtype)
    if issubclass(module, Classifier):
        labels = num_labels or hf_config.num_labels
        return module(config, dtype=dtype, param_dtype=dtype, labels=labels)
    return module(config, dtype=dtype, param_dtype=dtype)


def init_params(model: Model, key: jax.Array, sharding_of: ShardingOf | None = None) -> dict:
    """Create random parameters, each part on its device.

    Args:
      model: the module.
      key: a random key.
      sharding_of: as for `load_pretrained`.

    Returns:
      The parameters, of the model's param_dtype; a nested dict, as `load_pretrained` returns it.

    Raises:
      BadInput: they would not fit into the memory of a device.
    """
    shapes = abstract_params(model)
    if sharding_of is None:
        _check_memory(model, [leaf.shape for leaf in jax.tree.leaves(shapes)])
        return _random_params(model, key)
    flat = flatten_dict(shapes)
    shardings = {path: sharding_of(path, leaf.shape) for path, leaf in flat.items()}
    _check_memory(model, [shardings[path].shard_shape(leaf.shape) for path, leaf in flat.items()])
    return _random_params(model, key, unflatten_dict(shardings))


def _random_params(model: Model, key: jax.Array, shardings: dict | None = None) -> dict:
    input_ids = jnp.zeros((1, 1), jnp.int32)

    def init(key: jax.Array) -> dict:
        return model.init(key, input_ids)["params"]

    return jax.jit(init, out_shardings=shardings)(key)


def _check_memory(model: Model, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise BadInput if a device's part of the parameters is larger than its memory."""
    size = jnp.dtype(model.param_dtype).itemsize
    needed = sum(math.prod(shape) * size for shape in shapes)
    limits = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = limits.get("bytes_limit", machine)
    if needed > memory:
        raise BadInput(
            f"config.json describes a {model.config.model_type} model of {needed / 2**30:,.1f} GiB "
            f"a device and there are {memory / 2**30:,.1f} GiB of memory; accepted: smaller sizes"
        )


def abstract_params(model: Model) -> dict:
    """Compute the parameters' shapes and element types.

    Args:
      model: the module.

    Returns:
      A nested dict of jax.ShapeDtypeStruct.
    """
    return jax.eval_shape(lambda: _random_params(model, jax.random.key(0)))


def check_attention_of(model: Model, length: int) -> None:
    """Check that the model's implementation of attention has all that the model needs.

    Args:
      model: the module.
      length: tokens of the longest text.

    Raises:
      BadInput: it lacks something.
    """
    key = jax.random.key(0)
    keys = {"params": key, "dropout": key}
    input_ids = jnp.zeros((1, length), jnp.int32)
    jax.eval_shape(lambda: model.init(keys, input_ids, deterministic=False))


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
    max_bytes: int = 5 * 10**8,
) -> Path:
    """Write a Hugging Face folder: config.json, safetensors, and the tokenizer of the source.

    Args:
      folder: the folder to write; weights in it are replaced.
      params: the whole model's parameters, of the element type to store. With an `lm_head` where
        that of the source is tied, the saved model is not.
      source: the folder or hub id they come from, whose configuration and tokenizer are copied.
      task: the model's task, as when it was loaded.
      num_labels: outputs of the classification head, as when it was loaded.
      label_names: the classes' names, for config.json; LABEL_0, ... if empty.
      pad_token_id: the token of padding, for config.json if the source has none: without it,
        Hugging Face's decoders classify one text at a time.
      revision: the hub's branch, tag or commit.
      max_bytes: the size above which the weights are split over several files with an index. Those
        of one file are on the host at a time.

    Returns:
      The folder.

    Raises:
      BadInput: the parameters do not fit the source's configuration, or the folder is the source.
    """
    folder = Path(folder)
    origin = resolve_folder(source, revision)
    if folder.resolve() == origin.resolve():
        raise BadInput(
            f"{folder} is the folder the model comes from; accepted: another folder to save into"
        )
    model = load_model(origin, task=task, num_labels=num_labels)
    model_type = MODEL_TYPES[model.config.model_type]
    is_tied = getattr(model.config, "tied", False)
    if model_type.tied_by_weights or isinstance(model, CausalLM):
        model = _with_tied(model, "lm_head" not in params)
    _check_params(params, abstract_params(model))

    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(model_type.naming, params)
    if model_type.naming.kept is not None:
        tensors = beside_kept(model_type.naming, tensors, Checkpoint(origin))
    write_checkpoint(folder, tensors, max_bytes)
    _copy(origin, folder, copied_files(origin))

    # Modules that were trained whole are in float32, beside weights that may not be.
    sizes: collections.Counter[np.dtype] = collections.Counter()
    for leaf in jax.tree.leaves(params):
        sizes[np.dtype(leaf.dtype)] += leaf.size
    [(dtype, _)] = sizes.most_common(1)
    config = _config_to_save(read_json(origin / CONFIG_FILE), model, task, dtype, label_names)
    if is_tied and isinstance(model, CausalLM) and not model.config.tied:
        config["tie_word_embeddings"] = False
    if pad_token_id is not None and model.config.pad_token_id is None:
        config["pad_token_id"] = pad_token_id
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def gather_tensors(model: Model, params: dict) -> None:
    """Take part in another process's `save_pretrained`, which needs the parts that are here.

    Args:
      model: the module.
      params: as for `save_pretrained`.
    """
    for tensor in tensors_of(MODEL_TYPES[model.config.model_type].naming, params):
        tensor.make()


def copy_tokenizer(source: str | Path, folder: Path, revision: str | None = None) -> None:
    """Copy a model's tokenizer files and chat templates.

    Args:
      source: a Hugging Face folder or hub id.
      folder: the folder to write into.
      revision: the hub's branch, tag or commit.

    Raises:
      BadInput: one of them is no regular file, or the hub cannot provide the model.
    """
    origin = resolve_folder(source, revision)
    _copy(origin, folder, [name for name in copied_files(origin) if name != GENERATION])


def _copy(origin: Path, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(origin / name, folder / name)


def _config_to_save(
    config: dict, model: Model, task: str, dtype: np.dtype, label_names: Sequence[str]
) -> dict:
    """Adapt the source's config.json to the saved model's element type, task and labels."""
    config = dict(config)
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype)
    config["architectures"] = [_task(model.config.model_type, task).architecture]
    if not isinstance(model, Classifier):
        return config

    other_number = len(config.get("id2label") or ()) != model.labels
    if label_names or other_number:
        if not label_names:
            label_names = [f"LABEL_{i}" for i in range(model.labels)]
        config["id2label"] = {str(i): name for i, name in enumerate(label_names)}
        config["label2id"] = {name: i for i, name in enumerate(label_names)}
    return config


def _task(model_type: str, task: str) -> Task:
    tasks = MODEL_TYPES[model_type].tasks
    if task not in tasks:
        accepted = ", ".join(tasks)
        raise BadInput(
            f"task is {task!r}, which {model_type} models do not do here; accepted: {accepted}"
        )
    return tasks[task]


def _with_tied(model: Model, tied: bool) -> Model:
    """Return the model with its head tied to the embedding, or not."""
    return model.clone(config=dataclasses.replace(model.config, tied=tied))


def _stored_labels(match: Match, checkpoint: Checkpoint) -> int | None:
    """Return the labels of the checkpoint's head if it has one that does not fit, else None."""
    for entry in match.fresh:
        name = entry.names[0]
        if name in match.stored_names and entry.path[-1] == "kernel":
            header = checkpoint.headers[match.stored_names[name]]
            return header.shape[0]
    return None


def _initial_value(entry: TableEntry, key: jax.Array, std: float) -> np.ndarray:
    """Initialize a parameter of a fresh head.

    Args:
      entry: the parameter.
      key: the head's random key; each parameter derives its own from it.
      std: standard deviation of a kernel.

    Returns:
      A normal kernel, a bias of zeros or a scale of ones; float32.
    """
    leaf = entry.path[-1]
    if leaf == "scale":
        return np.ones(entry.shape, np.float32)
    if leaf != "kernel":
        return np.zeros(entry.shape, np.float32)
    key = jax.random.fold_in(key, zlib.crc32(".".join(entry.path).encode()))
    return np.asarray(std * jax.random.normal(key, entry.shape))


def _check_params(params: dict, expected: dict) -> None:
    """Raise BadInput if parameters are missing, unexpected or misshapen; it names all of them."""
    shapes = _shapes_by_name(params)
    expected_shapes = _shapes_by_name(expected)
    names = shapes.keys() | expected_shapes.keys()
    wrong = sorted(name for name in names if shapes.get(name) != expected_shapes.get(name))
    if wrong:
        raise BadInput(
            f"the parameters to save are missing, unexpected or misshapen: {', '.join(wrong)}"
        )


def _shapes_by_name(tree: dict) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shapes[name] = tuple(leaf.shape)
    return shapes
