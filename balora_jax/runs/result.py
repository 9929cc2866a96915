"""A run's trained model, for Python: at its end, or at one of its checkpoints."""

import dataclasses
import json
import pathlib
from typing import Any

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput, reason_of
from balora_jax.runs.copies import reading
from balora_jax.runs.reopening import reopen
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.setup import Student
from balora_jax.training.state import TrainState
from balora_jax.training.summary import Summary

Tree = Any


@dataclasses.dataclass(frozen=True)
class Result:
    """A run's trained model.

    Of a causal language model `result.model.apply({"params": result.params, "lora":
    result.adapter}, input_ids)` are the logits.

    Attributes:
      config: of the run.
      model: the Linen module.
      params: the weights that the adapter belongs to, with the trained head of a classifier; of
        method full the trained ones.
      adapter: the `lora` collection, with the scale folded in; {} of method full.
      step: the update that the weights are of.
      summary: the content of summary.json; None for a run that has not ended.
    """

    config: RunConfig
    model: Any
    params: Tree
    adapter: Tree
    step: int
    summary: Summary | None

    @property
    def tokenizer(self) -> Any:
        """The run's tokenizer, a Hugging Face one."""
        model = self.config.model
        return data.load_tokenizer(model.tokenizer_source, model.revision)


def load_run(folder: str | pathlib.Path, checkpoint: str | int = "latest") -> Result:
    """Load a run's model at one of its checkpoints.

    Args:
      folder: the run's folder, or its address in a bucket.
      checkpoint: a step, latest, or best (by held-out loss).

    Returns:
      The model; its summary is that of the run's end.

    Raises:
      BadInput: the folder holds no run, or no such checkpoint.
    """
    with reading(str(folder)):
        run = RunFolder(str(folder))
        config = run.read_config()
        student, state, step = reopen(run, config, str(checkpoint))
        return result_of(config, student, state, step, _read_summary(run.summary))


def result_of(
    config: RunConfig, student: Student, state: TrainState, step: int, summary: Summary | None
) -> Result:
    """Join the parts of a result.

    Args:
      config: of the run.
      student: the model and its frozen weights.
      state: with the trained weights.
      step: the update of that state.
      summary: the content of summary.json; None for a run that has not ended.
    """
    lora = {} if config.method == "full" else student.lora(state)
    return Result(config, student.model, student.params(state).base, lora, step, summary)


def _read_summary(path: pathlib.Path) -> Summary | None:
    if not path.is_file():
        return None
    try:
        return Summary.of_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read ({reason_of(error)}); accepted: the file as the run wrote it"
        ) from error
