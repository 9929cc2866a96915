"""The update, on a linear model small enough to repeat it by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.data import Batch
from balora_jax.objective.params import Params
from balora_jax.training.optimizer import learning_rate, make_optimizer
from balora_jax.training.state import combine, count, init_state, partition, trainable_mask
from balora_jax.training.step import make_train_step, token_weighted


def _params():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    a = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    return Params(
        adapters={"out": {"a": a, "b": jnp.zeros((2, 3))}}, base={"out": {"kernel": kernel}}
    )


def _batch(micro_batches, examples=8):
    """A batch of vectors whose micro-batches have different numbers of counted tokens."""
    rng = np.random.default_rng(1)
    mask = rng.random((examples, 4)) < np.linspace(0.2, 0.9, examples)[:, None]
    batch = Batch(
        input_ids=rng.normal(size=(examples, 4, 5)).astype(np.float32),
        targets=rng.normal(size=(examples, 4, 3)).astype(np.float32),
        mask=mask,
        attention_mask=np.ones((examples, 4), bool),
    )
    return jax.tree.map(
        lambda array: jnp.asarray(array.reshape(micro_batches, -1, *array.shape[1:])), batch
    )


def _loss(params, batch, key, weights):
    out = params.adapters["out"]
    predicted = batch.input_ids @ (params.base["out"]["kernel"] + out["a"] @ out["b"])
    error = jnp.sum((predicted - batch.targets) ** 2, axis=-1)
    task = jnp.sum(error * batch.mask) / jnp.maximum(jnp.sum(batch.mask), 1)
    return task + weights["extra"] * task, {"task": task}


def _run(micro_batches, steps=3, batch=None):
    """(state, reports, params) after `steps` updates."""
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0)
    params = _params()
    mask = trainable_mask(params, method="lora")
    trainable, frozen = partition(params, mask)
    optimizer = make_optimizer(config, 10, mask)
    state = init_state(trainable, optimizer, seed=0)

    def weights(step):
        return {"extra": 0.5 * step.astype(jnp.float32)}

    step = make_train_step(
        token_weighted(_loss), optimizer, mask, weights, learning_rate(config, 10)
    )
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(step, n=1))
    reports = []
    for _ in range(steps):
        state, report = step(state, frozen, _batch(micro_batches) if batch is None else batch)
        reports.append(report)
    return state, reports, combine(state.trainable, frozen, mask)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_accumulation_weighs_by_tokens(micro_batches):
    """Every division into micro-batches gives the whole batch's mean over tokens."""
    whole, reports, _ = _run(1)
    parts, others, _ = _run(micro_batches)
    chex.assert_trees_all_close(whole.trainable, parts.trainable, rtol=1e-5, atol=1e-6)
    for one, other in zip(reports, others, strict=True):
        chex.assert_trees_all_close(one, other, rtol=1e-5)


def test_first_update_is_adamw_on_the_gradient():
    params = _params()
    batch = jax.tree.map(lambda x: x[0], _batch(1))
    grads = jax.grad(lambda a: _loss(params.replace(adapters=a), batch, None, {"extra": 0.0})[0])(
        params.adapters
    )
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.0))
    updates, _ = reference.update(grads, reference.init(params.adapters), params.adapters)
    expected = optax.apply_updates(params.adapters, updates)
    state, reports, _ = _run(1, steps=1)
    chex.assert_trees_all_close(state.trainable.adapters, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reports[0]["gradient_norm"], optax.global_norm(grads), rtol=1e-5)


def test_frozen_leaves_have_no_state_and_do_not_move():
    state, _, after = _run(2)
    chex.assert_trees_all_equal(after.base, _params().base)
    assert count(state.trainable) == 5 * 2 + 2 * 3
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count(state.trainable)


def test_reports_count_tokens_and_weigh_terms():
    _, reports, _ = _run(2)
    batch = _batch(2)
    assert int(reports[0]["response_tokens"]) == int(batch.mask.sum())
    assert int(reports[0]["tokens"]) == 32
    np.testing.assert_allclose(reports[1]["loss"], 1.5 * reports[1]["task"], rtol=1e-6)


def test_a_batch_without_counted_tokens_changes_nothing():
    batch = _batch(2)._replace(mask=jnp.zeros((2, 4, 4), bool))
    _, reports, after = _run(2, steps=1, batch=batch)
    chex.assert_trees_all_close(after.adapters, _params().adapters)
    assert float(reports[0]["loss"]) == 0
