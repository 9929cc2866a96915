"""The setup of a run: the update, built from shapes, and then the weights that it starts from.

`build_setup` is the only function that builds a step. It needs a configuration, a model and a mesh,
but no weights and no devices, so that benchmarks can also compile for other hardware.
`materialize` adds the weights.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import adapters, data, models
from balora_jax.adapters import AdapterSpec, peft_format
from balora_jax.config import RunConfig
from balora_jax.config.adapter import START_SETTINGS, start_spellings
from balora_jax.data import Batch
from balora_jax.data.batch import DTYPES, SCORE_DTYPE
from balora_jax.errors import BadInput
from balora_jax.objective import causal_lm, classification, seq2seq_lm, streamed
from balora_jax.objective.params import Params, Tree
from balora_jax.objective.spectrum import head_factor
from balora_jax.regularizers.registration import check_registered
from balora_jax.regularizers.terms import Terms, make_terms
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.setup import Student, TrainSetup
from balora_jax.training.sharding import Rules, batch_sharding, leaf_sharding, put, tree_shardings
from balora_jax.training.state import Path, TrainState, init_state, partition, trainable_mask
from balora_jax.training.step import Gradient, make_train_step, token_weighted, whole_batch
from balora_jax.training.term_schedules import weights_at

CLASSIFICATION = "sequence-classification"
# The modules with the losses of language models, by model.task.
LANGUAGE_TASKS = {"causal-lm": causal_lm, "seq2seq-lm": seq2seq_lm}
KernelGradients = Mapping[Path, jax.Array]


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
      head: the modules of a classifier that are fully trained; its head by default.
      whole_logits: True to compute the objective of a language model from whole logits even if it
        could be streamed, for comparison.

    Returns:
      The setup. `CompiledStep(setup)` compiles it for the shape of a batch.

    Raises:
      BadInput: the targets match no layer, the rank is too large, the adapters' start does not
        exist, or a registered term fails.
    """
    classifies = config.model.task == CLASSIFICATION
    if head is None:
        head = models.head_modules(model) if classifies else ()
    base = _head_in_float32(models.abstract_params(model), head)
    spec, lora_shapes, starts_at_zero = _abstract_adapters(config, without(base, head))
    head_frozen = not classifies and config.method != "full" and "lm_head" not in lora_shapes
    head_frozen = head_frozen and not whole_logits
    terms = _make_terms(config, model)

    factor = None
    if head_frozen and streamed.uses_head_factor(terms, model.config.final_softcap):
        factor = jax.eval_shape(lambda tree: head_factor(models.head(model, tree)), base)
    params = Params(
        adapters=lora_shapes,
        base=base,
        head_factor=factor,
        initial=None if starts_at_zero else lora_shapes,
    )
    mask = trainable_mask(params, method=config.method, head=head)
    trainable, frozen = partition(params, mask)
    optimizer = make_optimizer(config.optimizer, steps, mask)
    state = jax.eval_shape(
        functools.partial(init_state, optimizer=optimizer, seed=config.training.seed), trainable
    )

    model = model.clone(
        dtype=jnp.dtype(config.training.precision),
        remat=config.training.remat,
        lora_dropout=config.adapter.dropout,
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
        step=step,
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
) -> Batch:
    """Return the shapes of an update's batch.

    Args:
      config: the run.
      model: the Linen module; may be None for a language model.
      length: tokens of a row.
      answer_length: tokens of the longest answer, for seq2seq-lm.

    Returns:
      A batch of shapes [examples, ...].
    """
    examples = config.training.batch_size
    regression = _is_regression(config)
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
    )


def _needs_teacher_column(config: RunConfig) -> bool:
    """Return True if batches hold the teacher's outputs."""
    if config.model.task != CLASSIFICATION:
        return False
    terms = make_terms(config.acting_terms, "nlu")
    return any(term.needs_teacher for term in terms.values())


