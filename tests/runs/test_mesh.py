"""Meshes that are chosen, and those that divide no kernel."""

import dataclasses
import json

import jax
import pytest

from balora_jax.cli import main
from balora_jax.config import MeshConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs import mesh
from balora_jax.runs.mesh import described_model, run_mesh

AUTO = ["--mesh.auto", "true"]
MIB = 2**20


@pytest.fixture
def config(run_arguments, tmp_path):
    """(batch size, *more) -> a run on the tiny Llama without micro-batches."""
    sizes = ["--mesh.data", "-1", "--training.accumulation", "1", "--training.batch_size"]
    return lambda size, *more: read_config(
        run_arguments(tmp_path / "run", *sizes, str(size), *more)
    )


@pytest.mark.parametrize(
    ("batch_size", "devices", "sizes"),
    [
        (8, 8, (8, 1, 1)),
        (16, 4, (4, 1, 1)),
        (4, 8, (4, 1, 2)),
        (1, 4, (1, 1, 4)),
        (6, 8, (2, 1, 4)),
        (8, 1, (1, 1, 1)),
        # No kernel has a dimension that 3, 5 or 7 divide in every layer.
        (15, 8, (1, 1, 8)),
        (1, 7, (1, 1, 4)),
    ],
)
def test_all_devices_that_can_be_are_busy(config, batch_size, devices, sizes):
    given = config(batch_size, *AUTO)
    chosen, note = run_mesh(given, jax.devices()[:devices], None)
    assert tuple(chosen.shape.values()) == sizes
    assert note.startswith("mesh.auto takes data {} x fsdp {} x tensor {}: ".format(*sizes))
    idle = devices - chosen.size
    assert (f"{idle} of {devices} devices are idle" in note) == (idle > 0)


def test_weights_are_divided_as_far_as_the_memory_asks(config):
    given = config(8, *AUTO)
    _, note = run_mesh(given, jax.devices(), None)
    candidates = [MeshConfig(data=8 // fsdp, fsdp=fsdp) for fsdp in (1, 2, 4, 8)]
    needed = []
    for sizes in candidates:
        fixed = dataclasses.replace(given, mesh=sizes)
        chosen, note = run_mesh(fixed, jax.devices(), None)
        assert note is None
        setup = mesh.build_setup(fixed, described_model(fixed), chosen, steps=1)
        needed.append(mesh._state_bytes(setup, chosen))
    assert needed == sorted(needed, reverse=True) and needed[0] > 4 * needed[3]
    for sizes, size in zip(candidates, needed, strict=True):
        chosen, note = run_mesh(given, jax.devices(), int(size / mesh.SHARE) + 1)
        assert chosen.shape["fsdp"] == sizes.fsdp
        assert (sizes.fsdp > 1) == ("and with data 8 x fsdp 1 x tensor 1 would take" in note)
    # Where no sizes are enough, those that need least.
    chosen, _ = run_mesh(given, jax.devices(), 1)
    assert chosen.shape["fsdp"] * chosen.shape["tensor"] == 8


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (["--mesh.data", "1", "--mesh.fsdp", "5"], "mesh.fsdp 5 does not divide model.layers."),
        (["--mesh.data", "1", "--mesh.tensor", "3"], "mesh.tensor 3 does not divide model.layers."),
    ],
)
def test_an_axis_that_divides_no_kernel_is_refused(config, sizes, sentence):
    given = config(10, *sizes)
    with pytest.raises(BadInput) as raised:
        run_mesh(given, jax.devices(), None)
    assert sentence in str(raised.value)
    assert "accepted: a size that divides it, such as" in str(raised.value)


def test_auto_with_sizes_is_refused(config):
    with pytest.raises(BadInput, match=r"mesh\.auto is True; accepted: false, or true without"):
        config(8, *AUTO, "--mesh.fsdp", "2")


def test_a_run_says_which_mesh_it_takes_and_goes_on_with_another(run_arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    steps = ["--mesh.data", "-1", "--training.steps", "2"]
    main(["train", *run_arguments(folder, *steps, *AUTO)])
    assert "mesh.auto takes data" in " ".join(capsys.readouterr().out.split())
    more = ["--output.resume", "--training.steps", "4", "--mesh.data", "1"]
    main(["train", *run_arguments(folder, *more)])
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]
