"""The weights that a run starts from: the model's, the adapters, the state before step 1."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from balora_jax import adapters, models
from balora_jax.adapters import peft_format
from balora_jax.config import RunConfig
from balora_jax.errors import BadInput
from balora_jax.objective.params import Params, Tree
from balora_jax.objective.spectrum import head_factor
from balora_jax.runs.adapter_head import Place, take_head
from balora_jax.runs.first_gradient import KernelGradients
from balora_jax.runs.peft_folder import peft_folder
from balora_jax.runs.setup import head_in_float32, label_count
from balora_jax.runs.whole_modules import trained_modules, untie, untied_model
from balora_jax.training.setup import Student, TrainSetup
from balora_jax.training.sharding import Rules, leaf_sharding, put, tree_shardings
from balora_jax.training.state import Path, TrainState, init_state, partition
from balora_jax.training.subtrees import select, without


def load_base(source: str, dtype: str, mesh: Mesh, revision: str | None = None) -> models.Loaded:
    """Load a language model without a run, with each weight placed on the mesh as it is read.

    Args:
      source: a Hugging Face folder or a hub id.
      dtype: element type of the weights and of the products.
      mesh: the devices.
      revision: the hub's branch, tag or commit.

    Raises:
      BadInput: the checkpoint cannot be used.
    """
    options = {"dtype": jnp.dtype(dtype), "revision": revision}
    model = models.load_model(source, **options)
    sharding_of = base_sharding(mesh, model.sharding_rules)
    return models.load_checkpoint(source, **options, sharding_of=sharding_of)


def load_model(config: RunConfig, mesh: Mesh) -> models.Loaded:
    """Load a model, with each weight placed on the mesh as it is read.

    Args:
      config: the run.
      mesh: the devices.

    Returns:
      The model, its weights and notes on them.

    Raises:
      BadInput: the checkpoint cannot be used, its head does not have the labels of the data, or the
        adapter to continue from has another head.
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
    sharding_of = base_sharding(mesh, model.sharding_rules)

    def place(path: Path, array: Any) -> jax.Array:
        return put(array, sharding_of(path, array.shape))

    def place_on_mesh(path: Path, array: jax.Array) -> jax.Array:
        return jax.device_put(array, sharding_of(path, array.shape))

    if section.from_scratch:
        params = models.init_params(model, key, sharding_of)
        return _from_adapter(config, models.Loaded(model, params, []), place)
    loaded = models.load_checkpoint(section.source, **options, sharding_of=sharding_of, key=key)
    if loaded.stored_labels is not None and not section.replace_head:
        raise BadInput(
            f"{section.source} has a head for {loaded.stored_labels} labels and the data has "
            f"{loaded.model.labels}; accepted: data with {loaded.stored_labels}, "
            "or model.replace_head true to start a fresh head"
        )
    if untied_model(config, loaded.model) is not loaded.model:
        loaded = untie(loaded, place_on_mesh)
    head = trained_modules(config, loaded)
    loaded = loaded._replace(params=head_in_float32(loaded.params, head))
    return _from_adapter(config, loaded, place)


def _from_adapter(config: RunConfig, loaded: models.Loaded, place: Place) -> models.Loaded:
    """The model with the head and the notes of the adapter that the run continues from, if any."""
    if config.method == "full" or adapters.find_start(config.adapter_init) is not None:
        return loaded
    folder = peft_folder(config.adapter_init)
    note = peft_format.conversion_note(folder)
    tensors = peft_format.load_whole_modules(folder)
    if tensors:
        modules = trained_modules(config, loaded)
        replace = config.model.replace_head
        loaded = take_head(loaded, modules, tensors, folder, place=place, replace=replace)
    return loaded if note is None else loaded._replace(notes=[*loaded.notes, note])


def materialize(
    config: RunConfig,
    setup: TrainSetup,
    base: Tree,
    initial: Tree | None = None,
    gradient: KernelGradients | None = None,
    pretrained: Tree | None = None,
) -> tuple[Student, TrainState]:
    """Add the weights to a setup: adapters, frozen parameters and the state before step 1.

    Args:
      config: the run.
      setup: from `build_setup`.
      base: the parameters of the model on the mesh; donated in the residual form and under method
        full.
      initial: the adapters of step 0, from a checkpoint or from `init_adapters`; None to make them
        here.
      gradient: from `first_gradient`, for the starts that need it.
      pretrained: the modules of the base that are trained whole, as pre-trained; those of `base` if
        None.

    Returns:
      The student and its state.

    Raises:
      BadInput: the start needs a gradient and there is none.
    """
    lora = _adapters_at_start(config, setup, base, initial, gradient)
    trainable, frozen = partition(_params(setup, base, lora, pretrained), setup.mask)
    make_state = functools.partial(init_state, optimizer=setup.optimizer, seed=config.training.seed)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)
    # Of the whole model there is no room for a copy; adapters may also be those of step 0.
    donated = 0 if config.method == "full" else None
    make_state = jax.jit(make_state, out_shardings=shardings, donate_argnums=donated)
    return Student(setup, _placed(setup, frozen)), make_state(trainable)


