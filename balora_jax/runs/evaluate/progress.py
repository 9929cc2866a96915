"""The progress of an evaluation: a bar, and the answers of each model on disk."""

import contextlib
import pathlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from balora_jax.evaluation.harness.responses import Responses
from balora_jax.runs.language_models import Subject


class Bar:
    """A progress bar whose end is found while it runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def describe(self, text: str) -> None:
        """Begin another part, which is a line where no bar can be drawn."""
        if self._progress.disable:
            self._progress.console.print(text, highlight=False, soft_wrap=True)
        self._progress.reset(self._task, total=None, description=text)

    def extend(self, count: int) -> None:
        """Expect so many answers more."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._task, total=total + count)

    def advance(self, count: int) -> None:
        """Count answers."""
        self._progress.advance(self._task, count)


@contextlib.contextmanager
def answers_of(
    subject: Subject, folder: pathlib.Path, console: Console
) -> Iterator[tuple[Responses, Bar]]:
    """Open the answers of a model on disk, and a progress bar, for the length of a context.

    Args:
      subject: the model.
      folder: of the results.
      console: where the bar is drawn; elsewhere than on a terminal each part is a line.

    Yields:
      The answers, and the bar.
    """
    name = subject.language_model.name
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=28),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    )
    with Responses(folder / f"answers-{name}.jsonl", subject.fingerprint) as responses, progress:
        yield responses, Bar(progress)
