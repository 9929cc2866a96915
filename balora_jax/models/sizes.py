"""Checks of sizes in config.json that must fit each other; `hf.config_file` checks each alone."""

from balora_jax.errors import BadInput


def require(holds: bool, entry: str, value: object, accepted: str) -> None:
    """Refuse a value of config.json that does not fit the others.

    Args:
      holds: True if it fits.
      entry: its name in config.json.
      value: the value.
      accepted: the accepted values, for the message.

    Raises:
      BadInput: `holds` is False.
    """
    if not holds:
        raise BadInput(f"config.json's {entry} is {value}; accepted: {accepted}")


def require_divisor(entry: str, size: int, divisor_entry: str, divisor: int) -> None:
    """Refuse a size that another entry of config.json does not divide.

    Args:
      entry: the size's name in config.json.
      size: the size.
      divisor_entry: the divisor's name in config.json.
      divisor: the divisor, at least 1.

    Raises:
      BadInput: it does not divide the size.
    """
    accepted = f"a multiple of {divisor_entry}, which is {divisor}"
    require(size % divisor == 0, entry, size, accepted)


def require_token(entry: str, token_id: int | None, vocab_size: int) -> None:
    """Refuse a token that is not in the vocabulary; None and -1 stand for no token.

    Args:
      entry: the token's name in config.json.
      token_id: the token.
      vocab_size: V.

    Raises:
      BadInput: the token is V or more.
    """
    accepted = f"null, or below vocab_size, which is {vocab_size}"
    require(token_id is None or token_id < vocab_size, entry, token_id, accepted)
