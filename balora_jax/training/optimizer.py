"""The optimizer with its learning rate schedule and clipping, for the trainable leaves only."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.tree_util import DictKey

from balora_jax.adapters import layers_matching
from balora_jax.adapters.targets import HEADS
from balora_jax.config import OptimizerConfig
from balora_jax.training.averaging import average_of_parameters

# Leaves with weight decay: the matrices. Norms and biases have none.
DECAYED = frozenset({"a", "b", "kernel", "embedding"})
# Leaves that Muon updates.
ORTHOGONALIZED = frozenset({"a", "b", "kernel"})
# The root mean square of AdamW's updates, which Muon's have too (Liu et al., arXiv 2502.16982), so
# that one learning rate serves both.
ADAMW_RMS = 0.2


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up, then the configured decay.

    Args:
      config: learning rate, schedule, and the shares of warm-up and of the final rate.
      steps: updates in the run.

    Returns:
      A schedule: step [] -> learning rate [].
    """
    peak = config.learning_rate
    warmup = round(config.warmup * steps)
    decay_steps = max(steps - warmup, 1)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final)
    elif config.schedule == "linear":
        decay = optax.linear_schedule(peak, config.final * peak, decay_steps)
    else:
        decay = optax.constant_schedule(peak)
    if warmup == 0:
        return decay
    # Step 0 has 1 / (warmup + 1) of the peak, so that the first update is not zero.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int, mask: Any) -> optax.GradientTransformation:
    """Make the optimizer: clipping, the update, learning rates of their own, and the average.

    AdamW (Loshchilov and Hutter, arXiv 1711.05101), Lion (Chen et al., arXiv 2302.06675),
    Adafactor (Shazeer and Stern, arXiv 1804.04235, without the scale of the parameters), Muon
    (Jordan et al., 2024, with AdamW for all but matrices) or schedule-free AdamW (Defazio et al.,
    arXiv 2405.15682); weight decay is multiplied by the learning rate in each.

    LoRA+ (Hayou et al., arXiv 2402.12354) multiplies B's update, weight decay included, by
    `loraplus_lr_ratio`, and the updates of layers with a rate of their own by that rate over the
    common one. Without either there is no such factor in the optimizer.

    Args:
      config: the optimizer's settings.
      steps: updates in the run, for the learning rate.
      mask: tree of bools, True at the trainable leaves. The others get no optimizer state.

    Returns:
      A transformation of the gradients of the trainable leaves. `averaging.evaluated` returns what
      is to be evaluated, from its state and the parameters.

    Raises:
      BadInput: a pattern of `learning_rates` matches no layer that is trained.
    """
    rate = learning_rate(config, steps)
    transforms = [UPDATES[config.name](config, rate)]
    if config.learning_rates:
        transforms.append(_scale_each(_relative_rates(config, mask)))
    if config.loraplus_lr_ratio != 1:
        transforms.append(optax.masked(optax.scale(config.loraplus_lr_ratio), _adapter_b))
    if config.name == "schedule_free":
        # It averages the steps of the whole update, rates of their own included.
        update = optax.chain(*transforms)
        transforms = [optax.contrib.schedule_free(update, rate, b1=config.b1)]
    if config.clip_norm is not None:
        transforms.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.ema_decay is not None:
        transforms.append(average_of_parameters(config.ema_decay))
    return optax.masked(optax.chain(*transforms), mask)


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )


def _lion(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.lion(
        rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=_decayed
    )


def _adafactor(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    # optax.adafactor does not multiply the weight decay by the learning rate.
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(config.weight_decay, _decayed),
        optax.scale_by_learning_rate(rate),
    )


def _muon(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    muon = optax.contrib.muon(
        rate,
        beta=config.b1,
        weight_decay=config.weight_decay,
        consistent_rms=ADAMW_RMS,
        muon_weight_dimension_numbers=_matrix_axes,
    )
    # optax's muon would give the others no weight decay, and Nesterov's momentum.
    return optax.partition({"muon": muon, "adamw": _adamw(config, rate)}, _muon_or_adamw)


def _adamw_without_momentum(
    config: OptimizerConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW at b1 = 0, without room for a first moment: what schedule-free AdamW wraps."""
    return optax.chain(
        optax.scale_by_rms(config.b2, config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(config.weight_decay, _decayed),
        optax.scale_by_learning_rate(rate),
    )


UPDATES = {
    "adamw": _adamw,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
    "schedule_free": _adamw_without_momentum,
}


def _decayed(params: Any) -> Any:
    """A tree of bools, True at the leaves that have weight decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def _adapter_b(params: Any) -> Any:
    """A tree of bools, True at every adapter's b."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "b", params)


def _muon_or_adamw(params: Any) -> Any:
    """A tree of names: muon at the matrices of adapters and layers, adamw elsewhere.

    Embeddings and heads, trained whole, are AdamW's, as Muon's authors have it.
    """

    def name_of(path: tuple[Any, ...], leaf: jax.Array) -> str:
        module, name = _module_and_name(path)
        is_adapter = name in ("a", "b")
        is_matrix = name in ORTHOGONALIZED and leaf.ndim >= 2
        return "muon" if is_matrix and (is_adapter or not HEADS & set(module)) else "adamw"

    return jax.tree_util.tree_map_with_path(name_of, params)


def _matrix_axes(params: Any) -> Any:
    """The axes of every matrix [..., in, out]: those before them count stacked layers."""
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return jax.tree.map(lambda _: axes, params)


def _relative_rates(config: OptimizerConfig, mask: Any) -> Any:
    """The rate of every trained leaf over the common one; frozen leaves are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    trained = [path for path, is_trained in leaves if is_trained]
    modules = [_module_and_name(path)[0] for path in trained]
    rates = _rates_of(config.learning_rates, modules)

    def relative(path: tuple[Any, ...], is_trained: bool) -> Any:
        if not is_trained:
            return optax.MaskedNode()
        module, _ = _module_and_name(path)
        return rates.get(module, config.learning_rate) / config.learning_rate

    return jax.tree_util.tree_map_with_path(relative, mask)


def _rates_of(
    rates: Mapping[str, float], modules: list[tuple[str, ...]]
) -> dict[tuple[str, ...], float]:
    """The rates of the modules that a pattern matches, the first of them where several do."""
    found: dict[tuple[str, ...], float] = {}
    for pattern, rate in rates.items():
        for module in layers_matching("optimizer.learning_rates", pattern, modules):
            found.setdefault(module, rate)
    return found


def _scale_each(factors: Any) -> optax.GradientTransformation:
    """Multiply every update by a factor of its own."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda factor, leaf: factor * leaf, factors, updates)
    )


def _module_and_name(path: tuple[Any, ...]) -> tuple[tuple[str, ...], str]:
    """The module of a leaf, and its name there: model.layers.self_attn.q_proj and a."""
    *module, name = (key.key for key in path if isinstance(key, DictKey))
    return tuple(module), name
