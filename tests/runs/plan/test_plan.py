"""`balora plan` on CPU devices: what it says, what it changes, and what it refuses."""

import json
import subprocess
import sys

import jax
import pytest
import yaml

from balora_jax.config.commands import plan_options
from balora_jax.errors import BadInput
from balora_jax.runs.mesh import described_model, possible_meshes
from balora_jax.runs.plan import attempt, command, estimate, topology
from balora_jax.runs.plan.attempt import Attempt, Bytes
from balora_jax.runs.plan.remedies import changes, remedies, without_auto
from balora_jax.runs.setup import build_setup
from balora_jax.training.sharding import make_mesh


@pytest.fixture
def options(tiny_llama):
    """(*more arguments) -> the options of a plan for a tiny Llama."""

    def parse(*more):
        given = ["--model.source", str(tiny_llama), "--data.train", "not_there.jsonl"]
        given += ["--adapter.rank", "4", "--data.max_length", "64", "--training.steps", "50"]
        return plan_options([*given, *more], "")

    return parse


@pytest.fixture(autouse=True)
def devices_as_they_are(monkeypatch):
    """This process has its devices already."""
    monkeypatch.setattr(
        command, "planned_devices", lambda options: jax.devices()[: options.host_devices]
    )


def planned(capsys, options):
    command.plan(options)
    return json.loads(capsys.readouterr().out)


def test_memory_and_operations(options, capsys):
    plan = planned(capsys, options("--json", "--training.batch_size", "8"))["plan"]
    assert plan["memory"]["base"] > plan["memory"]["trained"] > 0
    # AdamW's two moments.
    assert plan["memory"]["optimizer"] == pytest.approx(2 * plan["memory"]["trained"], rel=0.01)
    assert plan["memory_total"] == sum(plan["memory"].values())
    assert plan["fits"] and plan["remat"] == "none" and plan["bytes_sent"] == {}
    # The tiny model's attention and adapters are as large as its layers.
    assert 1 < plan["operations"] / plan["floor"] < 4


def test_on_eight_devices_weights_are_divided_and_sent(options, capsys):
    arguments = ("--json", "--training.batch_size", "8")
    whole = planned(capsys, options(*arguments))["plan"]
    divided = planned(
        capsys, options(*arguments, "--devices", "8", "--mesh.data", "1", "--mesh.fsdp", "8")
    )["plan"]
    assert divided["devices"] == 8 and divided["memory"]["base"] < whole["memory"]["base"] / 4
    assert divided["bytes_sent"]["all-gather"] > 2 * whole["memory"]["base"] / 4
    assert divided["operations"] == pytest.approx(whole["operations"], rel=0.2)


@pytest.fixture
def small_devices(monkeypatch):
    """Devices of 1,000 bytes, and updates that need more of them the less they compute again."""
    needed = {"none": 4000, "dots": 3000, "full": 2000}

    def attempt(config, model, mesh, length):
        size = needed[config.training.remat] // config.training.accumulation
        setup = build_setup(config, model, mesh, steps=1)
        return Attempt(config, setup, Bytes(0, 0, 0, 0, size), 1.0, {}, 0.0)

    monkeypatch.setattr(command, "attempt", attempt)
    monkeypatch.setattr(estimate, "device_bytes", lambda device: 1000)


def test_what_does_not_fit_is_changed_until_it_does(options, capsys, small_devices):
    arguments = ("--training.batch_size", "64", "--training.remat", "none")
    answer = planned(capsys, options(*arguments, "--json"))
    assert answer["plan"]["fits"] is False and answer["fitting"]["plan"]["fits"]
    change = {"training": {"accumulation": 4, "remat": "full"}}
    assert answer["fitting"]["change"] == change
    command.plan(options(*arguments))
    printed = capsys.readouterr().out
    assert "which does not fit" in printed and "It fits with" in printed
    assert yaml.safe_load(printed.split("It fits with")[1].split("devices")[0]) == change


def test_the_least_is_named_where_nothing_fits(options, capsys, small_devices):
    command.plan(options("--training.batch_size", "1"))
    assert "Nothing that was tried fits: as it is" in capsys.readouterr().out
    answer = planned(capsys, options("--training.batch_size", "1", "--json"))
    assert answer["fitting"] is None


def test_auto_takes_what_fits(options, capsys, small_devices, monkeypatch):
    monkeypatch.setattr(estimate, "device_bytes", lambda device: 2500)
    answer = planned(capsys, options("--json", "--training.batch_size", "1"))
    assert answer["plan"]["remat"] == "full" and "fitting" not in answer


def test_temporaries_are_counted(options, capsys):
    """At least the input of each layer, which the backward pass needs, for every token."""
    sizes = ["--training.batch_size", "32", "--data.max_length", "128"]
    answer = planned(capsys, options("--json", "--training.remat", "full", *sizes))["plan"]
    tokens, width, layers = 32 * 128, 32, 2
    assert answer["memory"]["temporaries"] > 2 * layers * tokens * width


