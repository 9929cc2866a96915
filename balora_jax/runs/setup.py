"""The setup of a run: the update, built from shapes.

`build_setup` is the only function that builds a step. It needs a configuration, a model and a mesh,
but no weights and no devices, so that benchmarks can also compile for other hardware.
`runs.weights.materialize` fills it with weights.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from balora_jax import adapters, data, models
from balora_jax.adapters import AdapterSpec, peft_format
from balora_jax.config import RunConfig
from balora_jax.data import Batch
from balora_jax.data.batch import DTYPES, SCORE_DTYPE
from balora_jax.errors import BadInput
from balora_jax.objective import causal_lm, classification, seq2seq_lm, streamed
from balora_jax.objective.params import Params, Tree
from balora_jax.objective.spectrum import head_factor
from balora_jax.regularizers.terms import Terms, make_terms
from balora_jax.runs.peft_folder import peft_folder
from balora_jax.runs.whole_modules import LM_HEAD, modules_to_save, untied_model
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.precision import PRECISIONS, at_precision
from balora_jax.training.setup import TrainSetup
from balora_jax.training.sharding import Rules, tree_shardings
from balora_jax.training.state import Path, init_state, partition, trainable_mask
from balora_jax.training.step import Gradient, make_train_step, token_weighted, whole_batch
from balora_jax.training.subtrees import select, update, without
from balora_jax.training.term_schedules import weights_at

CLASSIFICATION = "sequence-classification"
# The modules with the losses of language models, by model.task.
LANGUAGE_TASKS = {"causal-lm": causal_lm, "seq2seq-lm": seq2seq_lm}


def label_count(config: RunConfig) -> int | None:
    """Return the number of outputs of the classification head; None for a language model.

    Args:
      config: the run.
    """
    if config.model.task != CLASSIFICATION:
        return None
    return data.text_task(config.data).outputs


def build_setup(
    config: RunConfig,
    model: Any,
    mesh: Mesh,
    *,
    steps: int,
    head: Sequence[Path] | None = None,
    whole_logits: bool = False,
) -> TrainSetup:
    """Build the update of a run from shapes; nothing is allocated.

    Args:
      config: the run.
      model: the Linen module, from `models.load_model` or from a configuration.
      mesh: the devices, which need not be present.
      steps: updates in the run, for schedules.
      head: the modules that are trained whole; by default a classifier's head, or those of
        `adapter.modules_to_save`.
      whole_logits: True to compute the objective of a language model from whole logits even if it
        could be streamed, for comparison.

    Returns:
      The setup. `CompiledStep(setup)` compiles it for the shape of a batch.

    Raises:
      BadInput: the targets match no layer, the rank is too large, the adapters' start does not
        exist, or a registered term fails.
    """
    classifies = config.model.task == CLASSIFICATION
    model = untied_model(config, model)
    base = models.abstract_params(model)
    if head is None:
        head = models.head_modules(model) if classifies else modules_to_save(config, base)
    base = head_in_float32(base, head)
    spec, lora_shapes, starts_at_zero = _abstract_adapters(config, without(base, head))
    head_frozen = not classifies and config.method != "full" and LM_HEAD not in head
    head_frozen = head_frozen and LM_HEAD[0] not in lora_shapes and not whole_logits
    terms = _make_terms(config, model)

    factor = None
    if head_frozen and streamed.uses_head_factor(terms, model.config.final_softcap):
        factor = jax.eval_shape(lambda tree: head_factor(models.head(model, tree)), base)
    params = Params(
        adapters=lora_shapes,
        base=base,
        head_factor=factor,
        initial=None if starts_at_zero else lora_shapes,
        pretrained=None if classifies or not head else select(base, head),
    )
    mask = trainable_mask(params, method=config.method, head=head)
    trainable, frozen = partition(params, mask)
    optimizer = make_optimizer(config.optimizer, steps, mask)
    state = jax.eval_shape(
        functools.partial(init_state, optimizer=optimizer, seed=config.training.seed), trainable
    )

    model = model.clone(
        dtype=PRECISIONS[config.training.precision].dtype,
        # Where nothing chooses by the memory of the devices.
        remat="none" if config.training.remat == "auto" else config.training.remat,
        lora_dropout=config.adapter.dropout,
        attention=models.attention_on(mesh, config.model.attention),
        mesh=mesh,
    )
    loss_mesh = mesh if mesh.size > 1 else None
    step = make_train_step(
        _gradient(config, model, spec, terms, head_frozen, loss_mesh),
        optimizer,
        mask,
        weights_at(config.acting_terms, steps),
        learning_rate(config.optimizer, steps),
    )
    return TrainSetup(
        model=model,
        spec=spec,
        terms=terms,
        mesh=mesh,
        mask=mask,
        optimizer=optimizer,
        step=at_precision(step, config.training.precision),
        state=_placed(mesh, state, model.sharding_rules),
        frozen=_placed(mesh, frozen, model.sharding_rules),
        head_frozen=head_frozen,
        head=tuple(head),
    )


def batch_shapes(
    config: RunConfig,
    model: Any,
    length: int,
    *,
    answer_length: int | None = None,
    packed_rows: int | None = None,
) -> Batch:
    """Return the shapes of an update's batch.

    Args:
      config: the run.
      model: the Linen module; may be None for a language model.
      length: tokens of a row.
      answer_length: tokens of the longest answer, for seq2seq-lm.
      packed_rows: rows that hold the examples of an update; None for one row each.

    Returns:
      A batch of shapes [examples, ...], or of packed ones [rows, ...].
    """
    examples = packed_rows or config.training.batch_size
    regression = is_regression(config)
    target_shape = {
        "causal-lm": (examples, length),
        "seq2seq-lm": (examples, answer_length),
        CLASSIFICATION: (examples,),
    }[config.model.task]
    token_type_ids = None
    if config.model.task != "causal-lm":
        token_type_ids = jax.ShapeDtypeStruct((examples, length), DTYPES.token_type_ids)
    teacher = None
    if _needs_teacher_column(config):
        reads_features = config.teacher_head == "student"
        width = model.config.hidden_size if reads_features else model.labels
        teacher = jax.ShapeDtypeStruct((examples, width), DTYPES.teacher)
    return Batch(
        input_ids=jax.ShapeDtypeStruct((examples, length), DTYPES.input_ids),
        attention_mask=jax.ShapeDtypeStruct((examples, length), DTYPES.attention_mask),
        targets=jax.ShapeDtypeStruct(target_shape, SCORE_DTYPE if regression else DTYPES.targets),
        mask=jax.ShapeDtypeStruct(target_shape, DTYPES.mask),
        token_type_ids=token_type_ids,
        teacher=teacher,
        positions=_packed_shape(packed_rows, length, DTYPES.positions),
        segment_ids=_packed_shape(packed_rows, length, DTYPES.segment_ids),
    )


def _packed_shape(rows: int | None, length: int, dtype: Any) -> jax.ShapeDtypeStruct | None:
    return None if rows is None else jax.ShapeDtypeStruct((rows, length), dtype)


def _needs_teacher_column(config: RunConfig) -> bool:
    """Return True if batches hold the teacher's outputs."""
    if config.model.task != CLASSIFICATION:
        return False
    terms = make_terms(config.acting_terms, "nlu")
    return any(term.needs_teacher for term in terms.values())


