"""Two processes of one run on this machine, which talk to each other as hosts do."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def losses(folder):
    """The losses of a run's updates and evaluations, in order."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record.get("loss", record.get("eval_loss")) for record in records]


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


class Processes:
    """Two processes of one run, with two devices each."""

    def __init__(
        self, arguments, log, differing=(), name="train", places=(None, None), own=({}, {})
    ):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "PYTHONPATH": str(ROOT),
        }
        self.errors = [log.with_suffix(f".{number}") for number in range(2)]
        together = ["--mesh.coordinator", f"localhost:{free_port()}", "--mesh.processes", "2"]
        self.running = []
        for number, path in enumerate(self.errors):
            command = [sys.executable, "-m", "balora_jax", name, *arguments, *together]
            command += ["--mesh.process_id", str(number), *(differing if number else ())]
            with path.open("w") as errors:
                process = subprocess.Popen(
                    command,
                    cwd=places[number],
                    env=environment | own[number],
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            self.running.append(process)

    def wait_for(self, path, lines):
        """Wait until a file has so many lines."""
        end = time.monotonic() + 240
        while not path.exists() or path.read_text().count("\n") < lines:
            codes = [process.poll() for process in self.running]
            assert codes == [None, None] and time.monotonic() < end, self.said()
            time.sleep(0.05)

    def codes(self):
        """The exit codes, and what process 1 printed on its output."""
        printed = [process.communicate(timeout=300)[0] for process in self.running]
        return [process.returncode for process in self.running], printed[1]

    def said(self):
        """The ends of what both printed on their error streams."""
        return "\n".join(path.read_text()[-2000:] for path in self.errors)
