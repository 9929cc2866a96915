"""The options of adapter_config.json: the function that they give to the two factors."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from balora_jax.adapters.peft_format.files import require_file
from balora_jax.adapters.peft_format.names import CONFIG
from balora_jax.errors import BadInput, reason_of, shown

# Larger files are no configuration.
MOST_BYTES = 4 * 2**20
# The scale and its root stay in the range of float32.
LARGEST = 10**9
SMALLEST = 1e-9
# Starts that leave the base as it is.
BASE_UNCHANGED = ("gaussian", "eva", "orthogonal", "mica")
# Starts that take a part out of the base's kernels, which can be computed from them again.
RECOMPUTED = ("pissa", "olora")
CONVERSION = (
    "the adapter saved by PEFT's save_pretrained with path_initial_model_for_weight_conversion, "
    "or init_lora_weights true and as model.source the changed base that it was trained on"
)
# Options that do not change what the stored factors compute: those of the base and the training.
WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "velora_config",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that give the factors their function.

    Attributes:
      rank: rows of every lora_A, but for those of `ranks`.
      alpha: rank or its root times the factor of B A, but for those of `alphas`.
      ranks: pattern -> rank of the layers that it matches.
      alphas: pattern -> alpha, likewise.
      rank_stabilized: True if alpha is divided by the root of the rank.
      recomputed: pissa or olora if the base lacks the initial factors; None if it is the original.
      targets: names of adapted layers, or a regular expression; None if they are the model's.
      excluded: names of layers that are not adapted, or a regular expression.
      indices: of the adapted layers in their stacks; None for all.
      stacks: patterns of the stacks that `indices` count in; empty for all.
      tied: True if the head is adapted together with the embedding that it is tied to.
      saved: names of modules that are trained whole.
      task: PEFT's type of the task.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    recomputed: str | None
    targets: str | tuple[str, ...] | None
    excluded: str | tuple[str, ...]
    indices: frozenset[int] | None
    stacks: tuple[str, ...]
    tied: bool
    saved: tuple[str, ...]
    task: Any


class _Check(NamedTuple):
    """The value of an option that is not there, the check of its value, and the accepted values."""

    default: Any
    accepts: Callable[[Any], bool]
    accepted: str


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_bool_or_null(value: Any) -> bool:
    return value is None or _is_bool(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_alpha(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Comparisons with nan are false.
    return is_number and SMALLEST <= value <= LARGEST


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_names_or_null(value: Any) -> bool:
    return value is None or _is_names(value)


def _is_targets(value: Any) -> bool:
    return isinstance(value, str) or _is_names_or_null(value)


def _is_start(value: Any) -> bool:
    return isinstance(value, bool | str)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_indices(value: Any) -> bool:
    is_list = isinstance(value, list) and all(_is_index(index) for index in value)
    return value is None or is_list or _is_index(value)


def _is_ranks(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_rank, value.values())))


def _is_alphas(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_alpha, value.values())))


RANKS = f"a whole number from 1 to {LARGEST}"
ALPHAS = f"a number from {SMALLEST} to {LARGEST}"
CHECKS = {
    "peft_type": _Check(None, lambda value: value == "LORA", "LORA"),
    "r": _Check(8, _is_rank, RANKS),
    "lora_alpha": _Check(8, _is_alpha, ALPHAS),
    "rank_pattern": _Check(None, _is_ranks, f"null, {{pattern: {RANKS}}}"),
    "alpha_pattern": _Check(None, _is_alphas, f"null, {{pattern: {ALPHAS}}}"),
    "use_rslora": _Check(False, _is_bool, "true, false"),
    "fan_in_fan_out": _Check(False, _is_bool, "true, false"),
    "bias": _Check("none", lambda value: value == "none", "none"),
    "target_modules": _Check(None, _is_targets, "null, a string, a list of strings"),
    "exclude_modules": _Check(None, _is_targets, "null, a string, a list of strings"),
    "layers_to_transform": _Check(None, _is_indices, "null, a whole number, a list of them"),
    "layers_pattern": _Check(None, _is_targets, "null, a string, a list of strings"),
    "ensure_weight_tying": _Check(None, _is_bool_or_null, "null, true, false"),
    "modules_to_save": _Check(None, _is_names_or_null, "null, a list of strings"),
    "init_lora_weights": _Check(True, _is_start, "true, false, a string"),
}


def read_settings(folder: pathlib.Path) -> Settings:
    """Read and check adapter_config.json.

    Args:
      folder: PEFT's folder.

    Returns:
      The settings.

    Raises:
      BadInput: the file cannot be read, or an option has a wrong value or one with which the
        factors are no LoRA on the original base.
    """
    path = require_file(folder, CONFIG)
    options = _read_options(path)
    values = {}
    task = options.pop("task_type", None)
    for name, check in CHECKS.items():
        values[name] = options.pop(name, check.default)
        if not check.accepts(values[name]):
            raise BadInput(f"{path}: {name} is {shown(values[name])}; accepted: {check.accepted}")
    for name, value in options.items():
        if name not in WITHOUT_EFFECT and value:
            raise BadInput(
                f"{path}: {shown(name)} is {shown(value)}, which may make the adapter more than "
                "one product B A per layer; accepted: this option null or absent"
            )
    targets = _names(values["target_modules"])
    stacks = _names(values["layers_pattern"]) or ()
    indices = values["layers_to_transform"]
    indices = [indices] if isinstance(indices, int) else indices
    if indices and isinstance(targets, str):
        raise BadInput(
            f"{path}: target_modules is the string {shown(targets)}, with layers_to_transform; "
            "accepted: a list of strings, as for PEFT, or layers_to_transform null"
        )
    if stacks and not indices:
        raise BadInput(
            f"{path}: layers_pattern is {shown(values['layers_pattern'])} without "
            "layers_to_transform; accepted: both, as for PEFT, or none"
        )
    return Settings(
        rank=values["r"],
        alpha=values["lora_alpha"],
        ranks=values["rank_pattern"] or {},
        alphas=values["alpha_pattern"] or {},
        rank_stabilized=values["use_rslora"],
        recomputed=_recomputed(path, values["init_lora_weights"], values["fan_in_fan_out"]),
        targets=targets,
        excluded=_names(values["exclude_modules"]) or (),
        indices=frozenset(indices) if indices else None,
        stacks=(stacks,) if isinstance(stacks, str) else stacks,
        tied=bool(values["ensure_weight_tying"]),
        saved=tuple(values["modules_to_save"] or ()),
        task=task,
    )


def _names(value: str | list[str] | None) -> str | tuple[str, ...] | None:
    """The value of an option that is a regular expression or names, unchangeable."""
    return tuple(value) if isinstance(value, list) else value


def _recomputed(path: pathlib.Path, start: bool | str, fan_in_fan_out: bool) -> str | None:
    """The start whose initial factors the base lacks; None if the base is the original."""
    name = start.lower() if isinstance(start, str) else None
    if name is None or name in BASE_UNCHANGED:
        return None
    if name not in RECOMPUTED:
        raise BadInput(
            f"{path}: init_lora_weights is {shown(start)}: the adapter belongs to a changed base, "
            f"which cannot be computed again from the original; accepted: {CONVERSION}"
        )
    if name == "olora" and fan_in_fan_out:
        raise BadInput(
            f"{path}: init_lora_weights is 'olora' and fan_in_fan_out is true, for which PEFT "
            f"defines no OLoRA; accepted: {CONVERSION}"
        )
    return name


def _read_options(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object in which no name is repeated."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        options = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read ({reason_of(error)}); accepted: a JSON object, as PEFT saves it"
        ) from error
    if not isinstance(options, dict):
        raise BadInput(f"{path} holds {shown(options)}; accepted: a JSON object, as PEFT saves it")
    return options


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise ValueError(f"{shown(name)} is there twice")
        names.add(name)
    return dict(pairs)
