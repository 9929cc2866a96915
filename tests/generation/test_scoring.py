"""Log-likelihoods against float64 softmax of whole logits, at every batch size and padding."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from balora_jax.generation.scoring import _score_batch, next_log_probs, score
from balora_jax.models import load_pretrained

MAX_LENGTH = 24


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def pairs():
    draw = np.random.default_rng(0)
    lengths = [(1, 1), (1, 5), (3, 2), (7, 1), (2, 20), (30, 4), (1, 24), (12, 9), (5, 5)]
    return [tuple(draw.integers(3, 60, size).tolist() for size in pair) for pair in lengths]


def _log_probs(model, params, lora, ids):
    variables = {"params": params, "lora": lora}
    logits = np.asarray(model.apply(variables, np.array([ids])), np.float64)[0]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _expected(model, params, lora, pair):
    context, continuation = pair
    ids = [*context, *continuation][:-1][-MAX_LENGTH:]
    log_probs = _log_probs(model, params, lora, ids)[-len(continuation) :]
    chosen = log_probs[np.arange(len(continuation)), continuation]
    return chosen.sum(), bool((log_probs.argmax(-1) == continuation).all())


def _lora(params):
    """Adapters of an inner layer and of the head."""
    up = params["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    head = params["lm_head"]["kernel"]
    keys = iter(jax.random.split(jax.random.key(0), 4))

    def pair(kernel):
        *layers, rows, columns = kernel.shape
        a = jax.random.normal(next(keys), (*layers, rows, 2))
        return {"a": 0.1 * a, "b": 0.1 * jax.random.normal(next(keys), (*layers, 2, columns))}

    inner = {"model": {"layers": {"mlp": {"up_proj": pair(up)}}}}
    return {"none": {}, "inner": inner, "head": inner | {"lm_head": pair(head)}}


@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
@pytest.mark.parametrize("adapted", ["none", "inner", "head"])
def test_scores_are_those_of_whole_logits(model, pairs, adapted, batch_tokens):
    module, params = model
    lora = _lora(params)[adapted]
    options = {"max_length": MAX_LENGTH, "batch_tokens": batch_tokens}
    scores = dict(score(module, params, lora, pairs, **options))
    assert sorted(scores) == list(range(len(pairs)))
    for index, pair in enumerate(pairs):
        expected, greedy = _expected(module, params, lora, pair)
        np.testing.assert_allclose(scores[index].log_likelihood, expected, atol=2e-5)
        assert scores[index].greedy == greedy
        assert scores[index].tokens == len(pair[1])


def test_a_likeliest_continuation_is_greedy(model):
    module, params = model
    ids = [5]
    for _ in range(4):
        ids.append(int(_log_probs(module, params, {}, ids)[-1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % 60]
    pairs = [(ids[:1], ids[1:]), (other[:1], other[1:])]
    scores = dict(score(module, params, None, pairs, max_length=MAX_LENGTH))
    assert scores[0].greedy and not scores[1].greedy


def test_rows_over_devices_score_the_same(model, pairs):
    module, params = model
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, P("data"))
    alone = dict(score(module, params, None, pairs, max_length=MAX_LENGTH))
    divided = dict(
        score(
            module,
            jax.device_put(params, NamedSharding(mesh, P())),
            None,
            pairs,
            max_length=MAX_LENGTH,
            sharding=sharding,
        )
    )
    for index in alone:
        np.testing.assert_allclose(
            divided[index].log_likelihood, alone[index].log_likelihood, atol=1e-5
        )


def test_one_program_for_each_length(model, pairs):
    module, params = model
    options = {"max_length": MAX_LENGTH, "batch_tokens": 100}
    list(score(module, params, None, pairs, **options))
    compiled = _score_batch._cache_size()
    list(score(module, params, None, pairs * 3, **options))
    assert _score_batch._cache_size() == compiled


@pytest.mark.parametrize(
    "pair", [([], [1]), ([1], []), ([1], [2] * (MAX_LENGTH + 1))], ids=["bare", "none", "long"]
)
def test_pairs_that_cannot_be_scored(model, pair):
    with pytest.raises(ValueError, match="accepted: 1 or more, and 1 to 24"):
        list(score(*model, None, [pair], max_length=MAX_LENGTH))


def test_the_probabilities_of_the_next_token(model):
    module, params = model
    contexts = [[5], [7, 8, 9], list(range(3, 50))]
    found = next_log_probs(module, params, None, contexts, max_length=MAX_LENGTH, batch_tokens=60)
    for row, context in zip(found, contexts, strict=True):
        expected = _log_probs(module, params, {}, context[-MAX_LENGTH:])[-1]
        np.testing.assert_allclose(row, expected, atol=2e-5)
