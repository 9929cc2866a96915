"""The check every section makes of its values."""

from balora_jax.errors import BadInput


def require(ok: bool, name: str, value: object, accepted: str) -> None:
    """Raises BadInput, naming the option, its value and what is accepted, unless ok."""
    if not ok:
        raise BadInput(f"{name} is {value!r}; accepted: {accepted}")
