"""What a person sees while a run goes on: two lines that live on a terminal, a line now and then elsewhere."""

from collections.abc import Iterator, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from balora_jax.training.metrics import PARTS

HELD_OUT_LOSS = ("step", "eval_loss")
SHORT = {"task": "task", "consistency": "kl", "diversity": "div", "svd": "svd"}


class _BarAndNumbers(Progress):
    """The bar, and the loss's parts on a line below it, so that both fit 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(task.fields["numbers"]) for task in self.tasks)


class ProgressLine:
    """Loss parts, tokens per second and the time left; made for `Loop.show`."""

    def __init__(self, steps: int, *, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console()
        self._steps = steps
        # Off a terminal: a tenth of the run at a time.
        self._every = max(1, steps // 10)
        self._bar = _BarAndNumbers(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, numbers="", speed="")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, record: Mapping[str, float]) -> None:
        """Shows one record of metrics.jsonl."""
        step = int(record["step"])
        if "eval_loss" in record:
            rest = {
                name.removeprefix("eval_"): value
                for name, value in record.items()
                if name not in HELD_OUT_LOSS
            }
            measures = {"held-out loss": record["eval_loss"]} | rest
            said = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
            self._console.print(f"step {step}: {said}", highlight=False)
            return
        parts = " ".join(f"{SHORT[name]} {record[name]:.3f}" for name in PARTS if name in record)
        numbers, speed = (
            f"loss {record['loss']:.4f} ({parts})",
            f"{record['tokens_per_second']:,.0f} tok/s",
        )
        self._bar.update(self._task, completed=step, numbers=numbers, speed=speed)
        if not self._console.is_terminal and (
            step == 1 or step % self._every == 0 or step == self._steps
        ):
            self._console.print(
                f"step {step}/{self._steps}: {numbers} {speed}", highlight=False, soft_wrap=True
            )
