"""Levels of isolation, from the strongest to the weakest, as they are described to a user."""

import functools
import sys
from typing import Literal

from balora_jax.errors import BadInput
from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.program import Supervisors, run_program

Level = Literal["namespaces", "other user", "same user"]

LIMITS_HELD = (
    "time, memory, processes, output, files and open files are limited, "
    "and the processes that a program leaves behind are killed"
)
IN_WORDS: dict[Level, str] = {
    "namespaces": (
        "Generated programs run in Linux namespaces of their own: no network, no processes but "
        "their own, and no files but Python's, read only, and a folder in memory that goes with "
        f"them; {LIMITS_HELD}."
    ),
    "other user": (
        "Generated programs run as another user without rights, for namespaces are not available: "
        "they have no network, cannot signal other processes and cannot write files that are not "
        f"open to all users, but they can read what all users can; {LIMITS_HELD}."
    ),
    "same user": (
        "Generated programs run as this user, for namespaces are not available: they have no "
        "network, but they can read, overwrite and delete this user's files and signal this "
        f"user's processes; {LIMITS_HELD}, unless they set out to prevent it. Run them only where "
        "nothing can be lost, such as in a container."
    ),
}
PROBE = "import tempfile\ntempfile.TemporaryFile().close()\n"
PROBE_LIMITS = Limits(seconds=20)


@functools.cache
def strongest_level() -> Level:
    """Find the strongest level that this machine allows, by running a program at each.

    Raises:
      BadInput: the system is not Linux, or no level works.
    """
    if sys.platform != "linux":
        raise BadInput(
            f"generated programs cannot be run on {sys.platform}; accepted: Linux, "
            "or tasks that run no code"
        )
    reasons = []
    for level in IN_WORDS:
        reason = refusal(level)
        if reason is None:
            return level
        reasons.append(f"{level}: {reason}")
    raise BadInput(
        f"no generated program can be run here ({'; '.join(reasons)}); "
        "accepted: a machine on which Python can start Python, or tasks that run no code"
    )


@functools.cache
def refusal(level: Level) -> str | None:
    """Return the reason why this machine does not allow a level; None if it does."""
    outcome = run_program(PROBE, PROBE_LIMITS, level, Supervisors())
    return None if outcome.status == "passed" else f"{outcome.status}, {outcome.detail}"


def isolation(level: Level | None = None) -> str:
    """Describe what programs are kept from, in words for a user.

    Args:
      level: the level; None is the strongest that this machine allows.
    """
    return IN_WORDS[level or strongest_level()]
