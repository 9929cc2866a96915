"""Classifiers to evaluate: of a run, as trained and at step 0, or an encoder of a folder alone."""

import dataclasses

from jax.sharding import Mesh

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.text_classifier import TextClassifier
from balora_jax.objective.params import Tree
from balora_jax.runs.fingerprints import base_fingerprint
from balora_jax.runs.language_models import ADAPTER, BASE, identity
from balora_jax.runs.reopening import reopen, say_step
from balora_jax.training.checksums import hash_arrays
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.saved_checkpoints import SavedCheckpoints
from balora_jax.training.subtrees import select, update

# Tokens of a text for models that bound none.
LONGEST = 512


@dataclasses.dataclass(frozen=True)
class Subject:
    """A classifier to evaluate, and its identity.

    Attributes:
      classifier: the classifier.
      mesh: its devices; None for one that has no run.
      fingerprint: the hash of its weights and its tokenizer.
      step: the update of the run's checkpoint; None for a model without a run.
    """

    classifier: TextClassifier
    mesh: Mesh | None
    fingerprint: str
    step: int | None = None


def of_run(run: str, checkpoint: str, *, baseline: bool) -> list[Subject]:
    """Load a run's classifier, and the one that it began as.

    Before training, a classifier has the untouched pre-trained weights and the head of step 0,
    which is random, or fitted to the training set where `teacher_head` is probe.

    Args:
      run: the run's folder.
      checkpoint: a step, latest or best.
      baseline: whether the classifier of step 0 is wanted too.

    Returns:
      The fine-tuned classifier, and that of step 0 if it is wanted.

    Raises:
      BadInput: the folder holds no such checkpoint, or the head of step 0 is not known.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    if baseline and config.method == "full":
        raise BadInput(
            f"--run {folder.address} trained every weight of a classifier (method full), and has "
            "not those of step 0 to compare with; accepted: a run with adapters, or balora "
            "evaluate without --baseline"
        )
    student, state, step = reopen(folder, config, checkpoint)
    say_step(folder, step)
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    params = student.params(state).base
    lora = None if config.method == "full" else student.delta_lora(state)
    head = select(params, student.setup.head)
    weights = base_fingerprint(config.model.source, config.model.revision)

    def subject(name: str, params: Tree, lora: Tree | None, trained: Tree) -> Subject:
        options = {"max_length": config.data.max_length}
        classifier = TextClassifier(name, student.model, params, lora, tokenizer, **options)
        fingerprint = identity(weights, hash_arrays(trained), tokenizer)
        return Subject(classifier, student.setup.mesh, fingerprint, step)

    trained = params if lora is None else {"lora": lora, "head": head}
    subjects = [subject(ADAPTER, params, lora, trained)]
    if baseline:
        first_head = _first_head(folder, head)
        subjects.append(subject(BASE, update(params, first_head), None, {"head": first_head}))
    return subjects


def of_model(source: str) -> list[Subject]:
    """Load an encoder without a run, for its hidden states; a head that it lacks is random.

    Args:
      source: a Hugging Face folder or a hub id.

    Raises:
      BadInput: the model cannot be used.
    """
    loaded = models.load_checkpoint(source, task=models.CLASSIFICATION, num_labels=2)
    tokenizer = data.load_tokenizer(source)
    options = {"max_length": loaded.model.config.max_length or LONGEST}
    classifier = TextClassifier(BASE, loaded.model, loaded.params, None, tokenizer, **options)
    return [Subject(classifier, None, identity(base_fingerprint(source), "", tokenizer))]


def is_classifier(config: RunConfig) -> bool:
    """Tell whether a run trains a classifier.

    Args:
      config: of the run.
    """
    return config.model.task == models.CLASSIFICATION


def _first_head(folder: RunFolder, head: Tree) -> Tree:
    """The head of step 0."""
    checkpoints = SavedCheckpoints(folder.checkpoints)
    first = checkpoints.restore_initial(head, "head")
    if first is None:
        raise BadInput(
            f"{folder.checkpoints} has no head of step 0 to compare with; accepted: a run "
            "that saved it, in checkpoints/initial/head"
        )
    return first
