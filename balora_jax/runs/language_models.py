"""Language models to evaluate: of a run, with and without its adapters, or of a folder alone."""

import dataclasses
import hashlib
import sys

from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import MeshConfig, RunConfig
from balora_jax.errors import BadInput
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.runs.fingerprints import base_fingerprint
from balora_jax.runs.reopening import reopen, say_step
from balora_jax.runs.weights import load_base
from balora_jax.training.checksums import hash_arrays
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import make_mesh, row_sharding
from balora_jax.training.subtrees import select

ADAPTER = "adapter"
BASE = "base"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A language model to evaluate, and its identity.

    Attributes:
      language_model: the model.
      fingerprint: the hash of its weights and its tokenizer.
      step: the update of the run's checkpoint; None for a model without a run.
    """

    language_model: LanguageModel
    fingerprint: str
    step: int | None = None


def of_run(run: str, checkpoint: str, *, baseline: bool, batch_tokens: int) -> list[Subject]:
    """Load a run's language model, and the same weights without its adapters.

    Args:
      run: the run's folder.
      checkpoint: a step, latest or best.
      baseline: whether the model without the adapters is wanted too.
      batch_tokens: tokens of a batch.

    Returns:
      The fine-tuned model, and the base if it is wanted.

    Raises:
      BadInput: the folder holds no run of a causal language model, or no such checkpoint.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    if config.model.task != "causal-lm":
        raise BadInput(
            f"--run {folder.address} is of model.task {config.model.task}; "
            "accepted: a run of causal-lm or sequence-classification"
        )
    student, state, step = reopen(folder, config, checkpoint)
    say_step(folder, step)
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    base = student.params(state).base
    full = config.method == "full"
    lora = None if full else student.delta_lora(state)
    options = {
        "end_ids": models.end_ids(config.model.source, config.model.revision),
        "sharding": row_sharding(student.setup.mesh),
        "batch_tokens": batch_tokens,
    }
    tuned = LanguageModel(ADAPTER, student.model, base, lora, tokenizer, **options)
    weights = base_fingerprint(config.model.source, config.model.revision)
    head = select(base, student.setup.head)
    trained = hash_arrays(base if full else {"lora": lora, "head": head} if head else lora)
    subjects = [Subject(tuned, identity(weights, trained, tokenizer), step)]
    if baseline:
        params = _base_params(config, student.setup.mesh) if full else student.base_params(state)
        untouched = LanguageModel(BASE, student.model, params, None, tokenizer, **options)
        subjects.append(Subject(untouched, identity(weights, "", tokenizer), step))
    return subjects


def of_model(source: str, *, batch_tokens: int) -> list[Subject]:
    """Load a language model without a run.

    Args:
      source: a Hugging Face folder or a hub id.
      batch_tokens: tokens of a batch.

    Raises:
      BadInput: the model cannot be used.
    """
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    loaded = load_base(source, "float32", mesh)
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)
    tokenizer = data.load_tokenizer(source)
    options = {
        "end_ids": models.end_ids(source),
        "sharding": row_sharding(mesh),
        "batch_tokens": batch_tokens,
    }
    language_model = LanguageModel(BASE, loaded.model, loaded.params, None, tokenizer, **options)
    return [Subject(language_model, identity(base_fingerprint(source), "", tokenizer))]


def _base_params(config: RunConfig, mesh: Mesh) -> dict:
    """The weights before a run that trained all of them."""
    section = config.model
    return load_base(section.source, section.dtype, mesh, section.revision).params


def identity(weights: str, trained: str, tokenizer: object) -> str:
    """Hash what decides the answers of a model.

    Args:
      weights: the fingerprint of the base.
      trained: that of the trained weights; empty for none.
      tokenizer: the tokenizer.
    """
    text = f"{weights} {trained} {data.tokenizer_fingerprint(tokenizer)}"
    return hashlib.sha256(text.encode()).hexdigest()
