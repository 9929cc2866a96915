"""The optimizer with its learning rate schedule and clipping, for the trainable leaves only."""

from typing import Any

import jax
import optax

from balora_jax.config import OptimizerConfig

# Leaves with weight decay: the matrices. Norms and biases have none.
DECAYED = frozenset({"a", "b", "kernel", "embedding"})


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
    """Make the optimizer: clipping, the update, and the larger learning rate of LoRA+ for B.

    AdamW (Loshchilov and Hutter, arXiv 1711.05101), Lion (Chen et al., arXiv 2302.06675) or
    Adafactor (Shazeer and Stern, arXiv 1804.04235, without the scale of the parameters); weight
    decay is multiplied by the learning rate in each. LoRA+ (Hayou et al., arXiv 2402.12354)
    multiplies B's update, weight decay included, by `loraplus_lr_ratio`. At ratio 1 the optimizer
    and its state are those without LoRA+.

    Args:
      config: the optimizer's settings.
      steps: updates in the run, for the learning rate.
      mask: tree of bools, True at the trainable leaves. The others get no optimizer state.

    Returns:
      A transformation of the gradients of the trainable leaves.
    """
    transforms = []
    if config.clip_norm is not None:
        transforms.append(optax.clip_by_global_norm(config.clip_norm))
    transforms.append(UPDATES[config.name](config, learning_rate(config, steps)))
    if config.loraplus_lr_ratio != 1:
        transforms.append(optax.masked(optax.scale(config.loraplus_lr_ratio), _adapter_b))
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


UPDATES = {"adamw": _adamw, "lion": _lion, "adafactor": _adafactor}


def _decayed(params: Any) -> Any:
    """A tree of bools, True at the leaves that have weight decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def _adapter_b(params: Any) -> Any:
    """A tree of bools, True at every adapter's b."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "b", params)
