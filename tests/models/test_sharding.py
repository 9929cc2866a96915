"""Whole models divided over eight devices by their tables: the logits of one device."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from model_folders import first_task, write_model

from balora_jax.models import init_params, load_model
from balora_jax.training.sharding import tree_shardings

MESH = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert", "deberta-v2", "t5"])
def test_logits_are_those_of_one_device(tmp_path, model_type):
    model = load_model(write_model(tmp_path, model_type), task=first_task(model_type))
    params = init_params(model, jax.random.key(0))
    ids = np.random.default_rng(0).integers(3, 19, (4, 8))
    mask = np.arange(8) < np.array([[8], [5], [8], [3]])

    logits = jax.jit(lambda params: model.apply({"params": params}, ids, mask))
    expected = logits(params)
    shardings = tree_shardings(MESH, {"base": params}, model.sharding_rules)["base"]
    divided = jax.device_put(params, shardings)
    axes = {axis for leaf in jax.tree.leaves(divided) for axis in leaf.sharding.spec if axis}
    assert axes >= {"fsdp", "tensor"}
    np.testing.assert_allclose(logits(divided), expected, atol=1e-5 * np.abs(expected).max())
