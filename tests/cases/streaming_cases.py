"""Small language-model batches, and the comparison of the streamed with the plain objective."""

import jax
import jax.numpy as jnp
import numpy as np
from term_cases import WEIGHTS, nlg_terms

from balora_jax.models.head import Head
from balora_jax.objective import plain, streamed
from balora_jax.objective.spectrum import head_factor


def random_batch(seed=0, shape=(4, 15), width=12, vocabulary=3001, keep=0.6, dtype=jnp.float32):
    """(hidden, teacher_hidden, targets, mask) of random hidden states."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(*shape, width)) * 2
    teacher = hidden + rng.normal(size=hidden.shape) * 0.5
    mask = rng.random(shape) < keep
    targets = np.where(mask, rng.integers(0, vocabulary, size=shape), -1).astype(np.int32)
    return (
        jnp.asarray(hidden, dtype),
        jnp.asarray(teacher, dtype),
        jnp.asarray(targets),
        jnp.asarray(mask),
    )


def random_head(seed=0, width=12, vocabulary=3001, bias=False, softcap=None, dtype=jnp.float32):
    """A head with a random kernel [width, vocabulary]."""
    rng = np.random.default_rng(seed + 100)
    kernel = jnp.asarray(rng.normal(size=(width, vocabulary)), dtype)
    return Head(kernel, jnp.asarray(rng.normal(size=vocabulary), dtype) if bias else None, softcap)


def plain_loss(hidden, teacher, head, targets, mask, config, weights=WEIGHTS):
    """The plain objective of the logits computed from the hidden states."""
    teacher_logits = None if teacher is None else head.logits(teacher)
    return plain.objective(
        head.logits(hidden), teacher_logits, targets, mask, terms=nlg_terms(config), weights=weights
    )


def streamed_loss(hidden, teacher, head, targets, mask, config, weights=WEIGHTS, **options):
    """The streamed objective; the head's factor is computed if the head has one."""
    if head.softcap is None:
        options = {"factor": head_factor(head)} | options
    return streamed.objective(
        hidden, teacher, head, targets, mask, terms=nlg_terms(config), weights=weights, **options
    )


def value_and_gradient(function, hidden, *arguments, **options):
    """((loss, parts), gradient of the hidden states) under jit."""
    teacher, head, targets, mask, *static = arguments

    def loss(hidden, teacher, head, targets, mask):
        return function(hidden, teacher, head, targets, mask, *static, **options)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(hidden, teacher, head, targets, mask)


def settled(parts):
    """The parts that both forms have; the rounds of the streamed form must have converged."""
    unsettled = {name for name in parts if name.startswith("unsettled_")}
    assert all(parts[name] == 0 for name in unsettled)
    return {name: part for name, part in parts.items() if name not in unsettled}


def assert_same(actual, expected, value=1e-5, gradient=1e-4):
    """Assert that two results of `value_and_gradient` agree to these relative tolerances.

    The streamed form alone finds singular values by rounds, and these must have converged.
    """
    (loss, parts), slope = actual
    (true_loss, true_parts), true_slope = expected
    parts, true_parts = settled(parts), settled(true_parts)
    np.testing.assert_allclose(loss, true_loss, rtol=value)
    assert set(parts) == set(true_parts)
    for name in parts:
        np.testing.assert_allclose(
            parts[name], true_parts[name], rtol=value, atol=value, err_msg=name
        )
    slope = np.asarray(slope, np.float64)
    true_slope = np.asarray(true_slope, np.float64)
    assert np.linalg.norm(slope - true_slope) <= gradient * np.linalg.norm(true_slope)
