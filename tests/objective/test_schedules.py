"""Schedules of a term's weight, against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.config import (
    ConsistencyConfig,
    DiversityConfig,
    TermConfig,
)
from balora_jax.objective.schedules import adaptive
from balora_jax.training.term_schedules import section_schedule

STEPS = 200


def two_phase(t, delay=0.2, ramp=0.05):
    return 0.0 if t <= delay else min((t - delay) / ramp, 1.0)


EXPECTED = {
    "constant": lambda t: 1.0,
    "cosine": lambda t: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t)),
    "two-phase": two_phase,
    "linear": lambda t: min(t, 1.0),
    "quadratic": lambda t: min(t, 1.0) ** 2,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_schedule_equals_its_formula(name):
    schedule = jax.jit(jax.vmap(section_schedule(TermConfig(weight=0.4, schedule=name), STEPS)))
    actual = schedule(jnp.arange(STEPS + 1))
    assert actual.dtype == jnp.float32
    expected = [0.4 * EXPECTED[name](step / STEPS) for step in range(STEPS + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_official_two_phase_corners():
    schedule = section_schedule(DiversityConfig(), 1000)
    assert schedule(0) == schedule(200) == 0
    np.testing.assert_allclose(schedule(225), 0.0025, rtol=1e-5)
    np.testing.assert_allclose([schedule(250), schedule(999)], 0.005, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_warmup_ends_at_its_share_of_the_run(name):
    schedule = section_schedule(TermConfig(weight=2.0, schedule=name, warmup=0.5), STEPS)
    assert schedule(0) == 0 and 0 < schedule(50) < 2
    np.testing.assert_allclose([schedule(100), schedule(150)], 2.0)


def test_a_ramp_of_length_zero_is_a_jump():
    jump = section_schedule(
        TermConfig(weight=3.0, schedule="two-phase", delay=0.5, ramp=0.0), STEPS
    )
    assert [float(jump(step)) for step in (0, 99, 100, 199)] == [0, 0, 3, 3]
    at_once = section_schedule(TermConfig(weight=3.0, schedule="linear", warmup=0.0), STEPS)
    assert at_once(0) == 3


def test_cosine_ends_at_its_final_fraction():
    schedule = section_schedule(ConsistencyConfig(weight=0.025, final=0.3), STEPS)
    np.testing.assert_allclose(
        [schedule(0), schedule(STEPS), schedule(2 * STEPS)], [0.025, 0.0075, 0.0075]
    )


def test_adaptive_weight_falls_with_the_teachers_entropy():
    actual = [
        adaptive(0.5, 0.1, jnp.asarray(entropy), 64) for entropy in (0.0, math.log(8), math.log(64))
    ]
    np.testing.assert_allclose(actual, [0.5, 0.275, 0.05], rtol=1e-5)
    assert adaptive(0.5, 0.1, jnp.asarray(0.0), 1) == 0.5
    # The ratio is cut to [0, 1], as in the official code.
    np.testing.assert_allclose(adaptive(0.5, 0.1, jnp.asarray(9.0), 64), 0.05, rtol=1e-6)
