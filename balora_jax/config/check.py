"""The check that every section applies to its values."""

from balora_jax.errors import BadInput


def require(ok: bool, name: str, value: object, accepted: str) -> None:
    """Raise BadInput unless `ok`, with the option's name, its value and the accepted values."""
    if not ok:
        raise BadInput(f"{name} is {value!r}; accepted: {accepted}")
