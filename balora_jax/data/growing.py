"""Examples of next-token prediction that are gathered one by one, in memory or in files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from balora_jax.data.blocks import blocks
from balora_jax.data.examples import Examples

# The arrays of examples of next-token prediction.
DTYPES = {
    "tokens": np.dtype(np.int32),
    "starts": np.dtype(np.int64),
    "prompt_lengths": np.dtype(np.int32),
    "counted": np.dtype(bool),
    "rows": np.dtype(np.int64),
}


class GrowingExamples:
    """Arrays of examples that grow at their ends.

    Attributes:
      truncated: examples cut to the maximum length; the caller's to count, as the next ones.
      dropped_empty: rows without an answer.
      dropped_long: rows whose prompt leaves no room for an answer.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        pad_id: int | None,
        bos_id: int | None = None,
        has_counted: bool = False,
    ) -> None:
        """Begin without examples.

        Args:
          folder: an empty folder for the arrays, a file each; None for memory.
          pad_id: the token that pads batches.
          bos_id: the token of which there may be two at the beginning.
          has_counted: True if the examples come with the tokens that the loss counts.
        """
        names = [name for name in DTYPES if has_counted or name != "counted"]
        self._folder = folder
        self._files = {name: _file(folder, name) for name in names}
        self._pad_id = pad_id
        self._bos_id = bos_id
        self._end = 0
        self._size = 0
        self._doubled = 0
        self.truncated = 0
        self.dropped_empty = 0
        self.dropped_long = 0
        self._append("starts", 0)

    def __len__(self) -> int:
        return self._size

    def add(
        self,
        row: int,
        tokens: np.ndarray,
        prompt_length: int,
        counted: np.ndarray | None = None,
    ) -> None:
        """Add an example.

        Args:
          row: its row in the set.
          tokens: int [length].
          prompt_length: tokens of the prompt.
          counted: bool [length], True at tokens that the loss counts.
        """
        self._append("rows", row)
        self._append("tokens", tokens)
        self._append("prompt_lengths", prompt_length)
        if counted is not None:
            self._append("counted", counted)
        self._end += len(tokens)
        self._append("starts", self._end)
        self._size += 1
        # Template and tokenizer have both written BOS.
        self._doubled += len(tokens) > 1 and tokens[0] == tokens[1] == self._bos_id

    def add_all(self, examples: Examples, first_row: int) -> None:
        """Add the examples of another set, and its counts.

        Args:
          examples: with `rows`.
          first_row: the number of the other set's first row here.
        """
        for block in blocks(examples.tokens):
            self._append("tokens", block)
        self._append("starts", examples.starts[1:] + self._end)
        self._append("prompt_lengths", examples.prompt_lengths)
        self._append("rows", examples.rows + first_row)
        if "counted" in self._files:
            self._add_counted(examples)
        self._end += len(examples.tokens)
        self._size += len(examples)
        self._doubled += examples.doubled_start
        self.truncated += examples.truncated
        self.dropped_empty += examples.dropped_empty
        self.dropped_long += examples.dropped_long

    def _add_counted(self, examples: Examples) -> None:
        if examples.counted is not None:
            for block in blocks(examples.counted):
                self._append("counted", block)
            return
        # They are all of those after the prompt.
        for index in range(len(examples)):
            self._append("counted", examples.counted_of(index))

    def finish(self, **attributes: Any) -> Examples:
        """Return the examples, at least one.

        Args:
          **attributes: others of `Examples`.
        """
        arrays = {name: self._array(name) for name in self._files}
        return Examples(
            **arrays,
            pad_id=self._pad_id,
            doubled_start=int(self._doubled),
            truncated=self.truncated,
            dropped_empty=self.dropped_empty,
            dropped_long=self.dropped_long,
            **attributes,
        )

    def _append(self, name: str, values: Any) -> None:
        self._files[name].write(np.asarray(values, DTYPES[name]).tobytes())

    def _array(self, name: str) -> np.ndarray:
        file = self._files[name]
        if self._folder is None:
            return np.frombuffer(file.getbuffer(), DTYPES[name])
        file.close()
        return np.memmap(array_file(self._folder, name), DTYPES[name], "r")


def _file(folder: Path | None, name: str) -> Any:
    return io.BytesIO() if folder is None else open(array_file(folder, name), "xb")


def array_file(folder: Path, name: str) -> Path:
    """Return the file of an array.

    Args:
      folder: of the examples.
      name: of `DTYPES`.
    """
    return folder / f"{name}.bin"
