"""A run before its model is loaded: its configuration, devices, folder, data and length."""

import dataclasses

import jax
from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.reporting.loggers.starting import check_loggers, read_identities
from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.classification import Classification
from balora_jax.runs.mesh import run_mesh
from balora_jax.runs.seq2seq_lm import Seq2SeqLM
from balora_jax.runs.task import Task
from balora_jax.training.memory import device_bytes
from balora_jax.training.processes import least
from balora_jax.training.run_folder import RunFolder

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
      mesh_note: why the mesh was chosen; None where it was not.
      folder: the run folder.
      resumes: True if the folder holds a run of this configuration, which is resumed.
      tokenizer: the tokenizer of the model.
      task: the data sets and their batches and evaluation.
      steps: updates in the run.
      device_memory: the memory of a device in bytes, the least of all processes; None if it is not
        known.
      extended_from: the updates that the run had before, if it now has more; None otherwise.
    """

    config: RunConfig
    mesh: Mesh
    mesh_note: str | None
    folder: RunFolder
    resumes: bool
    tokenizer: object
    task: Task
    steps: int
    device_memory: int | None
    extended_from: int | None = None


def set_up(config: RunConfig) -> Run:
    """Check a configuration as far as possible without the model, and read the data sets.

    Nothing is written.

    Args:
      config: the configuration of the run.

    Returns:
      The run.

    Raises:
      BadInput: a logger, the mesh, the attention, the folder, the tokenizer or a data set cannot be
        used.
    """
    check_loggers(config.output.loggers)
    devices = jax.devices()
    device_memory = least(device_bytes(jax.local_devices()[0]))
    mesh, mesh_note = run_mesh(config, devices, device_memory)
    models.check_attention(config.model.attention, mesh)
    folder = RunFolder(config.output.dir)
    resumes = folder.check(config)
    if resumes:
        read_identities(folder)

    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    task = TASKS[config.model.task](config, tokenizer)
    steps = _steps(config, task)
    before = _steps(folder.read_config(), task) if resumes else steps
    if steps < before:
        raise BadInput(
            f"training has {steps} updates, and the run in {folder.address} has {before}; "
            "accepted: as many, or more, which extends that run"
        )
    profiled = config.training.profiled
    if profiled is not None and profiled[0] > steps:
        raise BadInput(
            f"training.profile is {config.training.profile}, and the run has {steps} updates; "
            "accepted: updates of the run"
        )
    extended_from = before if steps > before else None
    return Run(
        config,
        mesh,
        mesh_note,
        folder,
        resumes,
        tokenizer,
        task,
        steps,
        device_memory,
        extended_from,
    )


def _steps(config: RunConfig, task: Task) -> int:
    """The updates of a run."""
    training = config.training
    return training.steps or data.steps_for(training.epochs, task.examples, training.batch_size)


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
