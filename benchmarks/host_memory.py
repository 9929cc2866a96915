"""Memory of hosts that read a model together and merge a run's adapter into it.

    python -m benchmarks.host_memory --tokenizer FOLDER [--layers 32] [--processes 4]

A random Llama in bfloat16 (4.3 GB with 32 layers, in files of 1 GB) is trained for one update, and
merged by that many processes of this machine, with one device each. Prints, of each process and
beside the size of the files, the most memory before the first merged file and until the end. Needs
2.5 times the files' size on the disk.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

WIDTH = 2048
HIDDEN = 8192
HEADS = 16
KV_HEADS = 4
VOCABULARY = 49152
ROWS = '{"instruction": "a", "response": "b c"}\n{"instruction": "d", "response": "e f"}\n'
TRAINED = {
    "method": "lora",
    "model.dtype": "bfloat16",
    "training.precision": "bfloat16",
    "adapter.rank": 8,
    "data.max_length": 32,
    "data.packing": "false",
    "data.template": "{instruction} ",
    "training.batch_size": 1,
    "training.steps": 1,
    "training.remat": "full",
    "mesh.data": 1,
}


class Memory(NamedTuple):
    """The memory of a process, in bytes.

    Attributes:
      resident: all of it, with the pages of files.
      own: without the pages of files.
    """

    resident: int = 0
    own: int = 0

    def or_more(self, other: "Memory") -> "Memory":
        """The larger one of each."""
        return Memory(max(self.resident, other.resident), max(self.own, other.own))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", required=True, help="a Hugging Face folder")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="balora-host-memory-") as place:
        folder = pathlib.Path(place)
        size = write_model(folder / "model", pathlib.Path(options.tokenizer), options.layers)
        (folder / "rows.jsonl").write_text(ROWS)
        named = TRAINED | {
            "model.source": folder / "model",
            "data.train": folder / "rows.jsonl",
            "output.dir": folder / "run",
        }
        arguments = [text for name, value in named.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "balora_jax"]
        subprocess.run([*command, "train", *arguments], check=True, stdout=subprocess.DEVNULL)
        print(f"files of {size / 1e9:.2f} GB, {options.processes} processes")
        measure_merge([*command, "merge", "--run", str(folder / "run")], folder, options.processes)


def write_model(folder: pathlib.Path, tokenizer: pathlib.Path, layers: int) -> int:
    """Write a random Llama in bfloat16, eight layers a file; returns the bytes of its weights."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    for path in tokenizer.glob("*token*"):
        shutil.copy(path, folder / path.name)
    random = np.random.default_rng(0)
    kv = WIDTH // HEADS * KV_HEADS
    sizes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (HIDDEN, WIDTH),
        "mlp.up_proj": (HIDDEN, WIDTH),
        "mlp.down_proj": (WIDTH, HIDDEN),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "lm_head": (VOCABULARY, WIDTH)}
    groups = [shapes | {"model.norm": (WIDTH,)}]
    for start in range(0, layers, 8):
        groups.append(
            {
                f"model.layers.{layer}.{name}": shape
                for layer in range(start, min(start + 8, layers))
                for name, shape in sizes.items()
            }
        )
    total = 0
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {}
        for name, shape in group.items():
            values = 0.02 * random.standard_normal(shape, np.float32)
            tensors[f"{name}.weight"] = values.astype(ml_dtypes.bfloat16)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def measure_merge(command: list[str], folder: pathlib.Path, count: int) -> None:
    """Run a command in several processes, and print the most memory of each."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = listening.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    hosts = ["--mesh.coordinator", f"localhost:{port}", "--mesh.processes", str(count)]
    processes = [
        subprocess.Popen(
            [*command, *hosts, "--mesh.process_id", str(number), "--mesh.wait", "300"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for number in range(count)
    ]
    reading = [Memory()] * count
    merging = [Memory()] * count
    while any(process.poll() is None for process in processes):
        # The files are written beside the run's, in a folder that is then renamed.
        begun = any((folder / "run").glob("*/model*.safetensors"))
        peaks = merging if begun else reading
        for number, process in enumerate(processes):
            peaks[number] = peaks[number].or_more(memory_of(process.pid))
        time.sleep(0.02)
    codes = [process.returncode for process in processes]
    if any(codes):
        sys.exit(f"the processes ended with {codes}")
    for number in range(count):
        print(
            f"process {number}: {_shown(reading[number])} while the model is read, "
            f"{_shown(merging[number])} while it is merged"
        )


def memory_of(process: int) -> Memory:
    """The memory of a process; none where it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return Memory()
    values = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in values:
        return Memory()
    resident, own = (1024 * int(values[name].split()[0]) for name in ("VmRSS", "RssAnon"))
    return Memory(resident, own)


def _shown(memory: Memory) -> str:
    return f"{memory.resident / 1e9:.2f} GB ({memory.own / 1e9:.2f} without pages of files)"


if __name__ == "__main__":
    main()
