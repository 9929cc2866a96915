"""Addresses of folders in buckets, and the libraries that read and write them."""

import importlib.util

from balora_jax.errors import BadInput

# fsspec's implementation of each protocol; memory is within the process, for trials.
LIBRARIES = {
    "gs": "gcsfs",
    "s3": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "memory": "fsspec",
}


def is_address(value: str) -> bool:
    """Return True for an address, such as gs://bucket/run, and False for a path.

    Args:
      value: of an option.
    """
    return "://" in value


def check_address(option: str, value: str) -> None:
    """Check that an option names a folder in a bucket that this installation can reach.

    Args:
      option: the option's name, for the message.
      value: its value, an address.

    Raises:
      BadInput: the protocol is unknown, its library is not installed, or no folder is named.
    """
    protocol, _, rest = value.partition("://")
    bucket, _, folder = rest.partition("/")
    parts = folder.rstrip("/").split("/")
    library = LIBRARIES.get(protocol)
    if library is None:
        known = ", ".join(f"{name}://" for name in LIBRARIES if name != "memory")
        raise BadInput(
            f"{option} is {value[:200]!r}; accepted: a path on this machine, or a folder in a "
            f"bucket ({known})"
        )
    if not bucket or any(part in ("", ".", "..") for part in parts) or not value.isprintable():
        raise BadInput(
            f"{option} is {value[:200]!r}; accepted: {protocol}://BUCKET/FOLDER, with no empty "
            "part, . or .."
        )
    if importlib.util.find_spec(library) is None:
        raise BadInput(
            f"{option} is {value[:200]!r}, which needs {library}; accepted: a path on this "
            f"machine, or first `pip install {library}`"
        )
