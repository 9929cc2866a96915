"""The start of a process: libraries that it does not need are not imported."""

import json
import subprocess
import sys

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
