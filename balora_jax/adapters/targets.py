"""Which kernels get an adapter: patterns in, paths out, and nothing silently unmatched."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import traverse_util

from balora_jax.errors import BadInput

Path = tuple[str, ...]
ALL_LINEAR = "all-linear"
# Task heads: PEFT's all-linear leaves these alone too.
HEADS = frozenset({"lm_head", "score", "classifier", "classification_head", "pooler"})


def dotted(path: Path) -> str:
    """The path as people write it: model.layers.self_attn.q_proj."""
    return ".".join(path)


def linear_kernels(params: Mapping[str, Any]) -> dict[Path, tuple[int, ...]]:
    """Paths of all linear layers and the shapes of their kernels, [in, out] or [layers, in, out]."""
    flat = traverse_util.flatten_dict(params)
    return {
        path[:-1]: leaf.shape
        for path, leaf in flat.items()
        if path[-1] == "kernel" and leaf.ndim in (2, 3)
    }


def match_targets(patterns: str | Iterable[str], params: Mapping[str, Any]) -> list[Path]:
    """The linear layers that the patterns name, sorted.

    Args:
      patterns: `all-linear` (every linear layer but the task head), or one or several patterns. A pattern
        is the end of a dotted path (`q_proj`, `self_attn.q_proj`) or a regular expression that matches
        the whole of it (`.*layers.*_proj`).
      params: the frozen tree; layers are its dicts with a `kernel`.

    Raises:
      BadInput: a pattern that matches nothing, or is no regular expression; says what there is to match.
    """
    kernels = linear_kernels(params)
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen: set[Path] = set()
    for pattern in given:
        if pattern == ALL_LINEAR:
            matched = {path for path in kernels if not HEADS.intersection(path)}
        else:
            matched = {path for path in kernels if _matches(pattern, dotted(path))}
        if not matched:
            names = ", ".join(sorted(dotted(path) for path in kernels)) or "none"
            raise BadInput(
                f"adapter.targets: {pattern!r} matches no linear layer; accepted: all-linear, or of {names}"
            )
        chosen |= matched
    return sorted(chosen)


def _matches(pattern: str, name: str) -> bool:
    if name == pattern or name.endswith("." + pattern):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise BadInput(
            f"adapter.targets: {pattern!r} is no layer's name and no regular expression ({error})"
        ) from error


def check_rank(rank: int, paths: Iterable[Path], params: Mapping[str, Any]) -> None:
    """Raises BadInput when the rank exceeds the smaller side of a target's kernel."""
    kernels = linear_kernels(params)
    for path in paths:
        fan_in, fan_out = kernels[path][-2:]
        if rank > min(fan_in, fan_out):
            raise BadInput(
                f"adapter.rank is {rank}, larger than the smaller side of {dotted(path)} ({fan_in} x {fan_out}); "
                f"accepted: at most {min(fan_in, fan_out)}, or other targets"
            )
