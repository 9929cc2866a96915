"""Answers of a model on disk, so that an evaluation that was killed goes on where it was."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, Self, TextIO

from balora_jax.errors import BadInput, reason_of
from balora_jax.training.replacing import write_whole

MODEL = "model"


class Responses:
    """A file with a line for each answered request; the first line names the model.

    A context: the file is closed at its end. Nothing is written before the first answer.
    """

    def __init__(self, path: pathlib.Path, model: str) -> None:
        """Read the answers, if there are any.

        Args:
          path: the file, which need not exist.
          model: the fingerprint of the model's weights and tokenizer.

        Raises:
          BadInput: the file holds the answers of another model, or something else.
        """
        self._path = path
        self._file: TextIO | None = None
        self._lines = self._complete_lines() or [json.dumps({MODEL: model}) + "\n"]
        first, *others = self._lines
        if self._parse(1, first, lambda row: row[MODEL]) != model:
            raise BadInput(
                f"{self._path} holds the answers of another model; "
                "accepted: the same model and checkpoint, or another --out"
            )
        self._answers: dict[str, Any] = {}
        for number, line in enumerate(others, start=2):
            request, answer, check = self._parse(
                number, line, lambda row: (row["request"], row["answer"], row["check"])
            )
            if check != _check(request, answer):
                raise self._refusal(f"line {number} has changed since it was written")
            self._answers[request] = answer

    def _complete_lines(self) -> list[str]:
        """The lines of the file, without one that a killed process has left incomplete."""
        if not os.path.lexists(self._path):
            return []
        # A named pipe would wait for a writer.
        if not self._path.is_file():
            raise self._refusal("it is no file")
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._refusal(reason_of(error)) from error
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        # The first line is written whole; only a later one may be cut.
        if text and not lines:
            raise self._refusal("it holds something else")
        return lines

    def _parse(self, number: int, line: str, read: Callable[[Any], Any]) -> Any:
        """The values that a function reads from a line's JSON."""
        try:
            return read(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._refusal(f"line {number}: {reason_of(error)}") from error

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
        if self._file is not None:
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
        row = {"request": request, "answer": answer, "check": _check(request, answer)}
        if self._file is None:
            self._file = self._begin()
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def _begin(self) -> TextIO:
        """Open the file behind its complete lines."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, "".join(self._lines))
        return self._path.open("a", encoding="utf-8")


class Unkept(dict[str, Any]):
    """Answers in memory alone."""

    def add(self, request: str, answer: Any) -> None:
        """Keep an answer until the end of the evaluation.

        Args:
          request: from `request_key`.
          answer: any.
        """
        self[request] = answer


def request_key(kind: str, arguments: Any, occurrence: int = 0) -> str:
    """Return the name of a request in the file.

    Args:
      kind: such as loglikelihood.
      arguments: of the request, as JSON.
      occurrence: the requests with the same arguments before it.
    """
    text = json.dumps([kind, arguments, occurrence], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(request: str, answer: Any) -> str:
    """The hash of an answer, by which a line that has changed on disk is found."""
    return hashlib.sha256(json.dumps([request, answer]).encode()).hexdigest()[:16]
