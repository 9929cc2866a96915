"""Decoding through the cache against reading the whole text at once."""

import jax
import numpy as np
from decoder_cases import CASES

from balora_jax.models import load_pretrained


def test_piecewise_reading_gives_the_logits_of_the_whole(tiny):
    model, params = load_pretrained(tiny("gemma2", CASES["gemma2"]).folder)
    variables = {"params": params}
    ids = np.random.default_rng(0).integers(3, 67, (2, 14))
    mask = np.ones(ids.shape, bool)
    mask[1, :3] = False
    whole = jax.jit(model.apply)(variables, ids, mask)
    cache = model.empty_cache(2, 16)
    extend = jax.jit(
        lambda ids, mask, cache: model.apply(variables, ids, mask, cache, method="extend")
    )
    for start, end in [(0, 8), (8, 9), (9, 10), (10, 11), (11, 12), (12, 13), (13, 14)]:
        logits, cache = extend(ids[:, start:end], mask[:, start:end], cache)
        np.testing.assert_allclose(logits, whole[:, end - 1], rtol=1e-4, atol=1e-4)
    assert int(cache.length) == 14
    np.testing.assert_array_equal(cache.filled[:, :14], mask)
