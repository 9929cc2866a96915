"""The start of a process: what it does not import, and caches that change no bit of a run."""

import json
import subprocess
import sys

import jax
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.runs import compiled_programs

# A command, and then the libraries that are there.
SCRIPT = """
import json, sys
from balora_jax.cli import main
try:
    main(json.loads(sys.argv[1]))
finally:
    print()
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_next_to_nothing():
    heavy = {"jax", "flax", "numpy", "transformers", "datasets", "rich", "jsonargparse", "torch"}
    assert imported("--help") & heavy == set()


def test_help_on_a_command_waits_for_no_jax():
    heavy = {"jax", "flax", "transformers", "datasets", "torch"}
    assert imported("train", "--help") & heavy == set()


def test_a_run_imports_no_torch(run_arguments, tmp_path):
    libraries = imported("train", *run_arguments(tmp_path / "run"))
    assert {"jax", "transformers"} <= libraries
    assert libraries & {"torch", "sklearn", "datasets"} == set()
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").exists()


def test_a_run_has_the_same_bits_with_caches_off_cold_and_warm(
    run_arguments, tmp_path, monkeypatch
):
    monkeypatch.setenv("BALORA_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(compiled_programs, "LEAST_SECONDS", 0.0)
    programs = str(tmp_path / "programs")
    trained = []
    for name in ("off", "cold", "warm"):
        options = ["--data.cache", "false", "--output.compilation_cache", "off"]
        if name != "off":
            options = ["--output.compilation_cache", programs]
        # Else programs are those that this process has in memory.
        jax.clear_caches()
        main(["train", *run_arguments(tmp_path / name, *options)])
        trained.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    assert len(list((tmp_path / "caches" / "tokens").iterdir())) == 2
    assert list((tmp_path / "programs").rglob("jit_step-*-cache"))
    for other in trained[1:]:
        assert other.keys() == trained[0].keys()
        for name, array in other.items():
            assert array.tobytes() == trained[0][name].tobytes(), name
