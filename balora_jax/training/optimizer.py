"""AdamW, its learning rate and clipping, on the trainable leaves alone."""

from typing import Any

import jax
import optax

from balora_jax.config import OptimizerConfig

# Weight decay is for what multiplies activations, not for norms and biases.
DECAYED = frozenset({"a", "b", "kernel", "embedding"})


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The rate at each step: a linear rise over the warm-up's share of the steps, then the schedule's fall."""
    warmup = round(config.warmup * steps)
    peak, rest = config.learning_rate, max(steps - warmup, 1)
    fall = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.final),
        "linear": lambda: optax.linear_schedule(peak, config.final * peak, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[config.schedule]()
    # The first update already moves: step 0 has 1 / (warmup + 1) of the peak.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, fall], [warmup]) if warmup else fall


def make_optimizer(config: OptimizerConfig, steps: int, mask: Any) -> optax.GradientTransformation:
    """Clipping and AdamW, masked to the leaves where `mask` is True: no state exists for the others."""
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    return optax.masked(optax.chain(*clip, adamw), mask)


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)