def _is_regression(config: RunConfig) -> bool:
    if config.model.task != CLASSIFICATION:
        return False
    return data.text_task(config.data).scores is not None


def _make_terms(config: RunConfig, model: Any) -> Terms:
    """Make the terms that act, and check the registered ones."""
    if config.model.task == CLASSIFICATION:
        terms = make_terms(config.acting_terms, "nlu")
        check_registered(terms, (6,), model.labels)
    else:
        terms = make_terms(config.acting_terms, "nlg")
        check_registered(terms, (2, 3), model.config.vocab_size)
    return terms


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
            regression=_is_regression(config),
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
    paths = adapters.match_targets(section.targets, base)
    adapters.check_rank(section.rank, paths, base)
    start_and_settings = adapters.find_start(config.adapter_init)
    if start_and_settings is None:
        loaded = peft_format.load_adapter(_peft_folder(config.adapter_init), base)
        rank = jax.tree.leaves(loaded)[0].shape[-1]
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), loaded)
        return AdapterSpec(rank, form=section.form), shapes, True
    start, _ = start_and_settings
    make = functools.partial(adapters.init_lora, base, paths, section.rank)
    return spec, jax.eval_shape(make, key=jax.random.key(0)), start.zero


def _peft_folder(init: str) -> pathlib.Path:
    """The folder of the PEFT adapter that adapter.init names."""
    folder = pathlib.Path(init).expanduser()
    if not folder.is_dir():
        names = [spelling for name in START_SETTINGS for spelling in start_spellings(name)]
        raise BadInput(
            f"adapter.init is {init!r}; accepted: {', '.join(names)}, or a PEFT adapter's folder"
        )
    return folder


