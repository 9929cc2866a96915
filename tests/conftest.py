"""Eight virtual devices, a compilation cache, and fixtures for real data, models and runs."""

import os

# The command line sets the same; it must precede the import of scipy.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import functools
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

# Most of the suite's time is compilation of functions that run once: skip optimization.
FLAGS = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # XLA's older code for fusions compiles in a third of the time; other versions may lack it, and
    # end the process where they are asked for what they lack.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import fsspec
import jax
import pytest
from filelock import FileLock
from run_cases import save_llama, sum_arguments, write_sums

from balora_jax.config import check, training

jax.config.update("jax_num_cpu_devices", 8)
# Tests compile the same functions repeatedly, also in subprocesses: each is compiled once.
# The workers of pytest-xdist inherit the folder. It has no limit: with one jax looks at every file
# whenever it adds one, which takes longer than compiling once there are thousands.
if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    CACHE_FOLDER = os.environ["JAX_COMPILATION_CACHE_DIR"]
else:
    TEMPORARY_CACHE = tempfile.TemporaryDirectory(prefix="balora-compiled-")
    CACHE_FOLDER = TEMPORARY_CACHE.name
for name, value in {
    "jax_compilation_cache_dir": CACHE_FOLDER,
    "jax_compilation_cache_max_size": -1,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
# The caches of the project, also in subprocesses: never the user's own.
OWN_CACHES = tempfile.TemporaryDirectory(prefix="balora-caches-")
os.environ["BALORA_CACHE"] = OWN_CACHES.name
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A compiled program takes some ten mappings of memory, and Linux ends a process that asks for more
# than 65,530.
MANY_MAPPINGS = 20_000
MAPPINGS = pathlib.Path("/proc/self/maps")

SHARED = pathlib.Path(__file__).parents[2] / "shared"
MODELS = pathlib.Path.home() / ".cache" / "balora-models"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, the site, so that no worker waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_site.py")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget the compiled programs of earlier files once there are many."""
    if MAPPINGS.exists() and MAPPINGS.read_text().count("\n") > MANY_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data beside the checkout; skips the test if it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of real data, ../shared, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def real_model(shared):
    """name -> the folder of a small real model, created on first use."""

    def folder(name: str) -> pathlib.Path:
        MODELS.mkdir(parents=True, exist_ok=True)
        with FileLock(MODELS / "making.lock"):
            if not (MODELS / name / "config.json").is_file():
                script = shared / "tools" / "get_models.py"
                subprocess.run(
                    [sys.executable, str(script), name, "--out", str(MODELS)], check=True
                )
        return MODELS / name

    return folder


@pytest.fixture
def memory_files() -> fsspec.AbstractFileSystem:
    """The files of buckets within the process, of which there are none at the start."""
    files = fsspec.filesystem("memory")

    def clear():
        # Both are the class's, so they outlive a test; a folder's name is left without its files.
        files.store.clear()
        files.pseudo_dirs[:] = [""]

    clear()
    yield files
    clear()


@pytest.fixture
def any_rate(monkeypatch):
    """Lift the bound of learning rates, for runs whose loss must not stay finite."""
    monkeypatch.setattr(training, "LARGEST_RATE", float("inf"))
    monkeypatch.setattr(check, "LARGEST", float("inf"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> pathlib.Path:
    """A Hugging Face folder of a random two-layer Llama with a byte-level tokenizer."""
    return save_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def sums(tmp_path_factory) -> pathlib.Path:
    """A folder with train.jsonl and eval.jsonl of small sums."""
    return write_sums(tmp_path_factory.mktemp("sums"))


@pytest.fixture(scope="session")
def run_arguments(tiny_llama, sums):
    """(output folder, *more) -> the command-line arguments of a short run on the sums."""
    return functools.partial(sum_arguments, tiny_llama, sums)
