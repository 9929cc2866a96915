"""Tokenized examples of any task, packed end to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from balora_jax.data.blocks import blocks
from balora_jax.errors import BadInput


class Part(NamedTuple):
    """The examples of one of several sources, which follow each other in `Examples`.

    Attributes:
      name: the source.
      size: its examples.
      share: of the examples that are drawn, above 0 and at most 1.
      description: of its rows and tokens.
    """

    name: str
    size: int
    share: float
    description: str

    def __str__(self) -> str:
        """Describe the part in one line."""
        return f"{self.share:.1%} of the examples from {self.name}: {self.description}"


@dataclass(frozen=True)
class Examples:
    """Tokenized examples, end to end in one array; `examples[i]` are the tokens of one of them.

    Examples of next-token prediction are a prompt and its answer, and have `prompt_lengths`.
    Examples of classification are one text or two, and have `token_type_ids`; `labels` and
    `answers` are their targets.

    Attributes:
      tokens: int32 [all tokens].
      starts: int64 [examples + 1], the start of each example; the last entry is the end.
      pad_id: the token that pads batches.
      prompt_lengths: int32 [examples], tokens of each prompt; the loss does not count them.
      counted: bool [all tokens], True at tokens that the loss of next-token prediction counts; None
        where they are all of those after the prompt.
      token_type_ids: int32 [all tokens], 1 on the second text of a pair where the tokenizer marks
        it.
      labels: [examples], int32 classes or float32 scores; None for a set without labels.
      answers: int32 [examples, longest answer], the tokens of labels that are written as text, with
        -1 after an answer's end; None where labels are numbers.
      teacher: float32 [examples, ...], the teacher's logits or features; None without a teacher
        that was run before the training.
      recognized: role -> field, where the set's shape told which fields hold prompt and answer.
      rows: int64 [examples], the row of each example, from 0; None where each row is an example.
      doubled_start: examples that begin with the BOS token twice.
      truncated: examples cut to the maximum length.
      dropped_empty: rows without an answer, which are no examples.
      dropped_long: rows whose prompt leaves no room for an answer, which are no examples.
      parts: the sources of the examples, where there are several.
      weighted: True if the sources have shares of their own; else every example comes equally
        often.
    """

    tokens: np.ndarray
    starts: np.ndarray
    pad_id: int
    prompt_lengths: np.ndarray | None = None
    counted: np.ndarray | None = None
    token_type_ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    answers: np.ndarray | None = None
    teacher: np.ndarray | None = None
    recognized: Mapping[str, str] = field(default_factory=dict)
    rows: np.ndarray | None = None
    doubled_start: int = 0
    truncated: int = 0
    dropped_empty: int = 0
    dropped_long: int = 0
    parts: tuple[Part, ...] = ()
    weighted: bool = False

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the tokens of an example, int32 [its length]."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def counted_of(self, index: int) -> np.ndarray:
        """Mark the tokens of an example that the loss of next-token prediction counts.

        Args:
          index: of the example.

        Returns:
          bool [its length]; False at the first token, which no position predicts.
        """
        if self.counted is None:
            counted = np.arange(len(self[index])) >= self.prompt_lengths[index]
        else:
            counted = self.counted[self.starts[index] : self.starts[index + 1]].copy()
        counted[0] = False
        return counted

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of an example of next-token prediction: its prompt and its answer.

        Of a conversation these are everything before the last answer, and that answer.

        Args:
          index: of the example.

        Returns:
          Both int32; the prompt has at least one token, because no position predicts the first.
        """
        tokens = self[index]
        places = np.flatnonzero(self.counted_of(index))
        breaks = np.flatnonzero(np.diff(places) > 1)
        first = places[breaks[-1] + 1] if len(breaks) else places[0]
        return tokens[:first], tokens[first : places[-1] + 1]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]."""
        return np.diff(self.starts)

    def lengths_of(self, numbers: Sequence[int]) -> np.ndarray:
        """Tokens of some examples, by number: int64 [numbers]."""
        numbers = np.asarray(numbers)
        return self.starts[numbers + 1] - self.starts[numbers]

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.lengths.max())

    @property
    def largest_token(self) -> int:
        """The largest token id of examples and answers."""
        largest = max(int(block.max()) for block in blocks(self.tokens))
        if self.answers is not None:
            largest = max(largest, int(self.answers.max()))
        return largest

    @property
    def smallest_token(self) -> int:
        """The smallest token id of the examples."""
        return min(int(block.min()) for block in blocks(self.tokens))

    @property
    def counted_tokens(self) -> int:
        """Tokens that the loss of next-token prediction counts: answers and their ends."""
        if self.counted is not None:
            return sum(int(block.sum()) for block in blocks(self.counted))
        # No position predicts the first token, not even where the prompt is empty.
        return int((self.lengths - np.maximum(self.prompt_lengths, 1)).sum())

    def __str__(self) -> str:
        """Describe the set in one line, dropped and truncated rows included."""
        if self.prompt_lengths is None:
            return self._describe_texts()
        return self._describe_pairs()

    def _describe_pairs(self) -> str:
        rows = len(self) + self.dropped_empty + self.dropped_long
        notes = {
            "begin with the BOS token twice": self.doubled_start,
            "answers truncated": self.truncated,
            "dropped without an answer": self.dropped_empty,
            "dropped for a prompt that fills max_length": self.dropped_long,
        }
        parts = [f"{len(self):,} of {rows:,} rows used"]
        parts += [f"{count:,} {note}" for note, count in notes.items() if count]
        counted = f"{len(self.tokens):,} tokens, the loss counts {self.counted_tokens:,}"
        read = ", ".join(f"{role} from {name}" for role, name in self.recognized.items())
        recognized = f"; {read}" if read else ""
        return ", ".join(parts) + f"; {counted}{recognized}"

    def _describe_texts(self) -> str:
        truncated = f", {self.truncated:,} truncated" if self.truncated else ""
        answers = "" if self.answers is None else f", answers of at most {self.answers.shape[1]}"
        tokens = f"{len(self.tokens):,} tokens, at most {self.longest} an example"
        return f"{len(self):,} examples{truncated}{self._only_class()}; {tokens}{answers}"

    def _only_class(self) -> str:
        """Note the class of a set that has no other."""
        if self.labels is None or not np.issubdtype(self.labels.dtype, np.integer):
            return ""
        is_alone = (self.labels == self.labels[0]).all()
        return f", all of class {self.labels[0]}" if is_alone else ""


def starts_of(pieces: list[np.ndarray]) -> np.ndarray:
    """Compute the starts of token arrays that are packed end to end, int64 [pieces + 1]."""
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    return np.concatenate([[0], np.cumsum(lengths)])


def require_vocabulary(vocab_size: int, *sets: Examples) -> None:
    """Check that every token has an embedding, the pad token too.

    Args:
      vocab_size: embeddings of the model.
      sets: every set of the run.

    Raises:
      BadInput: a token has none, as with another model's tokenizer, or one with added tokens.
    """
    largest = max(examples.largest_token for examples in sets)
    if largest >= vocab_size:
        raise BadInput(
            f"the tokenizer makes token {largest} but the model has {vocab_size} embeddings; "
            "accepted: the model's own tokenizer"
        )
    smallest = min(examples.smallest_token for examples in sets)
    if smallest < 0:
        raise BadInput(
            f"the tokenizer makes token {smallest}; accepted: the model's own tokenizer, whose "
            "tokens are from 0"
        )
    for examples in sets:
        # The embedding of padding counts too: attention multiplies it by 0, and 0 * NaN is NaN.
        if examples.pad_id is None or not 0 <= examples.pad_id < vocab_size:
            raise BadInput(
                f"the tokenizer's pad token has the id {examples.pad_id} but the model has "
                f"{vocab_size} embeddings; accepted: a tokenizer whose pad_token is one of the "
                "model's tokens, such as its eos_token"
            )
