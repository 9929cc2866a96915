"""The tiny world's probes on a run's model."""

from collections.abc import Callable
from typing import Any

from balora_jax.config import RunConfig
from balora_jax.evaluation.tiny_world import make_probes, make_questions, make_world, measure
from balora_jax.objective import causal_lm
from balora_jax.runs.setup import Assembly
from balora_jax.training.state import combine

# The seed of the world that `balora_jax.evaluation.tiny_world.make` makes unless told otherwise.
SEED = 0


def make_probe(
    config: RunConfig, run: Assembly, tokenizer: Any
) -> Callable[[Any], dict[str, float]] | None:
    """state -> what the tiny world's probes find in the model, or None where the configuration asks for none."""
    if config.data.probes is None:
        return None
    probes = make_probes(make_world(SEED), tokenizer, *make_questions(SEED))

    def probe(state: Any) -> dict[str, float]:
        params = combine(state.trainable, run.frozen, run.mask)
        lora = causal_lm.student(params, run.spec)
        return {
            name: float(found.value)
            for name, found in measure(run.model, params["base"], lora, probes).items()
        }

    return probe
