"""The options of a run as a mapping, for Python."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from balora_jax.config.parse import read_config
from balora_jax.config.paths import check_output_of_run
from balora_jax.config.run import RunConfig
from balora_jax.errors import BadInput, reason_of

# Options that must be given.
TEXTS = frozenset({"model.source", "output.dir"})
# Options whose values are mappings themselves.
MAPPINGS = frozenset({"data.fields", "optimizer.learning_rates"})


def read_options(options: Mapping[str, Any]) -> RunConfig:
    """Read the options of a run, as the command line does.

    Args:
      options: by their names, such as {"training.steps": 9}; a section may be a mapping of its own,
        and `config` may name a yaml file, which the others override.

    Returns:
      The configuration.

    Raises:
      BadInput: an option does not exist, or its value cannot be used.
    """
    try:
        arguments = list(_arguments(options))
    except RecursionError as error:
        raise BadInput(
            "the options hold themselves, or are too deep; accepted: sections of options"
        ) from error
    config = read_config(arguments)
    check_output_of_run(config.output.dir)
    return config


def _arguments(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in MAPPINGS:
            yield from _arguments(value, f"{prefix}{name}.")
        elif value is None and f"{prefix}{name}" in TEXTS:
            # On the command line null is a text like others.
            raise BadInput(f"{prefix}{name} is None; accepted: text")
        else:
            is_text = isinstance(value, str | os.PathLike)
            text = os.fspath(value) if is_text else _as_json(f"{prefix}{name}", value)
            yield f"--{prefix}{name}={text}"


def _as_json(name: str, value: Any) -> str:
    """A value as the command line has it; scalars of numpy and jax are numbers."""

    def plain(part: Any) -> Any:
        if isinstance(part, os.PathLike):
            return os.fspath(part)
        if hasattr(part, "item") and getattr(part, "ndim", None) == 0:
            return part.item()
        raise TypeError(f"{type(part).__name__} in it")

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{name} cannot be read ({type(value).__name__}: {reason_of(error)}); accepted: text, "
            "numbers, True, False, None, and lists and mappings of them"
        ) from error
