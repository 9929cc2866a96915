"""The loss of answers: equal to PyTorch's, and the same on eight devices."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from seq2seq_cases import WORDS, save_t5
from streaming_cases import settled
from term_cases import nlg_terms
from transformers import T5ForConditionalGeneration

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
from balora_jax.objective import plain, seq2seq_lm
from balora_jax.objective.params import Params
from balora_jax.objective.spectrum import head_factor
from balora_jax.training.sharding import make_mesh
from balora_jax.training.state import combine, partition, trainable_mask

TERMS = RegularizersConfig(
    consistency=ConsistencyConfig(weight=0.5),
    diversity=DiversityConfig(weight=0.3),
    svd=SvdConfig(weight=0.4, k=4),
)
WEIGHTS = {"consistency": 0.5, "diversity": 0.3, "svd": 0.4}
SPEC = AdapterSpec(4)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """(folder, model, params), the adapters not at their start."""
    folder = save_t5(tmp_path_factory.mktemp("t5"))
    model, base = models.load_pretrained(folder, task="seq2seq-lm")
    start = adapters.init_pissa(
        base, adapters.match_targets(["q", "v"], base), 4, key=jax.random.key(0)
    )
    trained_adapters = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), start
    )
    factor = head_factor(models.head(model, base))
    params = Params(adapters=trained_adapters, base=base, head_factor=factor, initial=start)
    return folder, model, params


def _batch():
    random = np.random.default_rng(0)
    mask = np.arange(10) < random.integers(4, 11, 8)[:, None]
    counted = np.arange(5) < random.integers(2, 6, 8)[:, None]
    return Batch(
        input_ids=np.where(mask, random.integers(3, len(WORDS), (8, 10)), 0),
        attention_mask=mask,
        targets=np.where(counted, random.integers(1, len(WORDS), (8, 5)), 0),
        mask=counted,
    )


def _loss_and_gradient(model, params, batch, mesh=None):
    mask = trainable_mask(params, method="ba-lora", head=())
    trainable, frozen = partition(params, mask)
    # The SVD term on a mesh is tested with the streamed objective.
    terms = nlg_terms(dataclasses.replace(TERMS, svd=SvdConfig(weight=0.0)))
    weights = {name: WEIGHTS[name] for name in terms}
    loss = seq2seq_lm.make_loss(model, SPEC, terms, mesh=mesh)

    @jax.jit
    def loss_and_gradient(trainable, frozen, batch):
        def loss_of(trainable):
            return loss(combine(trainable, frozen, mask), batch, None, weights)

        return jax.value_and_grad(loss_of, has_aux=True)(trainable)

    return loss_and_gradient(trainable, frozen, batch)


def test_loss_equals_pytorch(t5):
    folder, model, params = t5
    batch = _batch()
    at_start = params.replace(adapters=params.initial)
    reference = T5ForConditionalGeneration.from_pretrained(folder).eval()
    labels = torch.tensor(np.where(batch.mask, batch.targets, -100)).long()
    inputs = {
        name: torch.tensor(getattr(batch, name)).long() for name in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        theirs = reference(**inputs, labels=labels).loss.item()
    ours, parts = jax.jit(seq2seq_lm.make_loss(model, SPEC, {}))(at_start, batch, None, {})
    held_out = jax.jit(seq2seq_lm.make_task_loss(model, SPEC))(at_start, batch)
    np.testing.assert_allclose([ours, parts["task"], held_out], theirs, rtol=1e-4)


def test_the_objective_is_that_of_the_answers_logits(t5):
    """The reference is the plain objective of logits computed here."""
    _, model, params = t5
    batch = _batch()
    decoder_inputs = np.pad(batch.targets[:, :-1], ((0, 0), (1, 0)))
    lora = adapters.student_lora(params.adapters, params.initial, SPEC)
    apply = jax.jit(model.apply)
    inputs = (batch.input_ids, batch.attention_mask, decoder_inputs)
    logits = apply({"params": params.base, "lora": lora}, *inputs)
    teacher = apply({"params": params.base, "lora": {}}, *inputs)
    whole = plain.objective(
        logits,
        teacher,
        batch.targets,
        jnp.asarray(batch.mask),
        terms=nlg_terms(TERMS),
        weights=WEIGHTS,
    )
    at_start = params.replace(adapters=params.initial)
    loss = jax.jit(seq2seq_lm.make_loss(model, SPEC, nlg_terms(TERMS)))
    total, parts = loss(params, batch, None, WEIGHTS)
    chex.assert_trees_all_close((total, settled(parts)), whole, rtol=1e-4, atol=1e-5)
    assert abs(loss(at_start, batch, None, WEIGHTS)[1]["consistency"]) < 1e-6


def test_eight_devices_change_nothing(t5):
    _, model, params = t5
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    batch = jax.device_put(_batch(), NamedSharding(mesh, P(("data", "fsdp"))))
    many = _loss_and_gradient(model, placed, batch, mesh)
    chex.assert_trees_all_close(
        many, _loss_and_gradient(model, params, _batch()), rtol=1e-4, atol=1e-5
    )
