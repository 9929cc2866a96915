"""The weights of a run's terms, from their configuration."""

import jax
import numpy as np

from balora_jax.config import (
    ConsistencyConfig,
    RegularizersConfig,
    SvdConfig,
)
from balora_jax.training.term_schedules import section_schedule, weights_at

STEPS = 200


def test_weights_at_names_only_the_terms_that_act():
    terms = RegularizersConfig(svd=SvdConfig(weight=0.0))
    weights = jax.jit(weights_at(terms.acting, STEPS))(0)
    assert set(weights) == {"consistency", "diversity"}
    np.testing.assert_allclose(weights["consistency"], 0.025)


def test_an_adaptive_term_is_scheduled_at_its_whole_weight():
    schedule = section_schedule(ConsistencyConfig(weight=0.5, schedule="adaptive"), STEPS)
    assert schedule(0) == schedule(150) == 0.5
