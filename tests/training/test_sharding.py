"""Meshes, the sharding of every parameter, and the check of the batch size."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from balora_jax.config import MeshConfig
from balora_jax.errors import BadInput
from balora_jax.models.bert.sharding import BERT_RULES
from balora_jax.models.deberta.sharding import DEBERTA_RULES
from balora_jax.models.decoder.sharding import DECODER_RULES
from balora_jax.models.gpt2.sharding import GPT2_RULES
from balora_jax.models.t5.sharding import T5_RULES
from balora_jax.training.sharding import (
    check_batch,
    leaf_sharding,
    make_mesh,
    mesh_here,
    put,
    tree_shardings,
)

BERT = "base/bert/encoder/layer"
DEBERTA = "base/deberta/encoder/layer"
# By a part of the path.
RULES = {
    "transformer/": GPT2_RULES,
    "/bert/": BERT_RULES,
    "deberta/": DEBERTA_RULES,
    "block/": T5_RULES,
}


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 1, 1), (1, 1, 1)),
        ((1, 2, 2), (1, 2, 2)),
    ],
)
def test_mesh_shapes(sizes, shape):
    assert tuple(make_mesh(MeshConfig(*sizes)).shape.values()) == shape


@pytest.mark.parametrize("sizes", [(3, -1, 1), (4, 4, 1), (-1, 16, 1)])
def test_meshes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(BadInput, match="the 8 devices"):
        make_mesh(MeshConfig(*sizes))


@pytest.mark.parametrize(
    ("sizes", "devices", "shape"),
    [
        ((2, 2, 2), 8, (2, 2, 2)),
        ((2, 2, 2), 4, (1, 4, 1)),
        ((1, 16, 1), 1, (1, 1, 1)),
        ((-1, 16, 1), 8, (1, 8, 1)),
        ((-1, 1, 1), 2, (2, 1, 1)),
    ],
)
def test_a_run_is_read_on_other_devices(sizes, devices, shape):
    mesh = mesh_here(MeshConfig(*sizes), jax.devices()[:devices])
    assert tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize(
    "path, shape, spec",
    [
        ("base/model/layers/self_attn/q_proj/kernel", (3, 8, 4), P(None, "fsdp", "tensor")),
        ("base/model/layers/mlp/down_proj/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        ("base/model/layers/self_attn/qkv_proj/kernel", (3, 8, 12), P(None, "fsdp", "tensor")),
        (
            "base/model/layers/block_sparse_moe/experts/w2/kernel",
            (3, 4, 8, 6),
            P(None, None, "tensor", "fsdp"),
        ),
        ("adapters/model/layers/self_attn/q_proj/a", (3, 8, 5), P(None, "fsdp", None)),
        ("adapters/model/layers/self_attn/q_proj/b", (3, 5, 4), P(None, None, ("tensor", "fsdp"))),
        ("adapters/model/layers/self_attn/q_proj/b", (3, 5, 6), P(None, None, "tensor")),
        ("adapters/bert/encoder/layer/attention/self/query/b", (3, 5, 7), P(None, None, None)),
        (
            "opt_state/1/mu/adapters/model/layers/mlp/down_proj/a",
            (3, 8, 5),
            P(None, ("tensor", "fsdp"), None),
        ),
        ("opt_state/1/mu/adapters/model/layers/mlp/down_proj/b", (3, 5, 8), P(None, None, "fsdp")),
        ("base/model/embed_tokens/embedding", (10, 8), P("tensor", "fsdp")),
        ("base/lm_head/kernel", (8, 10), P("fsdp", "tensor")),
        ("base/model/layers/self_attn/q_proj/kernel", (3, 7, 4), P(None, None, "tensor")),
        ("base/model/norm/scale", (8,), P(None)),
        ("base/transformer/h/attn/c_attn/kernel", (3, 8, 12), P(None, "fsdp", "tensor")),
        ("base/transformer/h/attn/c_proj/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        ("base/transformer/h/mlp/c_proj/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        (f"{BERT}/attention/self/query/kernel", (3, 8, 4), P(None, "fsdp", "tensor")),
        (f"{BERT}/attention/output/dense/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        (f"{BERT}/intermediate/dense/kernel", (3, 8, 4), P(None, "fsdp", "tensor")),
        (f"{BERT}/output/dense/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        (f"{DEBERTA}/attention/output/dense/kernel", (3, 8, 4), P(None, "tensor", "fsdp")),
        ("adapters/deberta/encoder/layer/output/dense/b", (3, 5, 8), P(None, None, "fsdp")),
        ("base/encoder/block/layer/0/SelfAttention/q/kernel", (3, 8, 4), P(None, "fsdp", "tensor")),
        ("base/decoder/block/layer/1/EncDecAttention/o/kernel", (8, 4), P("tensor", "fsdp")),
        ("base/encoder/block/layer/1/DenseReluDense/wi/kernel", (8, 4), P("fsdp", "tensor")),
        ("base/encoder/block/layer/1/DenseReluDense/wo/kernel", (8, 4), P("tensor", "fsdp")),
        ("step", (), P()),
    ],
)
def test_sharding_rules(path, shape, spec):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rules = next((rules for start, rules in RULES.items() if start in path), DECODER_RULES)
    actual = leaf_sharding(mesh, path, shape, rules).spec
    replicated = not any(spec) and not any(actual)
    assert actual == spec or replicated


def test_put_places_a_tree_by_its_shardings():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    tree = {"q_proj": {"kernel": np.arange(32.0).reshape(8, 4)}}
    placed = jax.tree.map(put, tree, tree_shardings(mesh, tree, DECODER_RULES))
    np.testing.assert_array_equal(placed["q_proj"]["kernel"], tree["q_proj"]["kernel"])
    assert placed["q_proj"]["kernel"].sharding.spec == P("fsdp", "tensor")


def test_batches_that_do_not_divide_are_refused():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(mesh, 16, 4)
    with pytest.raises(
        BadInput,
        match=r"batch_size 12 / training\.accumulation 2 = 6.*fsdp = 4; accepted: a multiple of 4",
    ):
        check_batch(mesh, 12, 2)