def _placed(mesh: Mesh, tree: Any, rules: Rules) -> Any:
    """The shapes of a tree, with the sharding of every leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        tree_shardings(mesh, tree, rules),
    )


def load_model(config: RunConfig, mesh: Mesh) -> models.Loaded:
    """Load a model, with each weight placed on the mesh as it is read.

    Args:
      config: the run.
      mesh: the devices.

    Returns:
      The model, its weights and notes on them.

    Raises:
      BadInput: the checkpoint cannot be used, or its head does not have the labels of the data.
    """
    # Weights that are trained stay in float32: bfloat16 would round small updates away.
    dtype = jnp.dtype("float32" if config.method == "full" else config.model.dtype)
    section = config.model
    key = jax.random.key(config.training.seed)
    options = {
        "task": section.task,
        "num_labels": label_count(config),
        "dtype": dtype,
        "revision": section.revision,
    }

    model = models.load_model(section.source, **options)
    rules = model.sharding_rules

    def place(path: Path, array: Any) -> jax.Array:
        return put(array, leaf_sharding(mesh, "/".join(("base", *path)), array.shape, rules))

    if section.from_scratch:
        shardings = base_shardings(mesh, models.abstract_params(model), rules)
        params = jax.tree.map(jax.device_put, models.init_params(model, key), shardings)
        return models.Loaded(model, params, [])
    loaded = models.load_checkpoint(section.source, **options, place=place, key=key)
    if loaded.stored_labels is not None and not section.replace_head:
        raise BadInput(
            f"{section.source} has a head for {loaded.stored_labels} labels and the data has "
            f"{loaded.model.labels}; accepted: data with {loaded.stored_labels}, "
            "or model.replace_head true to start a fresh head"
        )
    return loaded._replace(params=_head_in_float32(loaded.params, trained_head(loaded)))


def trained_head(loaded: models.Loaded) -> tuple[Path, ...]:
    """List the modules of a classifier that are fully trained: its head, and a fresh pooler.

    Args:
      loaded: from `load_model`.

    Returns:
      The paths of the modules; empty for a language model.
    """
    if not hasattr(loaded.model, "labels"):
        return ()
    head = models.head_modules(loaded.model)
    return (*head, *(module for module in loaded.fresh if module[:1] not in head))


def materialize(
    config: RunConfig,
    setup: TrainSetup,
    base: Tree,
    initial: Tree | None = None,
    gradient: KernelGradients | None = None,
) -> tuple[Student, TrainState]:
    """Add the weights to a setup: adapters, frozen parameters and the state before step 1.

    Args:
      config: the run.
      setup: from `build_setup`.
      base: the parameters of the model on the mesh; donated in the residual form.
      initial: the adapters of step 0 of a resumed run; None to initialize them.
      gradient: from `first_gradient`, for the starts that need it.

    Returns:
      The student and its state.

    Raises:
      BadInput: the start needs a gradient and there is none.
    """
    mesh = setup.mesh
    rules = setup.model.sharding_rules
    lora = _init_adapters(config, setup, without(base, setup.head), initial, gradient)
    start = None if setup.frozen.initial is None else lora
    if start is not None and setup.spec.form == "residual":
        residual = functools.partial(adapters.residual, spec=setup.spec)
        shardings = base_shardings(mesh, base, rules)
        base = jax.jit(residual, donate_argnums=0, out_shardings=shardings)(base, start)
    factor = None
    if setup.frozen.head_factor is not None:
        factor = jax.jit(head_factor)(models.head(setup.model, base))
    params = Params(adapters=lora, base=base, head_factor=factor, initial=start)
    trainable, frozen = partition(params, setup.mask)

    make_state = functools.partial(init_state, optimizer=setup.optimizer, seed=config.training.seed)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)
    state = jax.jit(make_state, out_shardings=shardings)(trainable)
    frozen = jax.tree.map(
        lambda leaf, shape: jax.device_put(leaf, shape.sharding), frozen, setup.frozen
    )
    return Student(setup, frozen), state


def _init_adapters(
    config: RunConfig,
    setup: TrainSetup,
    base: Tree,
    initial: Tree | None,
    gradient: KernelGradients | None,
) -> Tree:
    """Make the adapters of step 0, on the mesh."""
    if config.method == "full":
        return {}
    if initial is not None:
        return _on_mesh(setup, initial)
    start_and_settings = adapters.find_start(config.adapter_init)
    if start_and_settings is None:
        loaded = peft_format.load_adapter(_peft_folder(config.adapter_init), base)
        return _on_mesh(setup, loaded)

    start, settings = start_and_settings
    if start.needs == "gradient":
        if gradient is None:
            raise BadInput(
                f"adapter.init is {config.adapter_init!r}, which needs the gradient of a first "
                "batch; accepted: a run that trains"
            )
        settings = settings | {"gradient": gradient}
    replicated = NamedSharding(setup.mesh, P())
    lora = start.init(
        base,
        adapters.match_targets(config.adapter.targets, base),
        setup.spec.rank,
        scale=setup.spec.scale,
        key=jax.random.key(config.training.seed),
        gather=functools.partial(jax.lax.with_sharding_constraint, shardings=replicated),
        **settings,
    )
    return _on_mesh(setup, lora)


def needs_gradient(config: RunConfig) -> bool:
    """Return True if the adapters' start needs the gradient of the first batch.

    Args:
      config: the run.
    """
    start_and_settings = adapters.find_start(config.adapter_init)
    if config.method == "full" or start_and_settings is None:
        return False
    start, _ = start_and_settings
    return start.needs == "gradient"


def first_gradient(
    config: RunConfig, setup: TrainSetup, base: Tree, batch: Batch
) -> KernelGradients:
    """Compute the gradient of the task loss with respect to every target kernel.

    The gradient takes as much memory as those kernels in float32.

    Args:
      config: the run.
      setup: from `build_setup`.
      base: the parameters of the model on the mesh.
      batch: the first batch of the run, numpy arrays [examples, ...].

    Returns:
      {path: [in, out] or [layers, in, out]}, float32: the mean over the batch's counted tokens.
    """
    paths = adapters.match_targets(config.adapter.targets, without(base, setup.head))
    task_loss = _task_loss(config, setup)

    @jax.jit
    def gradient_of(base: Tree, micro_batch: Batch) -> tuple[KernelGradients, jax.Array]:
        counted = jnp.sum(micro_batch.mask)

        def loss(base: Tree) -> jax.Array:
            return counted * task_loss(Params(adapters={}, base=base), micro_batch)

        kernels = adapters.kernel_gradients(loss, base, paths)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), kernels), counted

    sharding = batch_sharding(setup.mesh)
    accumulation = config.training.accumulation
    total = None
    for index in range(accumulation):

        def micro_batch_of(array: np.ndarray, index: int = index) -> jax.Array:
            part = np.array_split(array, accumulation)[index]
            return put(part[None], sharding)[0]

        sums = gradient_of(base, jax.tree.map(micro_batch_of, batch))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    kernels, counted = total
    return jax.tree.map(lambda leaf: leaf / counted, kernels)


def _task_loss(config: RunConfig, setup: TrainSetup) -> Callable[[Params, Batch], jax.Array]:
    """Make the function (params, micro-batch) -> the mean task loss over the counted tokens."""
    if config.model.task != CLASSIFICATION:
        task = LANGUAGE_TASKS[config.model.task]
        return task.make_task_loss(
            setup.model, setup.spec, head_frozen=setup.head_frozen, mesh=setup.loss_mesh
        )
    logits_of = classification.make_logits(setup.model, setup.spec)
    loss = classification.task_loss(_is_regression(config))
    return lambda params, batch: loss(logits_of(params, batch), batch.targets, batch.mask)


def select(tree: Tree, modules: Sequence[Path]) -> Tree:
    """Return the part of a tree inside some modules.

        select({"head": {"w": 1}, "body": {"w": 2}}, [("head",)])  ->  {"head": {"w": 1}}

    Args:
      tree: a nested dict.
      modules: the paths of the modules.
    """
    flat = traverse_util.flatten_dict(tree)
    chosen = {path: leaf for path, leaf in flat.items() if _inside(path, modules)}
    return traverse_util.unflatten_dict(chosen)


def without(tree: Tree, modules: Sequence[Path]) -> Tree:
    """Return the part of a tree outside some modules.

        without({"head": {"w": 1}, "body": {"w": 2}}, [("head",)])  ->  {"body": {"w": 2}}

    Args:
      tree: a nested dict.
      modules: the paths of the modules.
    """
    flat = traverse_util.flatten_dict(tree)
    chosen = {path: leaf for path, leaf in flat.items() if not _inside(path, modules)}
    return traverse_util.unflatten_dict(chosen)


def update(tree: Tree, part: Tree) -> Tree:
    """Return a tree with the leaves of `part` in place of its own leaves.

        update({"head": {"w": 1}, "body": {"w": 2}}, {"head": {"w": 3}})
          ->  {"head": {"w": 3}, "body": {"w": 2}}

    Args:
      tree: a nested dict.
      part: a nested dict with some of its leaves.
    """
    flat = traverse_util.flatten_dict(tree) | traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)


def _inside(path: Path, modules: Sequence[Path]) -> bool:
    return any(path[: len(module)] == module for module in modules)


def _head_in_float32(base: Tree, head: Sequence[Path]) -> Tree:
    """The base with the head in float32; leaves are arrays or shapes."""

    def in_float32(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=jnp.float32)
        return leaf.astype(jnp.float32)

    return update(base, jax.tree.map(in_float32, select(base, head)))


def base_shardings(mesh: Mesh, base: Tree, rules: Rules) -> Tree:
    """The shardings of base parameters, or of a part of them."""
    return tree_shardings(mesh, {"base": base}, rules)["base"]


def _on_mesh(setup: TrainSetup, tree: Tree) -> Tree:
    shardings = tree_shardings(setup.mesh, tree, setup.model.sharding_rules)
    return jax.tree.map(jax.device_put, tree, shardings)
