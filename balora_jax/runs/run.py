"""A run before it begins: its configuration, its devices, its folder, its length."""

import dataclasses

import jax
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
    """Everything about a run that is known when its sets have been read.

    Attributes:
      config: as it was resolved.
      mesh: the devices.
      folder: where it is written.
      resumes: whether the folder holds a run of this configuration, which is resumed.
      tokenizer: the model's.
      task: the sets, and what the kind of run makes of them.
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
    """Check what can be checked without the model, and read the sets; nothing is written.

    Args:
      config: the run.

    Raises:
      BadInput: the mesh, the folder, the tokenizer or a set cannot be used.
    """
    if config.mesh.distributed:
        jax.distributed.initialize()
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
    """Raise BadInput if examples are longer than the model's positions; None: it has any number."""
    if positions is not None and length > positions:
        raise BadInput(
            f"data.max_length makes batches of {length} tokens; "
            f"accepted: at most the model's {positions}"
        )
