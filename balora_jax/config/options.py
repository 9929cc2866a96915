"""The options of a run as a mapping, for Python."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from balora_jax.config.parse import read_config
from balora_jax.config.paths import check_output
from balora_jax.config.run import RunConfig

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
    config = read_config(list(_arguments(options)))
    check_output("output.dir", config.output.dir)
    return config


def _arguments(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in MAPPINGS:
            yield from _arguments(value, f"{prefix}{name}.")
        else:
            is_text = isinstance(value, str | os.PathLike)
            text = os.fspath(value) if is_text else json.dumps(value, default=str)
            yield f"--{prefix}{name}={text}"
