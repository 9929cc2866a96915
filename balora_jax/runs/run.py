"""A run before its model is loaded: its configuration, devices, folder, data and length."""

import dataclasses

from jax.sharding import Mesh

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.classification import Classification
from balora_jax.runs.seq2seq_lm import Seq2SeqLM
from balora_jax.runs.task import Task
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import check_batch, make_mesh

# The kinds of run by model.task: each makes a Task of (config, tokenizer).
TASKS = {
    "causal-lm": CausalLM,
    "seq2seq-lm": Seq2SeqLM,
    "sequence-classification": Classification,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose data sets have been read.

    Attributes:
      config: the resolved configuration.
      mesh: the devices.
      folder: the run folder.
      resumes: True if the folder holds a run of this configuration, which is resumed.
      tokenizer: the tokenizer of the model.
      task: the data sets and their batches and evaluation.
      steps: updates in the run.
    """

    config: RunConfig
    mesh: Mesh
    folder: RunFolder
    resumes: bool
    tokenizer: object
    task: Task
    steps: int


def set_up(config: RunConfig) -> Run:
    """Check a configuration as far as possible without the model, and read the data sets.

    Nothing is written.

    Args:
      config: the configuration of the run.

    Returns:
      The run.

    Raises:
      BadInput: the mesh, the folder, the tokenizer or a data set cannot be used.
    """
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.training.batch_size, config.training.accumulation)
    folder = RunFolder(config.output.dir)
    resumes = folder.check(config)

    tokenizer = data.load_tokenizer(
        config.model.tokenizer or config.model.source, config.model.revision
    )
    task = TASKS[config.model.task](config, tokenizer)
    steps = config.training.steps or data.steps_for(
        config.training.epochs, task.examples, config.training.batch_size
    )
    return Run(config, mesh, folder, resumes, tokenizer, task, steps)


def check_lengths(positions: int | None, length: int) -> None:
    """Check that the model has enough positions for the examples.

    Args:
      positions: the positions of the model; None if there is no limit.
      length: tokens of the longest batch.

    Raises:
      BadInput: the examples are too long.
    """
    if positions is not None and length > positions:
        raise BadInput(
            f"data.max_length makes batches of {length} tokens; "
            f"accepted: at most the model's {positions}"
        )
