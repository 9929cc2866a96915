"""Addresses in buckets, and the libraries that read and write them."""

import importlib.util
import re

from balora_jax.errors import BadInput

# fsspec's implementation of each protocol.
LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]*")
# What fsspec reads as a pattern, a version or a chain of protocols.
SPECIAL = re.compile(r"[?#*\[\]\\]|::")
LONGEST = 1000
# Of one part, as the names of folders on disks.
LONGEST_PART = 150


def is_address(value: str) -> bool:
    """Return True for an address, such as gs://bucket/run, and False for a path.

    Args:
      value: of an option.
    """
    return "://" in value


def check_address(option: str, value: str, kind: str = "a folder") -> None:
    """Check that an option names something in a bucket that this installation can reach.

    Args:
      option: the option's name, for the message.
      value: its value, an address.
      kind: of what it names.

    Raises:
      BadInput: the protocol is unknown, its library is not installed, or nothing can be there.
    """
    shown = repr(value[:200]) + (" ..." if len(value) > 200 else "")
    protocol, _, rest = value.partition("://")
    library = LIBRARIES.get(protocol)
    if library is None:
        known = ", ".join(f"{name}://" for name in LIBRARIES)
        raise BadInput(
            f"{option} is {shown}; accepted: the path of {kind} on this machine, or the address of "
            f"one in a bucket ({known})"
        )
    bucket, *parts = rest.removesuffix("/").split("/")
    possible = value.isprintable() and len(value) <= LONGEST and not SPECIAL.search(rest)
    fits = all(part not in ("", ".", "..") and len(part) <= LONGEST_PART for part in parts)
    if not (possible and fits and parts and BUCKET.fullmatch(bucket)):
        raise BadInput(
            f"{option} is {shown}; accepted: {protocol}://BUCKET/NAME, the bucket of small "
            f"letters, digits, dots, - and _, each name of at most {LONGEST_PART} characters, not "
            "empty, . or .., and without ?, #, *, brackets, backslashes and ::"
        )
    if importlib.util.find_spec(library) is None:
        raise BadInput(
            f"{option} is {shown}, which needs {library}; accepted: a path on this machine, or "
            f"first `pip install {library}`"
        )
