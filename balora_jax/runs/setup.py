"""From a configuration to what is trained: model, frozen weights, adapters and the state of a run, on the mesh."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax import adapters, data, models
from balora_jax.objective import streamed
from balora_jax.adapters import AdapterSpec, peft_format
from balora_jax.config import RunConfig
from balora_jax.config.adapter import START_SETTINGS, start_spellings
from balora_jax.errors import BadInput
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.optimizer import make_optimizer
from balora_jax.training.sharding import leaf_sharding, put, tree_shardings
from balora_jax.training.state import TrainState, combine, init_state, partition, trainable_mask

Tree = Any
Path = tuple[str, ...]


@dataclasses.dataclass
class Assembly:
    """A run's parts, before its first step.

    Attributes:
      model: in its compute dtype, with its remat policy and dropout rate.
      spec: what the adapters mean.
      mask: True at the trained leaves of {"base", "adapters", "initial", "factor"}.
      frozen: those that are not trained, on the mesh.
      state: the rest, with the optimizer's state.
      optimizer: masked likewise.
      head_frozen: whether a language model's output layer is neither trained nor adapted, so that the objective can
        stream.
      head: a classifier's modules that are trained whole.
    """

    model: Any
    spec: AdapterSpec
    mask: Tree
    frozen: Tree
    state: TrainState
    optimizer: optax.GradientTransformation
    head_frozen: bool
    head: tuple[Path, ...]

    def base(self, state: TrainState) -> Tree:
        """The model's own parameters, the trained ones among them as they are now."""
        return combine(state.trainable, self.frozen, self.mask)["base"]

    def change(self, state: TrainState) -> Tree:
        """What training has made of the untouched base, as a `lora` collection with the scale folded in."""
        initial = self.frozen["initial"] or None
        delta = dataclasses.replace(self.spec, form="delta")
        return adapters.student_lora(state.trainable["adapters"], initial, delta)


def label_count(config: RunConfig) -> int | None:
    """Outputs of the classification head; None for a language model."""
    return data.text_task(config.data).outputs if config.model.task == "sequence-classification" else None


def load_model(config: RunConfig, mesh: Mesh) -> models.Loaded:
    """The model and its weights, each leaf put where it lies on the mesh as it is read.

    Raises:
      BadInput: the checkpoint cannot be used, or its head has other labels than the data.
    """
    # What is trained itself is kept in float32: bfloat16 would round small updates away.
    dtype = jnp.dtype("float32" if config.method == "full" else config.model.dtype)
    section, key = config.model, jax.random.key(config.training.seed)
    does = {"task": section.task, "num_labels": label_count(config), "dtype": dtype, "revision": section.revision}

    def place(path: Path, array: Any) -> jax.Array:
        return put(array, leaf_sharding(mesh, "/".join(("base", *path)), array.shape))

    if section.from_scratch:
        model = models.load_model(section.source, **does)
        places = _shardings(mesh, models.abstract_params(model))
        return models.Loaded(model, jax.tree.map(jax.device_put, models.init_params(model, key), places), [])
    loaded = models.load_checkpoint(section.source, **does, place=place, key=key)
    if loaded.stored_labels is not None and not section.replace_head:
        raise BadInput(
            f"{section.source} has a head for {loaded.stored_labels} labels and the data has {loaded.model.labels}; "
            f"accepted: data with {loaded.stored_labels}, or model.replace_head true to start a fresh head"
        )
    return loaded._replace(params=_in_float32(loaded.params, trained_head(loaded)))


def trained_head(loaded: models.Loaded) -> tuple[Path, ...]:
    """A classifier's modules that are trained whole: its head, and what else starts fresh (BERT's pooler)."""
    if not hasattr(loaded.model, "labels"):
        return ()
    head = models.head_modules(loaded.model)
    return (*head, *(module for module in loaded.fresh if module[:1] not in head))


def take(tree: Tree, modules: Sequence[Path], inside: bool = True) -> Tree:
    """The part of a tree that lies in the modules named, or (inside False) the rest."""
    flat = traverse_util.flatten_dict(tree)
    chosen = {path for path in flat if any(path[: len(module)] == module for module in modules)}
    return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if (path in chosen) == inside})


def replace(tree: Tree, part: Tree) -> Tree:
    """The tree with the leaves of `part` in the place of its own."""
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(tree) | traverse_util.flatten_dict(part))


def _in_float32(base: Tree, modules: Sequence[Path]) -> Tree:
    return replace(base, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), take(base, modules)))


def _shardings(mesh: Mesh, base: Tree) -> Tree:
    return tree_shardings(mesh, {"base": base})["base"]