def materialize_frozen(
    config: RunConfig,
    setup: TrainSetup,
    base: Tree,
    initial: Tree | None = None,
    pretrained: Tree | None = None,
) -> Student:
    """Add the frozen weights alone to a setup, for a state that is read from a checkpoint.

    Args:
      config: the run.
      setup: as for `materialize`.
      base: likewise.
      initial: likewise.
      pretrained: likewise.

    Returns:
      The student.

    Raises:
      BadInput: as `materialize`.
    """
    lora = setup.state.trainable.adapters
    if setup.frozen.initial is not None:
        lora = _adapters_at_start(config, setup, base, initial, None)
    _, frozen = partition(_params(setup, base, lora, pretrained), setup.mask)
    return Student(setup, _placed(setup, frozen))


def _params(setup: TrainSetup, base: Tree, lora: Tree, pretrained: Tree | None) -> Params:
    """All parameters at step 0; the residual form overwrites the base."""
    start = None if setup.frozen.initial is None else lora
    if start is not None and setup.spec.form == "residual":
        residual = functools.partial(adapters.residual, spec=setup.spec)
        shardings = base_shardings(setup.mesh, base, setup.model.sharding_rules)
        base = jax.jit(residual, donate_argnums=0, out_shardings=shardings)(base, start)
    before = None
    if setup.frozen.pretrained is not None:
        # A copy, because the update overwrites the trained ones.
        before = jax.tree.map(jnp.copy, pretrained or select(base, setup.head))
    factor = None
    if setup.frozen.head_factor is not None:
        factor = jax.jit(head_factor)(models.head(setup.model, base))
    return Params(adapters=lora, base=base, head_factor=factor, initial=start, pretrained=before)


def _placed(setup: TrainSetup, frozen: Params) -> Params:
    """The frozen parameters with the shardings of the setup."""
    return jax.tree.map(
        lambda leaf, shape: jax.device_put(leaf, shape.sharding), frozen, setup.frozen
    )


def _adapters_at_start(
    config: RunConfig,
    setup: TrainSetup,
    base: Tree,
    initial: Tree | None,
    gradient: KernelGradients | None,
) -> Tree:
    """The adapters of step 0 on the mesh, given or made."""
    if initial is not None:
        return _on_mesh(setup, initial)
    return init_adapters(config, setup, base, gradient)


def init_adapters(
    config: RunConfig, setup: TrainSetup, base: Tree, gradient: KernelGradients | None = None
) -> Tree:
    """Make the adapters of step 0, on the mesh.

    Args:
      config: the run.
      setup: from `build_setup`.
      base: the parameters of the model on the mesh.
      gradient: from `first_gradient`, for the starts that need it.

    Returns:
      The tree of adapters; empty under method full. Decompositions may be under way: jax waits for
      them where their results are used.

    Raises:
      BadInput: the start needs a gradient and there is none.
    """
    if config.method == "full":
        return {}
    base = without(base, setup.head)
    start_and_settings = adapters.find_start(config.adapter_init)
    if start_and_settings is None:
        loaded = peft_format.load_adapter(peft_folder(config.adapter_init), base)
        return _on_mesh(setup, loaded)

    start, settings = start_and_settings
    if start.needs == "gradient":
        if gradient is None:
            raise BadInput(
                f"adapter.init is {config.adapter_init!r}, which needs the gradient of a first "
                "batch; accepted: a run that trains"
            )
        settings = settings | {"gradient": gradient}
    lora = start.init(
        base,
        adapters.match_targets(config.adapter.targets, base),
        setup.spec.rank,
        scale=setup.spec.scale,
        key=jax.random.key(config.training.seed),
        mesh=setup.mesh,
        **settings,
    )
    return _on_mesh(setup, lora)


def base_sharding(mesh: Mesh, rules: Rules) -> Callable[[Path, tuple[int, ...]], NamedSharding]:
    """Return a function of a base parameter's path and shape that gives its sharding."""

    def sharding_of(path: Path, shape: tuple[int, ...]) -> NamedSharding:
        return leaf_sharding(mesh, "/".join(("base", *path)), shape, rules)

    return sharding_of


def base_shardings(mesh: Mesh, base: Tree, rules: Rules) -> Tree:
    """The shardings of base parameters, or of a part of them."""
    return tree_shardings(mesh, {"base": base}, rules)["base"]


def _on_mesh(setup: TrainSetup, tree: Tree) -> Tree:
    shardings = tree_shardings(setup.mesh, tree, setup.model.sharding_rules)
    return jax.tree.map(jax.device_put, tree, shardings)
