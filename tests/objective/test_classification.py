"""The classification loss: one gradient for any division of the batch, and the teacher's heads."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classification_cases import save_model
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from term_cases import nlu_terms

from balora_jax import adapters, models
from balora_jax.adapters import AdapterSpec
from balora_jax.config import (
    ConsistencyConfig,
    DiversityConfig,
    MeshConfig,
    RegularizersConfig,
    SvdConfig,
)
from balora_jax.data import Batch
from balora_jax.objective import classification
from balora_jax.objective.params import Params
from balora_jax.training.sharding import batch_sharding, make_mesh
from balora_jax.training.state import combine, partition, trainable_mask
from balora_jax.training.step import whole_batch

TERMS = RegularizersConfig(
    consistency=ConsistencyConfig(weight=0.5),
    diversity=DiversityConfig(weight=0.3),
    svd=SvdConfig(weight=0.4, k=2),
)
WEIGHTS = {"consistency": 0.5, "diversity": 0.3, "svd": 0.4}
SPEC = AdapterSpec(4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(model, params): four labels, and adapters that are not at their start."""
    folder = tmp_path_factory.mktemp("bert")
    save_model("bert", folder, with_head=True, num_labels=4)
    model, base = models.load_pretrained(folder, task="sequence-classification")
    paths = adapters.match_targets(["query", "value"], base)
    start = adapters.init_pissa(base, paths, 4, key=jax.random.key(0))
    trained_adapters = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), start
    )
    return model, Params(adapters=trained_adapters, base=base, initial=start)


def _batch(micro_batches, teacher_size=4):
    random = np.random.default_rng(0)
    mask = np.arange(10) < random.integers(4, 11, 16)[:, None]
    batch = Batch(
        input_ids=np.where(mask, random.integers(3, 11, (16, 10)), 0),
        attention_mask=mask,
        token_type_ids=np.zeros((16, 10), int),
        targets=random.integers(0, 4, 16),
        mask=np.ones(16, bool),
        teacher=random.normal(size=(16, teacher_size)).astype(np.float32),
    )
    return jax.tree.map(
        lambda array: jnp.asarray(array.reshape(micro_batches, -1, *array.shape[1:])), batch
    )


def _gradient(model, params, batch, key=None, student_head=False):
    mask = trainable_mask(params, method="ba-lora", head=[("classifier",)])
    trainable, frozen = partition(params, mask)
    loss = classification.make_loss(
        model, SPEC, nlu_terms(TERMS), regression=False, student_head=student_head
    )

    @jax.jit
    def gradient(trainable, frozen, batch):
        return whole_batch(loss)(
            trainable, lambda part: combine(part, frozen, mask), batch, key, WEIGHTS
        )

    return gradient(trainable, frozen, batch)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_nothing(bert, micro_batches):
    """Covariance and spectrum are those of the whole batch, not means over micro-batches."""
    whole = _gradient(*bert, _batch(1))
    parts = _gradient(*bert, _batch(micro_batches))
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
    model, params = bert
    lora = adapters.student_lora(params.adapters, params.initial, SPEC)
    logits = model.apply(
        {"params": params.base, "lora": lora},
        _batch(1).input_ids[0],
        _batch(1).attention_mask[0],
    )
    centered = np.asarray(logits, np.float64) - np.mean(logits, axis=0)
    covariance = centered.T @ centered / 15
    expected = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 4
    np.testing.assert_allclose(parts[1]["diversity"], expected, rtol=1e-4)


def test_eight_devices_change_nothing(bert):
    model, params = bert
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    many = _gradient(model, placed, jax.device_put(_batch(2), batch_sharding(mesh)))
    chex.assert_trees_all_close(many, _gradient(*bert, _batch(1)), rtol=1e-5, atol=1e-6)


def test_the_students_head_reads_the_teachers_features_without_gradient(bert):
    model, params = bert
    batch = _batch(1, teacher_size=32)
    read = model.apply({"params": params.base}, batch.teacher[0], method="classify")
    actual = _gradient(model, params, batch, student_head=True)
    chex.assert_trees_all_close(
        actual, _gradient(model, params, batch._replace(teacher=read[None])), rtol=1e-5, atol=1e-7
    )


def test_dropout_differs_between_micro_batches(bert):
    model, params = bert
    dropping = model.clone(lora_dropout=0.5)
    batch = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf[:, :8], leaf[:, :8]], 1).reshape(2, 8, *leaf.shape[2:]),
        _batch(1),
    )
    lora = {
        "params": params.base,
        "lora": adapters.student_lora(params.adapters, params.initial, SPEC),
    }
    texts = batch._replace(targets=None, mask=None, teacher=None)

    def forward(micro, key):
        return dropping.apply(
            lora,
            micro.input_ids,
            micro.attention_mask,
            deterministic=False,
            rngs={"dropout": key},
        )

    first, second = classification._over_micro_batches(forward, texts, jax.random.key(0))
    assert not np.allclose(first, second, atol=1e-4)