def teacher_passes(config: RunConfig, terms: Terms) -> bool:
    """Return True if a teacher runs in every update; a classifier's runs before the first one.

    Args:
      config: the run.
      terms: those that act.
    """
    if config.model.task == CLASSIFICATION:
        return False
    return any(term.needs_teacher for term in terms.values())


def is_regression(config: RunConfig) -> bool:
    """Return True if the run predicts scores."""
    if config.model.task != CLASSIFICATION:
        return False
    return data.text_task(config.data).scores is not None


def _make_terms(config: RunConfig, model: Any) -> Terms:
    """Make the terms that act."""
    if config.model.task == CLASSIFICATION:
        return make_terms(config.acting_terms, "nlu")
    return make_terms(config.acting_terms, "nlg")


def _gradient(
    config: RunConfig,
    model: Any,
    spec: AdapterSpec,
    terms: Terms,
    head_frozen: bool,
    loss_mesh: Mesh | None,
) -> Gradient:
    """The gradient of an update: per micro-batch, or of a classifier's whole batch."""
    if config.model.task == CLASSIFICATION:
        loss = classification.make_loss(
            model,
            spec,
            terms,
            regression=is_regression(config),
            student_head=config.teacher_head == "student",
        )
        return whole_batch(loss)
    task = LANGUAGE_TASKS[config.model.task]
    loss = task.make_loss(model, spec, terms, head_frozen=head_frozen, mesh=loss_mesh)
    return token_weighted(loss)


def _abstract_adapters(config: RunConfig, base: Tree) -> tuple[AdapterSpec, Tree, bool]:
    """The spec and the shapes of the adapters, and True if their product is zero at step 0."""
    section = config.adapter
    spec = AdapterSpec(section.rank, section.alpha, section.rank_stabilized, section.form)
    if config.method == "full":
        return spec, {}, True
    start_and_settings = adapters.find_start(config.adapter_init)
    if start_and_settings is None:
        shapes = peft_format.adapter_shapes(peft_folder(config.adapter_init), base)
        adapted = {path[:-1] for path in traverse_util.flatten_dict(shapes)}
        _check_embeddings(config, adapted, base)
        rank = jax.tree.leaves(shapes)[0].shape[-1]
        return AdapterSpec(rank, form=section.form), shapes, True
    paths = adapters.match_targets(section.targets, base)
    _check_embeddings(config, paths, base)
    adapters.check_rank(section.rank, paths, base)
    start, _ = start_and_settings
    make = functools.partial(adapters.init_lora, base, paths, section.rank)
    return spec, jax.eval_shape(make, key=jax.random.key(0)), start.zero


def _check_embeddings(config: RunConfig, paths: Iterable[Path], base: Tree) -> None:
    """Check that only a causal language model has adapters on its embeddings."""
    tables = [path for path in paths if path in adapters.embedding_tables(base)]
    if tables and config.model.task != "causal-lm":
        raise BadInput(
            f"the adapters have the embedding {adapters.dotted(tables[0])} under model.task "
            f"{config.model.task}; accepted: linear layers, or model.task causal-lm"
        )


def _placed(mesh: Mesh, tree: Any, rules: Rules) -> Any:
    """The shapes of a tree, with the sharding of every leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        tree_shardings(mesh, tree, rules),
    )


def head_in_float32(base: Tree, head: Sequence[Path]) -> Tree:
    """The base with the head in float32; leaves are arrays or shapes."""

    def in_float32(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=jnp.float32)
        return leaf.astype(jnp.float32)

    return update(base, jax.tree.map(in_float32, select(base, head)))
