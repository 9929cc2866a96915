"""The data of a run as the model will see it: counts, lengths and examples, without the model."""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.text import Text

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.data import Examples
from balora_jax.reporting.console import plain_console
from balora_jax.runs.run import TASKS

SHOWN = 10
BINS = 10
BAR = 40
# Characters of an example.
LONGEST = 2000
COUNTED = "bold green"


def show_data(config: RunConfig, console: Console | None = None) -> None:
    """Print the sets of a run, the lengths of the training set and its first examples.

    Args:
      config: the run's configuration.
      console: where to print; standard output by default.

    Raises:
      BadInput: a data set or the tokenizer cannot be used.
    """
    console = console or plain_console()
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    task = TASKS[config.model.task](config, tokenizer)
    for line in task.counts:
        console.print(line, highlight=False, soft_wrap=True)
    train = task.training_sets[0]
    console.print("\ntokens of an example", highlight=False)
    for line in _histogram(train.lengths):
        console.print(line, highlight=False)
    if train.prompt_lengths is not None:
        note = "the loss counts what is between « and »"
        console.print(f"\n{note}", highlight=False)
    for index in range(min(SHOWN, len(train))):
        console.print(f"\nexample {index + 1}, {train.lengths[index]} tokens", highlight=False)
        console.print(_shown(train, index, tokenizer), soft_wrap=True)


def _histogram(lengths: np.ndarray) -> Iterator[str]:
    """Lines of the numbers of examples by length."""
    edges = np.linspace(lengths.min(), lengths.max() + 1, BINS + 1)
    edges = np.unique(edges.astype(int))
    counts, _ = np.histogram(lengths, bins=edges)
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "█" * round(BAR * count / counts.max())
        yield f"{low:7,} to {high - 1:7,} {count:9,} {bar}".rstrip()


def _shown(examples: Examples, index: int, tokenizer: object) -> Text:
    """An example as text, what the loss counts marked, and its label."""
    tokens = examples[index]
    if examples.prompt_lengths is None:
        return Text(_cut(f"{tokenizer.decode(tokens)}{_label(examples, index, tokenizer)}"))
    counted = examples.counted_of(index)
    edges = np.flatnonzero(np.diff(counted.astype(int))) + 1
    text = Text()
    for part, marks in zip(np.split(tokens, edges), np.split(counted, edges), strict=True):
        if marks[0]:
            text.append(_cut(f"«{tokenizer.decode(part)}»"), style=COUNTED)
        else:
            text.append(_cut(tokenizer.decode(part)))
    return text


def _label(examples: Examples, index: int, tokenizer: object) -> str:
    if examples.answers is not None:
        answer = examples.answers[index]
        return f" ⟶ «{tokenizer.decode(answer[answer >= 0])}»"
    return "" if examples.labels is None else f" ⟶ {examples.labels[index]}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
