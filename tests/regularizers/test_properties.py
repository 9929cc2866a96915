"""Properties every regularizer must have, in the plain and in the streamed form, on inputs that hypothesis finds."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from term_cases import nlg_terms

from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.models.head import Head
from balora_jax.objective import streamed
from balora_jax.objective.spectrum import leading_share
from balora_jax.regularizers import nlg, nlu

settings.register_profile(
    "bounded", max_examples=25, deadline=None, derandomize=True, database=None
)
settings.load_profile("bounded")

TOKENS, CLASSES, K, TOP_K = 6, 5, 2, 3
SHAPE = TOKENS, CLASSES
EVERY = np.ones(TOKENS, bool)
NAMES = ("consistency", "diversity", "svd")
PAPER = {
    "": RegularizersConfig(ConsistencyConfig(), DiversityConfig(top_k=TOP_K), SvdConfig(k=K)),
    " 2024": RegularizersConfig(
        ConsistencyConfig(temperature=1.0),
        DiversityConfig(top_k=None),
        SvdConfig(k=K, norm="nuclear"),
    ),
}
PLAIN = {
    "consistency": lambda z, t, m: nlg.consistency(z, t, m, temperature=2.0),
    "diversity": lambda z, t, m: nlg.diversity(z, m, top_k=TOP_K),
    "svd": lambda z, t, m: nlg.svd(z, m, k=K),
    "consistency 2024": lambda z, t, m: nlg.consistency(z, t, m, temperature=1.0),
    "diversity 2024": lambda z, t, m: nlg.diversity(z, m, top_k=None),
    "svd 2024": lambda z, t, m: nlg.svd(z, m, k=K, norm="nuclear"),
    "nlu consistency": lambda z, t, m: nlu.consistency(z, t, temperature=2.0),
    "nlu consistency 2024": lambda z, t, m: nlu.consistency(z, t, form="mse"),
    "nlu diversity": lambda z, t, m: nlu.diversity(z),
    "nlu svd": lambda z, t, m: nlu.svd(z, k=K),
}
STREAMED = [f"streamed {name}{version}" for version in PAPER for name in NAMES]
ALL = [*PLAIN, *STREAMED]
LOW = {"consistency": 0, "diversity": -np.log(TOP_K), "svd": -np.sqrt(K)}
LOW |= {"consistency 2024": 0, "diversity 2024": -np.log(CLASSES), "svd 2024": -1}
LOW |= {f"streamed {name}": low for name, low in LOW.items()}
LOW |= {"nlu consistency": 0, "nlu consistency 2024": 0, "nlu diversity": 0, "nlu svd": -1}


def _streamed(version, logits, teacher, mask):
    """The streamed terms and their gradients; the head is the identity, so that hidden states are logits."""
    terms, factor, targets = (
        PAPER[version],
        jnp.eye(logits.shape[-1]),
        jnp.zeros(mask.shape, jnp.int32),
    )
    by_token = nlg_terms(dataclasses.replace(terms, svd=SvdConfig(weight=0.0)))

    def loss(logits, weights):
        weights = dict(zip(NAMES, weights, strict=False))
        arguments = logits, teacher, Head(factor), targets, mask
        return streamed.objective(*arguments, terms=by_token, weights=weights, chunk_size=4)

    def svd(logits):
        return leading_share(logits, factor, mask, k=K, norm=terms.svd.norm)

    one_at_a_time = jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0))
    (_, parts), slopes = one_at_a_time(logits, jnp.eye(3, 2))
    # With both weights at 0 it is the cross-entropy's.
    found = {name: (parts[name][0], slopes[i] - slopes[2]) for i, name in enumerate(NAMES[:2])}
    found["svd"] = jax.value_and_grad(svd)(logits)
    return {f"streamed {name}{version}": pair for name, pair in found.items()}


# Compiling is most of what these tests do.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 4}


@functools.partial(jax.jit, compiler_options=QUICKLY)
def evaluate(logits, teacher, mask):
    """name -> (value, gradient) of every regularizer in every form."""
    found = {name: jax.value_and_grad(term)(logits, teacher, mask) for name, term in PLAIN.items()}
    for version in PAPER:
        found |= _streamed(version, logits, teacher, mask)
    return found


def check(names, logits, teacher=None, mask=EVERY):
    """`evaluate` on the host, for some of the names."""
    found = jax.device_get(evaluate(logits, logits[::-1] if teacher is None else teacher, mask))
    return {name: found[name] for name in names}


def assert_values(found, expected, rtol=1e-4, atol=1e-5):
    for name in found:
        np.testing.assert_allclose(
            found[name][0], expected[name][0], rtol=rtol, atol=atol, err_msg=name
        )


def names_with(*words, without=()):
    return [
        name
        for name in ALL
        if any(word in name for word in words) and not any(word in name for word in without)
    ]


# Multiples of 1/8: exact in bfloat16 too, with many ties, and never so close that a gradient is only rounding.
ordinary = arrays.arrays(np.float32, SHAPE, elements=st.integers(-64, 64).map(lambda n: n / 8))
hard = arrays.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 1.0, -1.0, 1e-6, 1e4, -1e4]))
masks = arrays.arrays(np.bool_, TOKENS)
constants = st.integers(-80, 80)


@given(ordinary, ordinary, masks)
def test_bounds(logits, teacher, mask):
    for name, (value, _) in check(ALL, logits, teacher, mask).items():
        high = np.inf if "consistency" in name or name == "nlu diversity" else 0
        assert value.dtype == jnp.float32 and LOW[name] - 1e-5 <= value <= high + 1e-5, name


@given(hard, hard, masks)
@example(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32), EVERY)
@example(np.full(SHAPE, 1e4, np.float32), np.full(SHAPE, -1e4, np.float32), EVERY)
@example(np.eye(*SHAPE, dtype=np.float32), np.eye(*SHAPE, dtype=np.float32), EVERY)
@example(np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32), ~EVERY)
def test_finite_on_zeros_ties_and_huge_logits(logits, teacher, mask):
    for name, (value, gradient) in check(ALL, logits, teacher, mask).items():
        assert np.isfinite(value) and np.isfinite(gradient).all(), name
        if not mask.any() and "nlu" not in name:
            assert value == 0 and not gradient.any(), name


def plain_alone(logits):
    """name -> (value, gradient) of the plain regularizers, with every token counted."""
    mask = jnp.ones(len(logits), bool)
    found = {
        name: jax.value_and_grad(term)(logits, logits * 3, mask) for name, term in PLAIN.items()
    }
    return found


def test_one_token():
    logits = np.linspace(-2, 3, CLASSES, dtype=np.float32)[None]
    counted = check(STREAMED, logits.repeat(TOKENS, 0), mask=np.arange(TOKENS) == 4)
    for name, (value, gradient) in (jax.jit(plain_alone)(logits) | counted).items():
        assert np.isfinite(value) and np.isfinite(gradient).all(), name
        if "svd" in name:  # One direction alone.
            np.testing.assert_allclose(value, -1, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(gradient, 0, atol=1e-5, err_msg=name)


def test_one_class():
    # It is certain, and one direction alone.
    for name, (value, gradient) in jax.jit(plain_alone)(
        np.linspace(-2, 3, TOKENS, dtype=np.float32)[:, None]
    ).items():
        np.testing.assert_allclose(value, -1 if "svd" in name else 0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(gradient, 0, atol=1e-5, err_msg=name)


@given(ordinary, ordinary, masks, st.permutations(range(TOKENS)), st.permutations(range(CLASSES)))
def test_the_order_of_tokens_and_classes_does_not_matter(logits, teacher, mask, tokens, classes):
    order = np.ix_(tokens, classes)
    moved = check(ALL, logits[order], teacher[order], mask[list(tokens)])
    assert_values(moved, check(ALL, logits, teacher, mask))


@given(ordinary, ordinary, arrays.arrays(np.float32, (TOKENS, 1), elements=constants))
@example(
    np.eye(*SHAPE, -4, dtype=np.float32) / 8,
    np.zeros(SHAPE, np.float32),
    np.zeros((TOKENS, 1), np.float32),
)
def test_adding_a_constant_to_a_tokens_logits_changes_nothing(logits, teacher, constant):
    names = names_with(
        "consistency", "diversity", without=["nlu consistency 2024", "nlu diversity"]
    )
    found = check(names, logits, teacher)
    assert_values(check(names, logits + constant, teacher), found, rtol=1e-3, atol=1e-4)
    for name in names:
        np.testing.assert_allclose(found[name][1].sum(axis=-1), 0, atol=1e-5, err_msg=name)


@given(ordinary, arrays.arrays(np.float32, (1, CLASSES), elements=constants))
def test_covariance_is_blind_to_a_classs_constant(logits, constant):
    shifted = check(["nlu diversity"], logits + constant)
    assert_values(shifted, check(["nlu diversity"], logits), rtol=1e-3, atol=1e-3)


@given(ordinary)
def test_scale_does_not_matter_to_ratios(logits):
    names = [*names_with("svd"), "nlu consistency 2024"]
    assert_values(check(names, logits * 8, logits[::-1]), check(names, logits), atol=1e-6)


@given(ordinary, ordinary, st.permutations(range(TOKENS)))
def test_masking_tokens_is_leaving_them_out(logits, teacher, order):
    names = [name for name in ALL if "nlu" not in name]
    kept = np.sort(order[: TOKENS // 2])
    mask = np.isin(np.arange(TOKENS), kept)
    masked = check(names, logits, teacher, mask)
    # Tokens that are masked may be anything.
    assert_values(
        check(names, np.where(mask[:, None], logits, 1 - 2 * teacher), teacher, mask),
        masked,
        rtol=1e-6,
    )
    removed = check(names, logits[kept], teacher[kept], EVERY[kept])
    assert_values(masked, removed)
    for name in names:
        np.testing.assert_array_equal(masked[name][1][~mask], 0, err_msg=name)
        if "svd" not in name:  # Its gradient is not unique where singular values are equal.
            np.testing.assert_allclose(
                masked[name][1][mask], removed[name][1], atol=1e-5, err_msg=name
            )


@given(ordinary, ordinary)
def test_bfloat16_inputs_give_float32_results(logits, teacher):
    found = check(ALL, jnp.asarray(logits, jnp.bfloat16), jnp.asarray(teacher, jnp.bfloat16))
    assert_values(found, check(ALL, logits, teacher))
    for name, (value, gradient) in found.items():
        assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16, name


@given(ordinary, ordinary)
def test_consistency_is_least_at_the_teacher_and_grows_away_from_it(logits, teacher):
    names = names_with("consistency")
    path = [
        check(names, teacher + step * (logits - teacher), teacher) for step in (0, 0.25, 0.5, 1.0)
    ]
    for name in names:
        values = [found[name][0] for found in path]
        np.testing.assert_allclose(values[0], 0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(path[0][name][1], 0, atol=1e-6, err_msg=name)
        # The 2024 classifier's is an angle: it need not grow along a straight line.
        assert name == "nlu consistency 2024" or all(
            b >= a - 1e-5 for a, b in itertools.pairwise(values)
        ), name


@given(ordinary)
def test_flatter_logits_are_more_diverse(logits):
    names = names_with("diversity", without=["nlu"])
    found = [check(names, logits * heat) for heat in (0.0, 0.5, 1.0, 2.0)]
    for name in names:
        values = [values_and_slopes[name][0] for values_and_slopes in found]
        np.testing.assert_allclose(values[0], LOW[name], rtol=1e-5, err_msg=name)
        assert all(b >= a - 1e-5 for a, b in itertools.pairwise(values)), name


@given(arrays.arrays(np.float32, (TOKENS, 1), elements=st.integers(1, 8)), st.integers(1, 8))
def test_one_direction_alone_is_as_concentrated_as_can_be(column, row):
    rank_one = column * np.linspace(row, -row, CLASSES, dtype=np.float32)
    for name, (value, _) in check(names_with("svd"), rank_one).items():
        np.testing.assert_allclose(value, -1, rtol=1e-4, err_msg=name)


@jax.jit
def shares(logits):
    """[norms, k] of both forms."""
    mask, ks = jnp.ones(TOKENS, bool), range(1, CLASSES + 1)
    factor = jnp.eye(CLASSES)
    plain = [
        [nlg.svd(logits, mask, k=k, norm=norm) for k in ks] for norm in ("frobenius", "nuclear")
    ]
    exact = [leading_share(logits, factor, mask, k=k, method="exact") for k in ks]
    return jnp.array([*plain, exact])


@given(ordinary)
def test_more_leading_values_are_a_larger_share(logits):
    assert np.all(np.diff(shares(logits), axis=1) <= 1e-5)


@given(ordinary, ordinary, masks)
def test_streamed_equals_plain(logits, teacher, mask):
    found = check(ALL, logits, teacher, mask)
    for name in STREAMED:
        (value, slope), (expected, true_slope) = found[name], found[name.removeprefix("streamed ")]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        if "consistency" in name or name.endswith(
            "diversity 2024"
        ):  # The others' are not unique on ties.
            np.testing.assert_allclose(slope, true_slope, atol=1e-5, err_msg=name)


ORDERS = np.array(list(itertools.permutations(range(CLASSES))))


@jax.jit
def mean_gradient(logits):
    """Of the plain diversity, over all orders of the classes: which ones of a tie it takes depends on theirs."""

    def reordered(order):
        slope = jax.grad(lambda z: nlg.diversity(z, jnp.ones(TOKENS, bool), top_k=TOP_K))(
            logits[:, order]
        )
        return jnp.zeros_like(slope).at[:, order].set(slope)

    return jnp.mean(jax.vmap(reordered)(ORDERS), axis=0)


@given(arrays.arrays(np.float32, SHAPE, elements=st.integers(0, 2)))
def test_tied_logits_share_the_last_places(logits):
    _, slope = check(["streamed diversity"], logits)["streamed diversity"]
    np.testing.assert_allclose(slope, mean_gradient(logits), atol=1e-6)
