"""The probes of a tiny world as an Evaluator."""

import itertools
import pathlib
from typing import Any

from balora_jax.config import DataConfig
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.tiny_world.corpus import make_corpus
from balora_jax.evaluation.tiny_world.probes import Measure, make_probes, measure
from balora_jax.evaluation.tiny_world.questions import read_rows
from balora_jax.evaluation.tiny_world.world import read_world
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState


class TinyWorldEvaluator:
    """An Evaluator of the defects planted in a tiny world."""

    def __init__(self, folder: pathlib.Path, tokenizer: Any) -> None:
        """Read a world and make its probes.

        Args:
          folder: a folder written by `balora_jax.evaluation.tiny_world.make`.
          tokenizer: the tiny model's tokenizer.

        Raises:
          BadInput: the folder holds no tiny world.
        """
        world = read_world(folder)
        train = read_rows(folder / "train.jsonl")
        test = read_rows(folder / "test.jsonl")
        self._probes = make_probes(world, tokenizer, train, test)

    def __call__(self, student: Student, state: TrainState) -> dict[str, float]:
        """Compute every measure of the tiny world.

        Args:
          student: the model and its frozen weights.
          state: the state with its trained weights.

        Returns:
          The measures by name, as in `probes.TITLES`.
        """
        base = student.params(state).base
        measures = measure(student.model, base, student.lora(state), self._probes)
        return {name: float(result.value) for name, result in measures.items()}


def tiny_world_measures(config: DataConfig, model: LanguageModel) -> dict[str, Measure]:
    """Measure a language model on the probes of the tiny world in the folder of `data.train`.

    Args:
      config: the section `data` of the configuration.
      model: the tiny model, with or without adapters.

    Returns:
      The measures by name, as in `probes.TITLES`; empty if `data.probes` is null.

    Raises:
      BadInput: the folder of `data.train` holds no tiny world.
    """
    if config.probes is None:
        return {}
    folder = _folder(config)
    world = read_world(folder)
    rows = (read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl"))
    probes = make_probes(world, model.tokenizer, *rows)
    return measure(model.model, model.params, model.lora or {}, probes)


def tiny_world_passages(config: DataConfig, limit: int) -> list[str]:
    """Generate paragraphs of a tiny world that are not in its corpus.

    Args:
      config: the section `data` of a configuration with probes.
      limit: the most paragraphs.

    Raises:
      BadInput: the folder of `data.train` holds no tiny world.
    """
    world = read_world(_folder(config))
    return list(itertools.islice(make_corpus(world, seed=-1), limit))


def _folder(config: DataConfig) -> pathlib.Path:
    path = pathlib.Path(config.source_names[0]).expanduser()
    return path if path.is_dir() else path.parent


def make_probe_evaluator(config: DataConfig, tokenizer: Any) -> TinyWorldEvaluator | None:
    """Make the evaluator of the tiny world in the folder of the training set.

    Args:
      config: the section `data` of the configuration.
      tokenizer: the model's tokenizer.

    Returns:
      The evaluator; None if `data.probes` is null.

    Raises:
      BadInput: the folder of `data.train` holds no tiny world.
    """
    if config.probes is None:
        return None
    return TinyWorldEvaluator(_folder(config), tokenizer)
