"""Reading of checkpoints onto devices, each of which reads a part."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from model_folders import first_task, write_model
from safetensors.numpy import load_file, save_file

from balora_jax import adapters
from balora_jax.config import MeshConfig
from balora_jax.errors import BadInput
from balora_jax.models import load_checkpoint, load_model, load_pretrained, save_pretrained
from balora_jax.models.hf import reading
from balora_jax.models.hf.checkpoint import Checkpoint
from balora_jax.training.sharding import leaf_sharding, make_mesh

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 4, 2), (4, 1, 2)]


@pytest.fixture
def by_rows(monkeypatch):
    """Read every tensor as large ones are."""
    monkeypatch.setattr(reading, "LARGE", 0)


def write_random(folder, model_type, dtype=np.float32):
    """A tiny model with other numbers in every place."""
    write_model(folder, model_type)
    path = folder / "model.safetensors"
    draw = np.random.default_rng(0).standard_normal
    tensors = {name: draw(value.shape).astype(dtype) for name, value in load_file(path).items()}
    save_file(tensors, path)
    return folder


def shardings_on(mesh, rules):
    return lambda path, shape: leaf_sharding(mesh, "/".join(path), shape, rules)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "bert", "t5"])
def test_rows_give_the_same_as_whole_tensors(model_type, dtype, tmp_path, monkeypatch):
    """Stacked layers and experts, kernels stored as they are, and embeddings; on every mesh."""
    folder = write_random(tmp_path, model_type, dtype)
    task = first_task(model_type)
    target = "bfloat16" if dtype == ml_dtypes.bfloat16 else "float32"
    expected = load_checkpoint(folder, task=task, dtype=target).params
    monkeypatch.setattr(reading, "LARGE", 0)
    alone = load_checkpoint(folder, task=task, dtype=target).params
    jax.tree.map(np.testing.assert_array_equal, alone, expected)
    rules = load_model(folder, task=task).sharding_rules
    for sizes in MESHES if dtype == np.float32 else [(2, 2, 2)]:
        mesh = make_mesh(MeshConfig(*sizes))
        sharding_of = shardings_on(mesh, rules)
        params = load_checkpoint(folder, task=task, dtype=target, sharding_of=sharding_of).params
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            asked = sharding_of(tuple(key.key for key in path), leaf.shape)
            assert leaf.sharding.is_equivalent_to(asked, leaf.ndim)


def test_every_byte_is_read_once(by_rows, tmp_path, monkeypatch):
    """Also where the mesh replicates a parameter."""
    folder = write_random(tmp_path, "llama")
    sizes = []
    read = Checkpoint.read

    def counting(self, name, rows=slice(None)):
        part = read(self, name, rows)
        sizes.append(part.nbytes)
        return part

    monkeypatch.setattr(Checkpoint, "read", counting)
    mesh = make_mesh(MeshConfig(data=8))
    load_checkpoint(folder, sharding_of=lambda path, shape: NamedSharding(mesh, P()))
    tensors = load_file(folder / "model.safetensors")
    assert sum(sizes) == sum(tensor.nbytes for tensor in tensors.values())
    # A row of a kernel for each device.
    assert sizes.count(tensors["model.layers.0.mlp.down_proj.weight"][0].nbytes) > 8


@pytest.mark.parametrize(
    ("number", "dtype", "reason"),
    [(np.nan, "float32", "NaN or infinite"), (1e6, "float16", "beyond the range of float16")],
)
def test_a_number_that_is_not_finite_is_found_in_its_rows(by_rows, tmp_path, number, dtype, reason):
    folder = write_random(tmp_path, "llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, 2] = number
    save_file(tensors, path)
    mesh = make_mesh(MeshConfig(fsdp=4))
    sharding_of = shardings_on(mesh, load_model(folder).sharding_rules)
    with pytest.raises(BadInput, match=rf"layers\.1\.mlp\.up_proj\.weight.* {reason}"):
        load_checkpoint(folder, dtype=dtype, sharding_of=sharding_of)


PROCESS = """
import sys
number, port, folder, out = sys.argv[1:]
import jax
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
from balora_jax import adapters, models
from balora_jax.config import MeshConfig
from balora_jax.models.hf import reading
from balora_jax.models.hf.checkpoint import Checkpoint
from balora_jax.runs.weights import load_base
from balora_jax.training.sharding import make_mesh

reading.LARGE = 0
read = Checkpoint.read
sizes = []
def counting(self, name, rows=slice(None)):
    part = read(self, name, rows)
    sizes.append(part.nbytes)
    return part
Checkpoint.read = counting
mesh = make_mesh(MeshConfig(data=2, fsdp=2))
model, params, *_ = load_base(folder, "float32", mesh)
paths = adapters.match_targets("all-linear", params)
lora = adapters.init_pissa(params, paths, 2, key=jax.random.key(0), mesh=mesh)
merged = adapters.merged_when_read(params, lora)
print(sum(sizes))
if jax.process_index() == 0:
    models.save_pretrained(out, merged, source=folder)
else:
    models.gather_tensors(model, merged)
"""


def test_two_processes_read_a_half_each_and_write_the_whole(tmp_path):
    folder = write_random(tmp_path / "model", "llama")
    _, params = load_pretrained(folder)
    paths = adapters.match_targets("all-linear", params)
    lora = adapters.init_pissa(params, paths, 2, key=jax.random.key(0))
    save_pretrained(tmp_path / "one", adapters.merge(params, lora), source=folder)

    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[3]),
    }
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, number, port, folder, tmp_path / "two"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    read = [int(process.communicate(timeout=300)[0].split()[-1]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    tensors = load_file(folder / "model.safetensors")
    # The embedding and the head have 19 rows, which four devices cannot share.
    alone = {"model.embed_tokens.weight", "lm_head.weight"}
    whole = sum(tensor.nbytes for name, tensor in tensors.items() if name in alone)
    shared = sum(tensor.nbytes for name, tensor in tensors.items() if name not in alone)
    assert read == [whole + shared // 2] * 2
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=1e-6)


def test_devices_exchange_parts_of_a_tensor_and_none_needs_it_whole(capfd):
    """XLA says so on the error output where it gathers the whole."""
    for sizes in MESHES:
        mesh = make_mesh(MeshConfig(*sizes))
        for spec, transposed in [(("fsdp", "tensor"), True), (("tensor", "fsdp"), False)]:
            layer = NamedSharding(mesh, P(*spec))
            axes = reading._row_axes(64, transposed, layer)
            shape = jax.ShapeDtypeStruct((64, 32), "float32", sharding=NamedSharding(mesh, P(axes)))
            reading._mover(transposed, 64, layer).lower(shape).compile()
    assert "rematerialization" not in capfd.readouterr().err
