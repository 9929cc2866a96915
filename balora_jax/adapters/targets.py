"""The layers that get adapters: patterns matched against the paths of all linear layers."""

from collections.abc import Iterable, Mapping
from typing import Any

import regex
from flax import traverse_util

from balora_jax.config.adapter import PAPER_TARGETS
from balora_jax.errors import BadInput, listed, shown

# Keys of lists of modules, as NNX has them, are numbers.
Path = tuple[str | int, ...]
ALL_LINEAR = "all-linear"
# Seconds to match a pattern with a name; some patterns take longer than the universe exists.
LONGEST_MATCH = 1.0
# Task heads, which all-linear leaves out, as in PEFT.
HEADS = frozenset({"lm_head", "score", "classifier", "classification_head", "pooler"})
# Layers that hold several of the paper's in one kernel.
FUSED = ("qkv_proj", "gate_up_proj")


def dotted(path: Path) -> str:
    """Join a path with dots: model.layers.self_attn.q_proj."""
    return ".".join(map(str, path))


def linear_kernels(params: Mapping[str, Any]) -> dict[Path, tuple[int, ...]]:
    """The paths of all linear layers and the shapes of their kernels.

        {"q": {"kernel": [4, 6], "bias": [6]}, "norm": {"scale": [6]}}  ->  {("q",): (4, 6)}

    Args:
      params: nested dict of arrays.

    Returns:
      path -> (in, out) or (layers, in, out).
    """
    flat = traverse_util.flatten_dict(params)
    return {
        path[:-1]: leaf.shape
        for path, leaf in flat.items()
        if path[-1] == "kernel" and leaf.ndim in (2, 3)
    }


def embedding_tables(params: Mapping[str, Any]) -> dict[Path, tuple[int, ...]]:
    """The paths of all embeddings and the shapes of their tables.

        {"embed_tokens": {"embedding": [9, 4]}, "q": {"kernel": [4, 6]}}  ->
          {("embed_tokens",): (9, 4)}

    Args:
      params: nested dict of arrays.

    Returns:
      path -> (rows, size). An adapter's A and B belong to a table as to a kernel, of which the rows
      are the inputs.
    """
    flat = traverse_util.flatten_dict(params)
    return {
        path[:-1]: leaf.shape
        for path, leaf in flat.items()
        if path[-1] == "embedding" and leaf.ndim == 2
    }


def adapted_leaf(flat: Mapping[Path, Any], path: Path) -> Path:
    """The path of the matrix that an adapter changes: a layer's kernel, or an embedding's table.

    Args:
      flat: parameters by their paths.
      path: the layer's.
    """
    kernel = (*path, "kernel")
    return kernel if kernel in flat else (*path, "embedding")


def match_targets(patterns: str | Iterable[str], params: Mapping[str, Any]) -> list[Path]:
    """The paths of the linear layers and embeddings that the patterns match, sorted.

    Args:
      patterns: one or several patterns. `all-linear` matches every linear layer but the task head.
        Any other pattern matches a dotted path that ends in it (`q_proj`, `self_attn.q_proj`), or
        is a regular expression that matches the whole dotted path (`.*layers.*_proj`). An embedding
        is matched by its name alone (`embed_tokens`). The paper's seven names together, a run's
        default, stand for those of them that the model has and for the layers that hold several of
        them (Phi 3).
      params: frozen parameters; their layers are the dicts with a `kernel`
        or an `embedding`.

    Raises:
      BadInput: a pattern matches nothing or is no regular expression. The message lists the layers.
    """
    kernels = linear_kernels(params)
    tables = embedding_tables(params)
    pattern_list = [patterns] if isinstance(patterns, str) else list(patterns)
    if pattern_list == list(PAPER_TARGETS):
        pattern_list = _default_targets(kernels)
    chosen: set[Path] = set()
    for pattern in pattern_list:
        if pattern == ALL_LINEAR:
            matched = {path for path in kernels if not HEADS.intersection(path)}
        else:
            matched = {
                path for path in kernels if _matches("adapter.targets", pattern, dotted(path))
            }
            matched |= {path for path in tables if _is_named(pattern, dotted(path))}
        if not matched:
            names = ", ".join(sorted(dotted(path) for path in kernels | tables)) or "none"
            raise BadInput(
                f"adapter.targets: {pattern!r} matches no linear layer; "
                f"accepted: all-linear, or of {names}"
            )
        chosen |= matched
    return sorted(chosen, key=lambda path: tuple(map(str, path)))


def layers_matching(option: str, pattern: str, paths: Iterable[Path]) -> list[Path]:
    """The paths that a pattern matches, or that lie in a module that it matches.

    Args:
      option: the option that has the pattern, for messages.
      pattern: as for `match_targets`, without `all-linear`.
      paths: of layers.

    Raises:
      BadInput: the pattern matches nothing or is no regular expression.
    """
    layers = list(dict.fromkeys(paths))
    found = [path for path in layers if is_inside(option, pattern, path)]
    if not found:
        raise BadInput(
            f"{option}: {shown(pattern)} matches no such layer; "
            f"accepted: of {listed(sorted(map(dotted, layers))) or 'none'}"
        )
    return found


def is_inside(option: str, pattern: str, path: Path) -> bool:
    """Return True if a pattern matches a path, or a module that it lies in.

    Args:
      option: as for `layers_matching`.
      pattern: likewise.
      path: of a layer.
    """
    ends = range(1, len(path) + 1)
    return any(_matches(option, pattern, dotted(path[:end])) for end in ends)


def _default_targets(kernels: Mapping[Path, tuple[int, ...]]) -> list[str]:
    """The paper's layers as a model has them; all seven names if it has none of them."""
    names = {path[-1] for path in kernels}
    found = [name for name in (*PAPER_TARGETS, *FUSED) if name in names]
    return found or list(PAPER_TARGETS)


def _matches(option: str, pattern: str, name: str) -> bool:
    """Return True if the dotted path ends in the pattern or matches it as a regular expression."""
    if _is_named(pattern, name):
        return True
    try:
        return regex.fullmatch(pattern, name, timeout=LONGEST_MATCH) is not None
    except regex.error as error:
        raise BadInput(
            f"{option}: {pattern!r:.200} is no layer's name and no regular expression "
            f"({error}); accepted: names, or regular expressions"
        ) from error
    except TimeoutError as error:
        raise BadInput(
            f"{option}: {pattern!r:.200} takes more than {LONGEST_MATCH} s to match {name}; "
            "accepted: a simpler regular expression, without nested repetitions"
        ) from error


def _is_named(pattern: str, name: str) -> bool:
    """Return True if the dotted path ends in the pattern."""
    return name == pattern or name.endswith("." + pattern)


def check_rank(rank: int, paths: Iterable[Path], params: Mapping[str, Any]) -> None:
    """Check that the rank fits every target.

    Args:
      rank: columns of A, rows of B.
      paths: the targets.
      params: frozen parameters.

    Raises:
      BadInput: the rank exceeds the smaller side of a target's kernel.
    """
    kernels = linear_kernels(params) | embedding_tables(params)
    for path in paths:
        fan_in, fan_out = kernels[path][-2:]
        largest = min(fan_in, fan_out)
        if rank > largest:
            raise BadInput(
                f"adapter.rank is {rank}, larger than the smaller side of {dotted(path)} "
                f"({fan_in} x {fan_out}); accepted: at most {largest}, or other targets"
            )
