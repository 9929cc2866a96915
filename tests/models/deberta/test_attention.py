"""DeBERTa's relative positions: buckets, rows of the table, and skewing."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from classifier_cases import CASES
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from balora_jax.models.deberta.attention import _bucket, position_rows, skew
from balora_jax.models.deberta.config import deberta_config


@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(256, 512), (256, 4096), (32, 128), (64, 300), (8, 64)]
)
def test_buckets_equal_pytorch(buckets, max_distance):
    distance = np.arange(1 - max_distance, max_distance)
    theirs = make_log_bucket_position(torch.tensor(distance), buckets, max_distance).long().numpy()
    np.testing.assert_array_equal(_bucket(distance, buckets // 2, max_distance), theirs)


@pytest.mark.parametrize("name", ["deberta-v3", "deberta-no-buckets", "deberta-far"])
def test_rows_rise_with_distance_and_stay_in_the_table(name):
    config = deberta_config(CASES[name])
    rows = position_rows(config, 40)
    assert rows.shape == (79,)
    assert (np.diff(rows) >= 0).all()
    assert rows.min() >= 0
    assert rows.max() < 2 * config.span
    assert rows[39] == config.span


def test_skew_selects_each_rows_own_distances():
    table = np.random.default_rng(0).normal(size=(2, 3, 5, 9))
    expected = np.empty((2, 3, 5, 5))
    for i in range(5):
        for j in range(5):
            expected[..., i, j] = table[..., i, 4 + j - i]
    np.testing.assert_allclose(skew(jnp.asarray(table)), expected.astype(np.float32))