def test_the_weights_of_method_full_are_in_float32(options, capsys):
    plans = [
        planned(capsys, options("--json", "--method", "full", "--model.dtype", dtype))["plan"]
        for dtype in ("float32", "bfloat16")
    ]
    assert plans[0]["memory"]["trained"] == plans[1]["memory"]["trained"]


def test_a_mesh_that_cannot_divide_the_batch_is_no_remedy(options):
    given = options("--training.batch_size", "4", "--devices", "8", "--mesh.data", "4")
    mesh = make_mesh(given.run.mesh)
    config = without_auto(given.run, mesh)
    sizes = possible_meshes(config, described_model(config), jax.devices())
    for candidate in remedies(config, mesh, sizes):
        divided = make_mesh(candidate.mesh)
        shards = divided.shape["data"] * divided.shape["fsdp"]
        assert 4 // candidate.training.accumulation % shards == 0


def test_remedies_keep_each_change(options):
    given = options("--training.batch_size", "32", "--devices", "8", "--training.remat", "dots")
    mesh = make_mesh(given.run.mesh)
    config = without_auto(given.run, mesh)
    sizes = possible_meshes(config, described_model(config), jax.devices())
    tried = list(remedies(config, mesh, sizes))
    assert [changes(given.run, config, candidate) for candidate in tried] == [
        {"training": {"remat": "full"}},
        {"training": {"remat": "full"}, "mesh": {"data": 1, "fsdp": 8}},
        {"training": {"remat": "full", "accumulation": 2}, "mesh": {"data": 1, "fsdp": 8}},
        {"training": {"remat": "full", "accumulation": 4}, "mesh": {"data": 1, "fsdp": 8}},
    ]


def test_a_mesh_is_chosen_for_the_planned_devices(options, capsys):
    arguments = ["--training.batch_size", "4", "--devices", "8", "--mesh.auto", "true", "--json"]
    command.plan(options(*arguments))
    printed = capsys.readouterr()
    assert "mesh.auto takes data 4 x fsdp 1 x tensor 2" in " ".join(printed.err.split())
    assert json.loads(printed.out)["plan"]["mesh"] == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology", "v7:4x4"], "--topology is 'v7:4x4'; accepted: a TPU slice of v4, v5e"),
        (["--topology", "v5e"], "--topology is 'v5e'"),
        (["--topology", "h100:0"], "--topology is 'h100:0'"),
        (["--topology", "h100:99999"], "accepted: at most 512 GPUs"),
        (["--devices", "0"], "--devices is 0; accepted: 1 to 512"),
        (["--devices", "8", "--topology", "v5e:2x2"], "accepted: one of the two"),
        (["--training.batch_size", "0"], "training.batch_size is 0"),
    ],
)
def test_bad_options(options, arguments, sentence):
    with pytest.raises(BadInput) as raised:
        options(*arguments)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--training.batch_size", "3", "--devices", "2"], "is not divisible by mesh"),
        (["--mesh.fsdp", "3", "--devices", "2"], "does not fit the 2 devices"),
        (["--data.max_length", "4096"], "accepted: at most the model's 128"),
        (["--model.source", "no/such/folder"], "no/such/folder"),
    ],
)
def test_what_cannot_be_compiled(options, arguments, sentence):
    with pytest.raises(BadInput) as raised:
        command.plan(options(*arguments))
    assert sentence in str(raised.value)


def test_a_compiler_that_is_not_here_is_named(monkeypatch, options):
    def fail(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", fail)
    # This process has its devices already.
    monkeypatch.setattr(topology.jax.config, "update", lambda *_: None)
    for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.setenv(name, "")
    with pytest.raises(BadInput, match="needs TPU's compiler, which is not here"):
        topology.planned_devices(options("--topology", "v5e:4x4"))


def test_a_compiler_of_another_version_is_named(monkeypatch, options):
    def fail(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", fail)
    program = jax.jit(lambda x: x).lower(1.0).compile()
    with pytest.raises(BadInput, match=r"cannot be read by jaxlib .* RET_CHECK failure.*libtpu"):
        attempt._text_of(program, is_tpu=True)
    with pytest.raises(jax.errors.JaxRuntimeError):
        attempt._text_of(program, is_tpu=False)


def test_gpus_are_estimated_from_the_command_line(tiny_llama, tmp_path):
    """In a process of its own, which has no devices before."""
    command = [sys.executable, "-m", "balora_jax", "plan", "--topology", "h100:2"]
    command += ["--model.source", str(tiny_llama), "--data.train", "x.jsonl", "--adapter.rank", "4"]
    command += ["--data.max_length", "64", "--training.steps", "50"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "2 x h100" in done.stdout and "CPUs stood in for them" in done.stdout
    assert "device-hours" in done.stdout and "which fits" in done.stdout
    assert list(tmp_path.iterdir()) == []
