"""Answers of a model on disk, so that an evaluation that was killed goes on where it was."""

import hashlib
import json
import pathlib
from typing import Any, Self

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.replacing import write_whole

MODEL = "model"


class Responses:
    """A file with a line for each answered request; the first line names the model.

    A context: the file is closed at its end.
    """

    def __init__(self, path: pathlib.Path, model: str) -> None:
        """Open the file, or begin it.

        Args:
          path: the file; its folder exists.
          model: the fingerprint of the model's weights and tokenizer.

        Raises:
          BadInput: the file holds the answers of another model, or something else.
        """
        self._path = path
        self._answers: dict[str, Any] = {}
        lines = self._complete_lines()
        if not lines:
            lines = [json.dumps({MODEL: model}) + "\n"]
        self._read(lines, model)
        # Without the incomplete line that a killed process may have left.
        write_whole(path, "".join(lines))
        self._file = path.open("a", encoding="utf-8")

    def _complete_lines(self) -> list[str]:
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise self._refusal(reason_of(error)) from error
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _read(self, lines: list[str], model: str) -> None:
        try:
            first, *others = [json.loads(line) for line in lines]
            if first[MODEL] != model:
                raise BadInput(
                    f"{self._path} holds the answers of another model; "
                    "accepted: the same model and checkpoint, or another --out"
                )
            self._answers = {line["request"]: line["answer"] for line in others}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._refusal(reason_of(error)) from error

    def _refusal(self, reason: str) -> BadInput:
        return BadInput(
            f"{self._path} cannot be read ({reason}); "
            "accepted: the file as an evaluation wrote it, or another --out"
        )

    def __enter__(self) -> Self:
        """Return the answers."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def __contains__(self, request: str) -> bool:
        """Return True if a request has been answered."""
        return request in self._answers

    def __getitem__(self, request: str) -> Any:
        """Return the answer to a request."""
        return self._answers[request]

    def add(self, request: str, answer: Any) -> None:
        """Keep an answer.

        Args:
          request: from `request_key`.
          answer: what JSON can hold.
        """
        self._answers[request] = answer
        self._file.write(json.dumps({"request": request, "answer": answer}) + "\n")
        self._file.flush()


def request_key(kind: str, arguments: Any, occurrence: int = 0) -> str:
    """Return the name of a request in the file.

    Args:
      kind: such as loglikelihood.
      arguments: of the request, as JSON.
      occurrence: the requests with the same arguments before it.
    """
    text = json.dumps([kind, arguments, occurrence], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
