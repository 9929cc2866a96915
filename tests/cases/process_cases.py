"""The processes of one run on this machine, which talk to each other as hosts do."""

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
    """Processes of one run or command, with two devices each; two, if nothing else is said.

    Arguments, places and environments of one's own belong to process 1.
    """

    def __init__(
        self,
        arguments,
        log,
        differing=(),
        name="train",
        places=(None, None),
        own=({}, {}),
        count=2,
        devices=2,
    ):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(ROOT),
        }
        self.errors = [log.with_suffix(f".{number}") for number in range(count)]
        together = ["--mesh.coordinator", f"localhost:{free_port()}"]
        together += ["--mesh.processes", str(count)]
        self.running = []
        for number, path in enumerate(self.errors):
            command = [sys.executable, "-m", "balora_jax", name, *arguments, *together]
            command += ["--mesh.process_id", str(number), *(differing if number else ())]
            with path.open("w") as errors:
                process = subprocess.Popen(
                    command,
                    cwd=places[number] if number < len(places) else None,
                    env=environment | (own[number] if number < len(own) else {}),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            self.running.append(process)

    def wait_for(self, path, lines):
        """Wait until a file has so many lines."""
        end = time.monotonic() + 240
        while not path.exists() or path.read_text().count("\n") < lines:
            ended = any(process.poll() is not None for process in self.running)
            assert not ended and time.monotonic() < end, self.said()
            time.sleep(0.05)

    def codes(self):
        """The exit codes, and what process 1 printed on its output."""
        printed = [process.communicate(timeout=300)[0] for process in self.running]
        return [process.returncode for process in self.running], printed[1]

    def said(self):
        """The ends of what all printed on their error streams."""
        return "\n".join(path.read_text()[-2000:] for path in self.errors)
