"""The names of repositories on the hub, as options have them."""

import re

from balora_jax.config.check import require

# A part of the name: letters, digits, and between them single dots, hyphens and underscores.
PART = r"[A-Za-z0-9]+(?:(?:_+|-|\.)[A-Za-z0-9]+)*"
REPOSITORY = re.compile(rf"{PART}/{PART}")
LONGEST = 96


def require_repository(option: str, name: str) -> None:
    """Check the form of a repository's name; the hub is not asked.

    Args:
      option: the option's name, for the message.
      name: its value.

    Raises:
      BadInput: it is not USER/REPO as the hub takes them.
    """
    ok = REPOSITORY.fullmatch(name) and len(name) <= LONGEST and not name.endswith(".git")
    accepted = (
        f"USER/REPO of letters, digits and single - . _ within, of at most {LONGEST} characters"
    )
    require(bool(ok), option, name, accepted)
