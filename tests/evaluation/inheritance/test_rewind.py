"""Parts of a change: none is the base, all is the fine-tuned model, bit for bit."""

import jax
import numpy as np
import pytest

from balora_jax.adapters import merge, scale_change
from balora_jax.evaluation.inheritance.rewind import (
    RewindCurve,
    RewindPoint,
    best_trade_off,
    rewind,
)
from balora_jax.generation.scoring import score
from balora_jax.models import load_pretrained

PAIRS = [([3, 4, 5], [6, 7]), ([8], [9, 10, 11])]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def lora(model):
    kernel = model[1]["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    layers, rows, columns = kernel.shape
    keys = jax.random.split(jax.random.key(0))
    a = 0.1 * jax.random.normal(keys[0], (layers, rows, 3))
    b = jax.random.normal(keys[1], (layers, 3, columns))
    return {"model": {"layers": {"mlp": {"up_proj": {"a": a, "b": b}}}}}


def _scores(model, lora):
    found = dict(score(*model, lora, PAIRS, max_length=64))
    return [found[index].log_likelihood for index in range(len(PAIRS))]


def test_no_part_is_the_base_and_all_is_the_model(model, lora):
    assert _scores(model, scale_change(lora, 0.0)) == _scores(model, None)
    assert _scores(model, scale_change(lora, 1.0)) == _scores(model, lora)


@pytest.mark.parametrize("factor", [0.25, 0.6, 1.25])
def test_a_part_is_that_part_of_the_change_of_the_weights(model, lora, factor):
    module, params = model
    whole = merge(params, lora)
    expected = jax.tree.map(lambda base, tuned: base + factor * (tuned - base), params, whole)
    np.testing.assert_allclose(
        _scores(model, scale_change(lora, factor)), _scores((module, expected), None), rtol=1e-5
    )


def test_a_curve_has_its_points_in_order(lora):
    def measure(part):
        b = part["model"]["layers"]["mlp"]["up_proj"]["b"]
        return {"size": float(np.linalg.norm(b))}

    curve = rewind(measure, lora, scales=(1.0, 0.0, 0.5))
    assert [point.scale for point in curve.points] == [0.0, 0.5, 1.0]
    sizes = [point.measures["size"] for point in curve.points]
    assert sizes[0] == 0.0 and sizes[1] == pytest.approx(sizes[2] / 2)
    assert curve.to_json()[1]["scale"] == 0.5


def _loss(measures):
    return measures["loss"]


def _curve(losses, drifts):
    rows = zip((0.0, 0.5, 1.0, 1.25), losses, drifts, strict=True)
    return RewindCurve(
        tuple(RewindPoint(scale, {"loss": loss, "kl": drift}) for scale, loss, drift in rows)
    )


@pytest.mark.parametrize(
    ("losses", "tolerance", "expected"),
    [
        ((2.0, 1.05, 1.0, 1.1), 0.1, 0.5),
        ((2.0, 1.05, 1.0, 1.1), 0.01, 1.0),
        ((2.0, 1.5, 1.0, 0.9), 0.1, 1.0),
        # More of the change may gain more, and is not asked for.
        ((2.0, 1.5, 1.0, 0.1), 0.1, 1.0),
        ((1.0, 1.5, 2.0, 3.0), 0.1, None),
        ((1.0, 0.5, 1.0, 1.0), 0.1, None),
    ],
)
def test_the_trade_off_keeps_what_was_learned(losses, tolerance, expected):
    curve = _curve(losses, (0.0, 0.1, 0.4, 0.6))
    point = best_trade_off(curve, loss=_loss, drift="kl", tolerance=tolerance)
    assert (None if point is None else point.scale) == expected


def test_a_curve_without_its_start_has_no_trade_off():
    curve = RewindCurve((RewindPoint(1.0, {"loss": 1.0, "kl": 1.0}),))
    with pytest.raises(ValueError, match=r"has the scales \[1.0\]; accepted: some with 0 and 1"):
        best_trade_off(curve, loss=_loss, drift="kl")
