"""The tiny world's probes as an Evaluator: they judge a model by the world that it was made in."""

import pathlib
from typing import Any

from balora_jax.config import DataConfig
from balora_jax.evaluation.tiny_world.probes import make_probes, measure
from balora_jax.evaluation.tiny_world.questions import read_rows
from balora_jax.evaluation.tiny_world.world import read_world
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class TinyWorldEvaluator:
    """An Evaluator: what became of the things planted in a tiny world."""

    def __init__(self, folder: pathlib.Path, tokenizer: Any) -> None:
        """Read a world.

        Args:
          folder: where `balora_jax.evaluation.tiny_world.make` wrote it.
          tokenizer: the tiny model's.

        Raises:
          BadInput: the folder holds no tiny world.
        """
        world = read_world(folder)
        train = read_rows(folder / "train.jsonl")
        test = read_rows(folder / "test.jsonl")
        self._probes = make_probes(world, tokenizer, train, test)

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Compute every measure of the tiny world, by name."""
        base = student.params(state).base
        measures = measure(student.model, base, student.lora(state), self._probes)
        return {name: float(found.value) for name, found in measures.items()}


def make_probe_evaluator(config: DataConfig, tokenizer: Any) -> TinyWorldEvaluator | None:
    """The evaluator that `data.probes` asks for, or None.

    The world is that of the training set's folder.

    Args:
      config: the data's configuration.
      tokenizer: the model's.

    Raises:
      BadInput: the folder of `data.train` holds no tiny world.
    """
    if config.probes is None:
        return None
    return TinyWorldEvaluator(pathlib.Path(config.train).expanduser().parent, tokenizer)
