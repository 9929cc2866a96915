"""Progress of a run: live lines on a terminal or in a notebook, printed ones now and then else."""

import importlib.util
import time
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from balora_jax.regularizers.terms import REGULARIZERS
from balora_jax.reporting.console import plain_console
from balora_jax.training.records import HeldOutRecord, Record, StepRecord

# Seconds without a line, where there is no terminal.
PATIENCE = 20


class _BarAndNumbers(Progress):
    """A progress bar with a line of numbers below it; each fits 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, then a line of numbers for each task."""
        yield from super().get_renderables()
        yield from (Text(task.fields["numbers"]) for task in self.tasks)


class ProgressLine:
    """The progress display for `Loop.show`: loss and its parts, tokens per second, time left."""

    def __init__(self, steps: int, *, done: int = 0, console: Console | None = None) -> None:
        """Prepare the display.

        Args:
          steps: updates in the run.
          done: updates done before.
          console: where to print; standard output by default.
        """
        self._console = console or plain_console()
        self._steps = steps
        self._is_live = _can_be_live(self._console)
        # Otherwise a line is printed after every tenth of the run, and after a while.
        self._every = max(1, steps // 10)
        self._printed = time.monotonic()
        self._told_unsettled: set[str] = set()
        self._bar = _BarAndNumbers(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._is_live,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, numbers="", speed="")

    def __enter__(self) -> "ProgressLine":
        """Start the display."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the display."""
        self._bar.stop()

    def __call__(self, record: Record) -> None:
        """Show a record; records other than steps and evaluations are ignored."""
        if isinstance(record, HeldOutRecord):
            self._show_evaluation(record)
        if isinstance(record, StepRecord):
            self._show_step(record)

    def _show_evaluation(self, record: HeldOutRecord) -> None:
        measures = {"held-out loss": record.loss} | record.metrics
        listed = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        self._console.print(f"step {record.step}: {listed}", highlight=False)

    def _show_unsettled(self, record: StepRecord) -> None:
        """Say once for each term that its rounds have not converged, and what to do."""
        for name, share in record.unsettled.items():
            if share > 0 and name not in self._told_unsettled:
                self._told_unsettled.add(name)
                self._console.print(
                    f"step {record.step}: the singular values of the {REGULARIZERS[name].title} "
                    "term had not converged when their rounds ended, so its gradient may be off "
                    f"(unsettled_{name} in metrics.jsonl), and "
                    f"regularizers.{name}.method exact computes them whole",
                    highlight=False,
                    soft_wrap=True,
                )

    def _show_step(self, record: StepRecord) -> None:
        self._show_unsettled(record)
        parts = [f"task {record.task:.3f}"]
        for name, row in REGULARIZERS.items():
            if name in record.terms:
                parts.append(f"{row.label} {record.terms[name]:.3f}")
        numbers = f"loss {record.loss:.4f} ({' '.join(parts)})"
        speed = f"{record.tokens_per_second:,.0f} tok/s"
        self._bar.update(self._task, completed=record.step, numbers=numbers, speed=speed)
        due = record.step == 1 or record.step % self._every == 0 or record.step == self._steps
        due = due or time.monotonic() - self._printed > PATIENCE
        if due and not self._is_live:
            self._printed = time.monotonic()
            line = f"step {record.step}/{self._steps}: {numbers} {speed}"
            self._console.print(line, highlight=False, soft_wrap=True)


def _can_be_live(console: Console) -> bool:
    """True on a terminal, and in a notebook that has what it needs to show changing lines."""
    in_notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal or in_notebook
