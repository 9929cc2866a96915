"""The checks that every section applies to its values."""

import dataclasses
from collections.abc import Collection
from typing import Any

from balora_jax.errors import BadInput, shown

# The largest size of any number but a seed. Larger ones are slips, which would otherwise end as a
# loss that is not finite, or as memory that no machine has.
LARGEST = 10**9
SEED = "seed"
LARGEST_SEED = 2**63 - 1


def require(ok: bool, name: str, value: object, accepted: str) -> None:
    """Raise BadInput unless `ok`, with the option's name, its value and the accepted values."""
    if not ok:
        raise BadInput(f"{name} is {shown(value)}; accepted: {accepted}")


def require_sizes(section: Any, prefix: str = "") -> None:
    """Check that all numbers of a section are finite and not absurdly large.

    Args:
      section: a dataclass; sections in it are checked, too.
      prefix: what the options' names begin with, such as `model.`.

    Raises:
      BadInput: a number is too large, infinite or NaN.
    """
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            require_sizes(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            largest = LARGEST_SEED if field.name == SEED else LARGEST
            # NaN is not at most anything; a whole number may be too large for a float.
            ok = abs(value) <= largest
            require(ok, name, value, f"a finite number of at most {largest} in size")


def check_unused(options: Any, names: Collection[str], asked: str) -> None:
    """Check that options are not given which what is asked has no use for.

    Args:
      options: a dataclass of options.
      names: of its fields.
      asked: what is asked, for the message.

    Raises:
      BadInput: one of them has another value than its default.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != field.default:
            raise BadInput(
                f"--{field.name} is {shown(value)}, and {asked} has no use for it; "
                "accepted: without that option"
            )