def assemble(config: RunConfig, loaded: models.Loaded, mesh: Mesh, steps: int, initial: Tree | None = None) -> Assembly:
    """Adds adapters, mask and optimizer to a loaded model.

    Args:
      config: the run.
      loaded: from `load_model`; its parameters are donated in the residual form.
      mesh: where things lie.
      steps: updates in the run, for the learning rate.
      initial: the adapters of step 0 of a run that is gone on with; made afresh if None.
    """
    model, base, head = loaded.model, loaded.params, trained_head(loaded)
    spec, trained, start = init_adapters(config, take(base, head, inside=False), mesh, initial)
    if start is not None and spec.form == "residual":
        residual = functools.partial(adapters.residual, spec=spec)
        base = jax.jit(residual, donate_argnums=0, out_shardings=_shardings(mesh, base))(base, start)
    writes = config.model.task != "sequence-classification"
    head_frozen = writes and config.method != "full" and "lm_head" not in trained
    factor = head_factor(config, model, base) if head_frozen else {}
    params = {"base": base, "adapters": trained, "initial": start or {}, "factor": factor}
    mask = trainable_mask(params, method=config.method, head=head)
    trainable, frozen = partition(params, mask)
    optimizer = make_optimizer(config.optimizer, steps, mask)
    make = functools.partial(init_state, optimizer=optimizer, seed=config.training.seed)
    shardings = tree_shardings(mesh, jax.eval_shape(make, trainable))
    state = jax.jit(make, out_shardings=shardings)(trainable)
    model = model.clone(
        dtype=jnp.dtype(config.training.precision), remat=config.training.remat, lora_dropout=config.adapter.dropout
    )
    return Assembly(model, spec, mask, frozen, state, optimizer, head_frozen, head)


def head_factor(config: RunConfig, model: Any, base: Tree) -> Tree:
    """What the SVD term needs of a frozen head, computed once a run; nothing where that term does not act.

    With a soft cap on the logits there is no such factor, and that term alone is computed from whole logits.
    """
    head = models.head(model, base)
    if config.active_regularizers.svd.weight == 0 or head.softcap is not None:
        return {}
    return {"head": jax.jit(streamed.head_factor)(head)}


def restore_initial(config: RunConfig, checkpoints: Checkpoints, loaded: models.Loaded, mesh: Mesh) -> Tree | None:
    """The adapters of step 0 of a run that is gone on with; None if they are not on disk, or there are none."""
    base = take(loaded.params, trained_head(loaded), inside=False)
    found = adapters.find_start(config.adapter_init)
    if config.method == "full" or found is None or found[0].zero:
        return None
    paths = adapters.match_targets(config.adapter.targets, base)
    make = functools.partial(adapters.init_lora, base, paths, config.adapter.rank)
    shapes = jax.eval_shape(make, jax.random.key(0))
    places = tree_shardings(mesh, shapes)
    return checkpoints.restore_initial(jax.tree.map(lambda leaf, place: leaf.update(sharding=place), shapes, places))


def restore_head(checkpoints: Checkpoints, loaded: models.Loaded) -> Tree | None:
    """A classifier's head of step 0 of a run that is gone on with; None if it is not on disk."""
    return checkpoints.restore_initial(take(loaded.params, trained_head(loaded)), "head")


def init_adapters(
    config: RunConfig,
    base: Tree,
    mesh: Mesh,
    initial: Tree | None,
    gradient: Mapping[Path, jax.Array] | None = None,
) -> tuple[AdapterSpec, Tree, Tree | None]:
    """Initialize the adapters of a run, on the mesh.

    Args:
      config: the run.
      base: the frozen parameters that may be adapted.
      mesh: the devices.
      initial: the adapters of step 0 of a resumed run; computed afresh if None.
      gradient: the task loss's gradient with respect to every target kernel, for the starts that need it.

    Returns:
      The spec; the adapters; and the adapters of step 0, or None where their A B is zero.

    Raises:
      BadInput: targets that match nothing, a rank too large, an unknown start, or no gradient for a start that
        needs one.
    """
    section = config.adapter
    spec = AdapterSpec(section.rank, section.alpha, section.rank_stabilized, section.form)
    if config.method == "full":
        return spec, {}, None
    paths = adapters.match_targets(section.targets, base)
    adapters.check_rank(section.rank, paths, base)
    found = adapters.find_start(config.adapter_init)
    if found is None:
        loaded = _from_peft(config.adapter_init, base)
        rank = jax.tree.leaves(loaded)[0].shape[-1]
        return AdapterSpec(rank, form=section.form), _on_mesh(mesh, loaded), None
    start, settings = found
    if initial is None:
        if start.needs == "gradient":
            if gradient is None:
                raise BadInput(f"adapter.init is {config.adapter_init!r}, which needs the gradient of a first batch")
            settings = settings | {"gradient": gradient}
        key = jax.random.key(config.training.seed)
        replicated = NamedSharding(mesh, P())
        gather = functools.partial(jax.lax.with_sharding_constraint, shardings=replicated)
        initial = start.init(base, paths, spec.rank, scale=spec.scale, key=key, gather=gather, **settings)
    initial = _on_mesh(mesh, initial)
    return spec, initial, None if start.zero else initial


def _from_peft(init: str, base: Tree) -> Tree:
    folder = pathlib.Path(init).expanduser()
    if not folder.is_dir():
        names = ", ".join(spelling for name in START_SETTINGS for spelling in start_spellings(name))
        raise BadInput(f"adapter.init is {init!r}; accepted: {names}, or a PEFT adapter's folder")
    return peft_format.load_adapter(folder, base)


def _on_mesh(mesh: Mesh, tree: Tree) -> Tree:
    return jax.tree.map(jax.device_put, tree, tree_shardings(mesh, tree))
