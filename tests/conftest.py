"""Eight virtual devices, a compilation cache, and fixtures for real data, models and runs."""

import os

# The command line sets the same; it must precede the import of scipy.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Most of the suite's time is compilation of functions that run once: skip optimization.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import pytest
from filelock import FileLock
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from balora_jax import models

jax.config.update("jax_num_cpu_devices", 8)
# Tests compile the same functions repeatedly, also in subprocesses: each is compiled once.
# The workers of pytest-xdist inherit the folder, and a limit on its size makes them lock it.
if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    CACHE_FOLDER = os.environ["JAX_COMPILATION_CACHE_DIR"]
else:
    TEMPORARY_CACHE = tempfile.TemporaryDirectory(prefix="balora-compiled-")
    CACHE_FOLDER = TEMPORARY_CACHE.name
for name, value in {
    "jax_compilation_cache_dir": CACHE_FOLDER,
    "jax_compilation_cache_max_size": 8 * 2**30,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = pathlib.Path(__file__).parents[2] / "shared"
MODELS = pathlib.Path.home() / ".cache" / "balora-models"


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


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> pathlib.Path:
    """A Hugging Face folder of a random two-layer Llama with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("described")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    sizes = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(vocabulary),
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    params = models.init_params(models.load_model(folder), jax.random.key(0))
    # Larger than initial weights, so that the principal directions matter.
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 2 else leaf, params)
    return models.save_pretrained(tmp_path_factory.mktemp("tiny_llama"), params, source=folder)


@pytest.fixture(scope="session")
def sums(tmp_path_factory) -> pathlib.Path:
    """A folder with train.jsonl and eval.jsonl of small sums."""
    folder = tmp_path_factory.mktemp("sums")
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(12) for b in range(8)]
    for name, part in {"train": rows[::2] + rows[1::4], "eval": rows[3::4]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="session")
def run_arguments(tiny_llama, sums):
    """(output folder, *more) -> the command-line arguments of a short run on the sums."""

    def arguments(output: pathlib.Path, *more: str) -> list[str]:
        settings = {
            "model.source": tiny_llama,
            "model.dtype": "float32",
            "adapter.rank": 4,
            "adapter.init": "pissa",
            "data.train": sums / "train.jsonl",
            "data.eval": sums / "eval.jsonl",
            "data.fields": '{"instruction": "question", "response": "answer"}',
            "data.template": "{instruction}",
            "data.max_length": 32,
            "optimizer.learning_rate": 1e-2,
            "training.steps": 6,
            "training.batch_size": 8,
            "training.accumulation": 2,
            "training.precision": "float32",
            "mesh.data": 1,
            "output.dir": output,
            "output.save_every": 2,
        }
        pairs = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
        return [*pairs, *more]

    return arguments
