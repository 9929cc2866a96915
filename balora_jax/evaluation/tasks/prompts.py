"""The prompt of all tasks here: Alpaca's, as in training."""

from balora_jax.data.prompts import ALPACA, fill, parse_template

_PIECES = parse_template(ALPACA)
# A model that does not stop goes on with a task of its own making; its answer ends there.
NEXT_TASK = "### Instruction"


def alpaca(instruction: str) -> str:
    """Write an instruction into Alpaca's prompt.

    Args:
      instruction: the question or the task.

    Returns:
      The prompt, which ends with "### Response:".
    """
    return fill(_PIECES, {"instruction": instruction})


def first_response(text: str) -> str:
    """Return an answer up to the next task that the model made up.

    Args:
      text: a model's continuation of a prompt.
    """
    return text.partition(NEXT_TASK)[0]
