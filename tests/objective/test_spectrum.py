"""The SVD term from hidden states and the head's factor, against float64 on the whole logits."""

import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streaming_cases import random_head

from balora_jax.config import MeshConfig
from balora_jax.objective.spectrum import checked_share, head_factor, leading_share
from balora_jax.training.sharding import make_mesh, row_sharding


def states_of(spectrum, shape=(160, 48), seed=0):
    """Hidden states whose i-th singular value is 10 spectrum(i)."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(side, min(shape))))[0] for side in shape)
    return ((left * spectrum(np.arange(min(shape), dtype=float))) @ right.T * 10).astype(np.float32)


SPECTRA = {
    "decaying": lambda i: 1 / (i + 1),
    "steep": lambda i: np.exp(-i / 4),
    "flat": lambda i: 1 - i / 200,
    "rank 20": lambda i: np.where(i < 20, 1 / (i + 1), 0.0),
}


def compare(states, head, mask, k, norm, method="subspace"):
    """The relative errors of the value and of the gradient."""

    def term(hidden):
        return leading_share(hidden, head_factor(head), mask, k=k, norm=norm, method=method)

    value, gradient = jax.jit(jax.value_and_grad(term))(states)
    kernel = np.asarray(head.kernel, np.float64)
    logits = states.astype(np.float64) @ kernel
    if head.bias is not None:
        logits = logits + np.asarray(head.bias, np.float64)
    true_value, true_gradient = reference.svd(logits, mask, k, norm)
    true_gradient = true_gradient @ kernel.T
    error = np.linalg.norm(gradient - true_gradient) / np.linalg.norm(true_gradient)
    return abs(value / true_value - 1), error


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
@pytest.mark.parametrize("name", ["decaying", "flat", "rank 20"])
def test_equals_float64_on_whole_logits(name, norm, bias):
    head = random_head(width=48, vocabulary=700, bias=bias)
    mask = np.random.default_rng(1).random(160) < 0.7
    value_error, gradient_error = compare(states_of(SPECTRA[name]), head, mask, 10, norm)
    assert value_error < 1e-4 and gradient_error < 1e-3


def test_a_steep_spectrum_and_fewer_tokens_than_width():
    head = random_head(width=48, vocabulary=700)
    value_error, gradient_error = compare(
        states_of(SPECTRA["steep"]), head, np.ones(160, bool), 10, "frobenius"
    )
    assert value_error < 1e-4 and gradient_error < 1e-3
    states = states_of(SPECTRA["decaying"], (20, 48))
    value_error, gradient_error = compare(states, head, np.ones(20, bool), 10, "nuclear")
    assert value_error < 1e-4 and gradient_error < 1e-3


@pytest.mark.parametrize("method", ["exact", "subspace"])
def test_methods_agree(method):
    head = random_head(width=48, vocabulary=700)
    errors = compare(states_of(SPECTRA["flat"]), head, np.ones(160, bool), 10, "frobenius", method)
    assert errors[0] < 1e-5 and errors[1] < 1e-3


@pytest.mark.parametrize(
    ("width", "vocabulary", "bias"), [(7, 100, False), (7, 101, True), (40, 9, False)]
)
def test_the_factor_holds_the_heads_gram_matrix(width, vocabulary, bias):
    head = random_head(width=width, vocabulary=vocabulary, bias=bias, dtype=jnp.bfloat16)
    factor = np.asarray(head_factor(head), np.float64)
    rows = [np.asarray(head.kernel, np.float64)] + (
        [np.asarray(head.bias, np.float64)[None]] if bias else []
    )
    kernel = np.concatenate(rows)
    np.testing.assert_allclose(factor.T @ factor, kernel @ kernel.T, rtol=1e-5, atol=1e-4)


def test_a_soft_capped_head_has_no_factor():
    with pytest.raises(AssertionError, match="soft-cap"):
        head_factor(random_head(softcap=30.0))


def test_a_factor_of_another_head_is_refused():
    with pytest.raises(AssertionError):
        leading_share(jnp.ones((3, 8)), jnp.eye(7), jnp.ones(3, bool), k=1)


@pytest.mark.parametrize("name", ["decaying", "rank 20"])
def test_the_term_of_tokens_on_eight_devices(name):
    """The tokens of one device are all masked."""
    head = random_head(width=48, vocabulary=700)
    states = states_of(SPECTRA[name]).reshape(16, 10, 48)
    mask = np.random.default_rng(1).random((16, 10)) < 0.7
    mask[2:4] = False
    factor = head_factor(head)
    mesh = make_mesh(MeshConfig(2, 4, 1))

    def term(hidden, own):
        return checked_share(hidden, factor, mask, k=10, mesh=own)[0]

    divided = jax.jit(jax.value_and_grad(lambda hidden: term(hidden, mesh)))
    value, gradient = divided(jax.device_put(states, row_sharding(mesh)))
    expected, expected_gradient = jax.jit(jax.value_and_grad(lambda x: term(x, None)))(states)
    assert value == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(
        gradient, expected_gradient, atol=3e-4 * np.abs(expected_gradient).max()
    )
