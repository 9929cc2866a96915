"""Properties every regularizer must have, in the plain and in the streamed form, on inputs that hypothesis finds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from balora_jax import streaming
from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.models.head import Head
from balora_jax.regularizers import nlg, nlu

settings.register_profile("bounded", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("bounded")

TOKENS, CLASSES, K, TOP_K = 6, 5, 2, 3
HEAD = Head(jnp.eye(CLASSES))


def _streamed(name):
    """A term by itself from the streamed objective, whose logits are its hidden states (the head is the identity)."""
    on = {
        "consistency": lambda weight: ConsistencyConfig(weight=weight),
        "diversity": lambda weight: DiversityConfig(weight=weight, top_k=TOP_K),
        "svd": lambda weight: SvdConfig(weight=weight, k=K),
    }
    terms = RegularizersConfig(**{each: make(float(each == name)) for each, make in on.items()})

    def term(logits, teacher, mask):
        targets = jnp.zeros(mask.shape, jnp.int32)
        options = {"terms": terms, "weights": {name: 1.0}, "factor": jnp.eye(CLASSES), "chunk_size": 4}
        loss, parts = streaming.nlg(logits, teacher, HEAD, targets, mask, **options)
        # The cross-entropy is taken off again, value and gradient.
        return parts[name] + (loss - jax.lax.stop_gradient(loss)) - _task_gradient(logits, targets, mask)

    return term


def _task_gradient(logits, targets, mask):
    task = streaming.cross_entropy(logits, HEAD, targets, mask, chunk_size=4)
    return task - jax.lax.stop_gradient(task)


TERMS = {
    "consistency": lambda z, t, m: nlg.consistency(z, t, m, temperature=2.0),
    "diversity": lambda z, t, m: nlg.diversity(z, m, top_k=TOP_K),
    "svd": lambda z, t, m: nlg.svd(z, m, k=K),
    "consistency 2024": lambda z, t, m: nlg.consistency(z, t, m, temperature=1.0),
    "diversity 2024": lambda z, t, m: nlg.diversity(z, m, top_k=None),
    "svd 2024": lambda z, t, m: nlg.svd(z, m, k=K, norm="nuclear"),
    "streamed consistency": _streamed("consistency"),
    "streamed diversity": _streamed("diversity"),
    "streamed svd": _streamed("svd"),
}
CLASSIFIERS = {
    "nlu consistency": lambda z, t: nlu.consistency(z, t, temperature=2.0),
    "nlu consistency 2024": lambda z, t: nlu.consistency(z, t, form="mse"),
    "nlu diversity": lambda z, t: nlu.diversity(z),
    "nlu svd": lambda z, t: nlu.svd(z, k=K),
}
ALL = TERMS | {name: (lambda z, t, m, term=term: term(z, t)) for name, term in CLASSIFIERS.items()}
FAST = {name: jax.jit(jax.value_and_grad(term)) for name, term in ALL.items()}

LOW = {"consistency": 0, "diversity": -np.log(TOP_K), "svd": -np.sqrt(K)}
LOW |= {"consistency 2024": 0, "diversity 2024": -np.log(CLASSES), "svd 2024": -1}
LOW |= {"streamed " + name: LOW[name] for name in ("consistency", "diversity", "svd")}
LOW |= {"nlu consistency": 0, "nlu consistency 2024": 0, "nlu diversity": 0, "nlu svd": -1}
HIGH = {name: 0 for name in ALL if "svd" in name or name.endswith(("diversity", "diversity 2024"))}
HIGH |= {"nlu diversity": np.inf}

SHAPE = (TOKENS, CLASSES)
# Multiples of 1/8: exact in bfloat16 too, with many ties, and never so close that a gradient is only rounding.
ordinary = arrays.arrays(np.float32, SHAPE, elements=st.integers(-64, 64).map(lambda n: n / 8))
hard = arrays.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 1.0, -1.0, 1e-6, 1e4, -1e4]))
masks = arrays.arrays(np.bool_, TOKENS)
orders = st.permutations(range(TOKENS))
any_term = pytest.mark.parametrize("name", ALL)
token_term = pytest.mark.parametrize("name", TERMS)
EVERY = np.ones(TOKENS, bool)


@any_term
@given(ordinary, ordinary, masks)
def test_bounds(name, logits, teacher, mask):
    value, gradient = FAST[name](logits, teacher, mask)
    assert value.dtype == jnp.float32
    assert LOW[name] - 1e-5 <= value <= HIGH.get(name, np.inf) + 1e-5
    assert jnp.isfinite(gradient).all()


@any_term
@given(hard, hard, masks)
def test_finite_on_zeros_ties_and_huge_logits(name, logits, teacher, mask):
    value, gradient = FAST[name](logits, teacher, mask)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@any_term
@given(ordinary, ordinary, masks, orders)
def test_the_order_of_tokens_does_not_matter(name, logits, teacher, mask, order):
    order = np.array(order)
    value, _ = FAST[name](logits, teacher, mask)
    moved, _ = FAST[name](logits[order], teacher[order], mask[order])
    np.testing.assert_allclose(moved, value, rtol=1e-4, atol=1e-5)


@any_term
@given(ordinary, ordinary, st.permutations(range(CLASSES)))
def test_the_names_of_classes_do_not_matter(name, logits, teacher, order):
    order = np.array(order)
    value, _ = FAST[name](logits, teacher, EVERY)
    moved, _ = FAST[name](logits[:, order], teacher[:, order], EVERY)
    np.testing.assert_allclose(moved, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TERMS if "svd" not in name] + ["nlu consistency"])
@given(ordinary, ordinary, arrays.arrays(np.float32, (TOKENS, 1), elements=st.integers(-80, 80)))
def test_adding_a_constant_to_a_tokens_logits_changes_nothing(name, logits, teacher, constant):
    value, gradient = FAST[name](logits, teacher, EVERY)
    shifted, _ = FAST[name](logits + constant, teacher, EVERY)
    np.testing.assert_allclose(shifted, value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-5)


@given(ordinary, arrays.arrays(np.float32, (1, CLASSES), elements=st.integers(-80, 80)))
def test_covariance_is_blind_to_a_classs_constant(logits, constant):
    value, _ = FAST["nlu diversity"](logits, logits, EVERY)
    shifted, _ = FAST["nlu diversity"](logits + constant, logits, EVERY)
    np.testing.assert_allclose(shifted, value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in ALL if "svd" in name] + ["nlu consistency 2024"])
@given(ordinary)
def test_scale_does_not_matter_to_ratios(name, logits):
    value, _ = FAST[name](logits, logits[::-1], EVERY)
    scaled, _ = FAST[name](logits * 8, logits[::-1], EVERY)
    np.testing.assert_allclose(scaled, value, rtol=1e-4, atol=1e-6)


@token_term
@given(ordinary, ordinary, masks)
def test_masking_a_token_is_leaving_it_out(name, logits, teacher, mask):
    value, gradient = FAST[name](logits, teacher, mask)
    np.testing.assert_array_equal(gradient[~mask], 0)
    # Tokens that are masked may be anything; the same ones twice as far are not seen.
    other = np.where(mask[:, None], logits, 2 * teacher + 1)
    again, _ = FAST[name](other, teacher, mask)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    # Left out altogether: the counted tokens repeated in place of the others keep every mean.
    if mask.sum() == TOKENS / 2 and "svd" not in name:
        twice = np.concatenate([np.flatnonzero(mask)] * 2)
        np.testing.assert_allclose(FAST[name](logits[twice], teacher[twice], EVERY)[0], value, rtol=1e-4, atol=1e-5)


@any_term
@given(ordinary, ordinary)
def test_bfloat16_inputs_give_float32_results(name, logits, teacher):
    value, gradient = FAST[name](jnp.asarray(logits, jnp.bfloat16), jnp.asarray(teacher, jnp.bfloat16), EVERY)
    expected, _ = FAST[name](logits, teacher, EVERY)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if "consistency" in name])
@given(ordinary, ordinary)
def test_consistency_is_least_at_the_teacher_and_grows_away_from_it(name, logits, teacher):
    at, slope = FAST[name](teacher, teacher, EVERY)
    np.testing.assert_allclose(at, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    if name == "nlu consistency 2024":
        return  # An angle: it need not grow along a straight line.
    path = [FAST[name](teacher + step * (logits - teacher), teacher, EVERY)[0] for step in (0.25, 0.5, 1.0)]
    assert at - 1e-6 <= path[0] and path[0] <= path[1] + 1e-5 and path[1] <= path[2] + 1e-5


@pytest.mark.parametrize("name", [name for name in TERMS if "diversity" in name])
@given(ordinary)
def test_flatter_logits_are_more_diverse(name, logits):
    sharp, middle, flat = (FAST[name](logits * heat, logits, EVERY)[0] for heat in (2.0, 1.0, 0.5))
    assert flat <= middle + 1e-5 and middle <= sharp + 1e-5
    whole, _ = FAST[name](np.zeros_like(logits), logits, EVERY)
    np.testing.assert_allclose(whole, LOW[name], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if "svd" in name])
@given(arrays.arrays(np.float32, (TOKENS, 1), elements=st.integers(1, 8)), st.integers(1, 8))
def test_one_direction_alone_is_as_concentrated_as_can_be(name, column, row):
    rank_one = (column * np.linspace(row, -row, CLASSES)).astype(np.float32)
    value, _ = FAST[name](rank_one, rank_one, EVERY)
    np.testing.assert_allclose(value, -1, rtol=1e-4)


@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
@given(ordinary)
def test_more_leading_values_are_a_larger_share(norm, logits):
    shares = [float(nlg.svd(logits, EVERY, k=k, norm=norm)) for k in range(1, CLASSES + 1)]
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(shares))


@pytest.mark.parametrize("name", ["consistency", "diversity", "svd"])
@given(ordinary, ordinary, masks)
def test_streamed_equals_plain(name, logits, teacher, mask):
    value, _ = FAST[name](logits, teacher, mask)
    found, _ = FAST["streamed " + name](logits, teacher, mask)
    np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
