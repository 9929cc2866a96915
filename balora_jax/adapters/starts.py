"""The table of starts: the ways to initialize adapters, and what each of them needs.

A new start takes three changes: its function, a row of STARTS here, and its name in
config/adapter.py, whose START_SETTINGS lists the integer settings that the name may carry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from balora_jax.adapters.lora import init_lora
from balora_jax.adapters.lora_ga import init_lora_ga
from balora_jax.adapters.pissa import init_pissa
from balora_jax.config.adapter import parse_start


@dataclasses.dataclass(frozen=True)
class Start:
    """One way to initialize adapters.

    Attributes:
      init: (params, paths, rank, *, scale, key, mesh, **settings) -> {a, b} at every path.
        Where `needs` is gradient, it also takes gradient={path: gradient of the kernel}.
      zero: True if A B is zero at step 0, so that no initial adapters need to be kept.
      needs: input beyond the parameters: nothing, or the task loss's gradient with respect to
        every target kernel.
    """

    init: Callable[..., Mapping[str, Any]]
    zero: bool = False
    needs: Literal["nothing", "gradient"] = "nothing"


STARTS = {
    "lora": Start(init_lora, zero=True),
    "pissa": Start(init_pissa),
    "lora_ga": Start(init_lora_ga, needs="gradient"),
}


def find_start(init: str) -> tuple[Start, dict[str, int]] | None:
    """Look up the start that `adapter.init` names.

        find_start("pissa_niter_16")     ->  (STARTS["pissa"], {"niter": 16})
        find_start("runs/mine/adapter")  ->  None

    Args:
      init: name of a start, with its setting if it has one, or a folder.

    Returns:
      The start and the settings for its `init`, or None if `init` names no start.
    """
    parsed = parse_start(init)
    if parsed is None:
        return None
    name, settings = parsed
    return STARTS[name], settings
