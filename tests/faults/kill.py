"""Kill runs and commands at random moments, repeat them to their end, and compare what they wrote.

    python tests/faults/kill.py --runs 200 [--kinds pissa export ...] [--seed 0]

Half of the kills come at a random time of the command, half at one of its changes of files. Every
killed command is repeated with --output.resume, and killed again or left to end. Its adapter/ and
merged/ must then have, bit for bit, the numbers of a run that was never killed. A kill of generate,
export or merge must leave each folder of outputs whole, old or new, and a run that resumes.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
DYING = pathlib.Path(__file__).with_name("dying.py")
sys.path.insert(0, str(ROOT / "tests" / "cases"))
sys.path.insert(0, str(ROOT))
# Much longer than any command takes: one that hangs is a fault.
LIMIT = 600
STEPS = ["--training.steps", "24", "--output.save_every", "1", "--output.keep", "4"]
EVALUATED = ["--training.eval_every", "2", "--output.keep", "1"]
# The held-out loss rises after eight updates, and the run ends with the tenth.
RISING = ["--training.patience", "1", "--optimizer.learning_rate", "0.3", *EVALUATED]
# The last evaluation is the best one, or a late one is.
FALLING = ["--training.patience", "12", *EVALUATED]
# kind -> (the model and data, the options).
TRAINED = {
    "pissa": ("sums", ["--method", "pissa", "--output.merge", "true"]),
    "accumulation": ("sums", ["--adapter.dropout", "0.1"]),
    "residual": ("sums", ["--adapter.form", "residual", "--output.merge", "true"]),
    "full": ("sums", ["--method", "full", "--adapter.init", "null"]),
    "patience": ("sums", RISING),
    "classifier": ("letters", ["--output.merge", "true", *FALLING]),
    "seq2seq": ("written", []),
    "probes": ("world", ["--data.eval_limit", "8", *FALLING]),
}
# kind -> the options after the command's name and --run FOLDER.
OF_RUNS = {
    "generate": ["--prompt", "1+1=", "--max_new_tokens", "16"],
    "export": ["--checkpoint", "22"],
    "merge": ["--checkpoint", "22"],
}
KINDS = (*TRAINED, *OF_RUNS, "compare")


class Fault(Exception):
    """A command that fails after a kill, or outputs that are not those of an unkilled run."""


class Lost(Fault):
    """Work or outputs that no command brings back."""


class Different(Fault):
    """Outputs with other numbers."""


class World:
    """The models, data and finished runs that the kinds share; each is made when first needed."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def arguments(self, kind: str, output: pathlib.Path) -> list[str]:
        """The arguments of `balora train` for a kind of run."""
        family, options = TRAINED[kind]
        return [*getattr(self, family), *STEPS, "--output.dir", str(output), *options]

    @functools.cached_property
    def sums(self) -> list[str]:
        from run_cases import save_llama, sum_arguments, write_sums

        llama = save_llama(self.folder / "sums")
        return sum_arguments(llama, write_sums(self.folder / "sums"), self.folder)

    @functools.cached_property
    def letters(self) -> list[str]:
        from classification_cases import TARGETS, save_model

        folder = self._write_letters("letters")
        save_model("bert", folder / "model")
        named = {"model.task": "sequence-classification", "data.labels": 2}
        return _options(folder, named | {"adapter.targets": TARGETS["bert"]})

    @functools.cached_property
    def written(self) -> list[str]:
        from seq2seq_cases import save_t5

        folder = self._write_letters("written")
        save_t5(folder / "model")
        named = {"model.task": "seq2seq-lm", "data.labels": "[many, few]"}
        return _options(folder, named | {"adapter.targets": "[q, v, wi_0]"})

    def _write_letters(self, name: str) -> pathlib.Path:
        from classification_cases import letter_rows, write_rows
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = self.folder / name
        folder.mkdir()
        write_rows(folder / "train.jsonl", letter_rows(200, 0))
        write_rows(folder / "eval.jsonl", letter_rows(60, 1))
        return folder

    @functools.cached_property
    def world(self) -> list[str]:
        from balora_jax.evaluation.tiny_world import embedded

        return [*embedded.quickstart(), "--training.batch_size", "4", "--mesh.data", "1"]


def _options(folder: pathlib.Path, named: dict[str, object]) -> list[str]:
    """The arguments of a short run on a folder's model and letters."""
    settings = {
        "model.source": folder / "model",
        "model.dtype": "float32",
        "adapter.rank": 4,
        "data.train": folder / "train.jsonl",
        "data.eval": folder / "eval.jsonl",
        "data.max_length": 32,
        "optimizer.learning_rate": 1e-2,
        "training.batch_size": 16,
        "training.precision": "float32",
        "mesh.data": 1,
    }
    return [text for key, value in (settings | named).items() for text in (f"--{key}", str(value))]


class Runner:
    """Starts commands in the same environment: results depend on the number of threads.

    Attributes:
      output: the standard output of the last command that ended.
      changes: its changes of files.
      seconds: the time that it took.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._log = folder / "errors.txt"
        self._out = folder / "output.txt"
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
        self._environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            # Of these commands alone: a kill may leave a part of an entry.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_COMPILATION_CACHE_MAX_SIZE": "-1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "JAX_NUM_CPU_DEVICES": "1",
            "NPROC": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
            "XLA_FLAGS": flags,
        }
        self.output = ""
        self.changes = 0
        self.seconds = 0.0

    def run(self, arguments: list[str], *, number: int = 0, seconds: float = LIMIT) -> bool:
        """Run a command, and kill it at a change of files or after a time.

        Args:
          arguments: the command's name and its arguments.
          number: the change of files to die at; 0 for none.
          seconds: the time to kill it after.

        Returns:
          True if it ended, False if it was killed.

        Raises:
          Lost: it failed.
        """
        start = time.monotonic()
        command = [sys.executable, str(DYING), str(number), *arguments]
        with self._log.open("w") as log, self._out.open("w") as out:
            process = subprocess.Popen(command, env=self._environment, stdout=out, stderr=log)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        if code == -9 and (number or seconds < LIMIT):
            return False
        if code != 0:
            errors = self._log.read_text().strip().splitlines() or ["no message"]
            raise Lost(f"{arguments[0]} ended with code {code}: {errors[-1][:500]}")
        *lines, count = self._out.read_text().splitlines(keepends=True)
        self.output = "".join(lines)
        self.changes = int(count)
        self.seconds = time.monotonic() - start
        return True


@dataclasses.dataclass
class Target:
    """A command to kill, and what it must have written in the end.

    Attributes:
      arguments: folder -> the command's name and its arguments.
      prepare: makes the folder before a trial.
      check: called with the folder after each kill.
      finish: called with the folder after the command has ended.
      changes: the changes of files of an unkilled command.
      seconds: the time of an unkilled command.
    """

    arguments: Callable[[pathlib.Path], list[str]]
    prepare: Callable[[pathlib.Path], None]
    check: Callable[[pathlib.Path], None]
    finish: Callable[[pathlib.Path], None]
    changes: int
    seconds: float


class Targets:
    """The targets by kind; each runs unkilled once, when first needed."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._world = World(folder)
        self.runner = Runner(folder)
        self._targets: dict[str, Target] = {}
        self._measured: dict[str, tuple[pathlib.Path, int, float]] = {}

    def __getitem__(self, kind: str) -> Target:
        if kind not in self._targets:
            self._targets[kind] = self._of_run(kind) if kind in OF_RUNS else self._trained(kind)
        return self._targets[kind]

    def _trained(self, kind: str) -> Target:
        """The target of a run, or of a comparison of runs."""
        arguments = functools.partial(self._arguments, kind)
        whole, changes, seconds = self._measure(kind)
        expected = outputs(whole)

        def finish(folder: pathlib.Path) -> None:
            require_same(expected, outputs(folder))

        return Target(arguments, lambda folder: None, lambda folder: None, finish, changes, seconds)

    def _arguments(self, kind: str, folder: pathlib.Path) -> list[str]:
        if kind == "compare":
            sums = self._world.sums
            index = sums.index("--output.dir")
            options = ["--out", str(folder), "--methods", "lora", "pissa", "--seeds", "0"]
            more = [*sums[:index], *sums[index + 2 :], "--adapter.init", "null"]
            return ["compare", *options, *more]
        return ["train", *self._world.arguments(kind, folder), "--output.resume", "true"]

    def _measure(self, kind: str) -> tuple[pathlib.Path, int, float]:
        """The folder of an unkilled run, and the changes and the time that it took."""
        if kind not in self._measured:
            folder = self._folder / f"whole-{kind}"
            arguments = self._arguments(kind, folder)
            self.runner.run(arguments)
            self._measured[kind] = (folder, self.runner.changes, self.runner.seconds)
        return self._measured[kind]

    def _of_run(self, kind: str) -> Target:
        """The target of a command that reads a finished run."""
        whole, _, _ = self._measure("pissa")
        old = outputs(whole)

        def arguments(folder: pathlib.Path) -> list[str]:
            return [kind, "--run", str(folder), *OF_RUNS[kind]]

        copy = self._folder / f"whole-{kind}"
        shutil.copytree(whole, copy)
        self.runner.run(arguments(copy))
        seconds = self.runner.seconds
        text = self.runner.output.replace(str(copy), "")
        new = outputs(copy)

        def check(folder: pathlib.Path) -> None:
            require_whole(old, new, outputs(folder))

        def finish(folder: pathlib.Path) -> None:
            if self.runner.output.replace(str(folder), "") != text:
                raise Different(f"{kind} printed another text")
            require_same(new, outputs(folder))
            self.runner.run(self._arguments("pissa", folder))
            require_same(old, outputs(folder))

        prepare = functools.partial(shutil.copytree, whole)
        return Target(arguments, prepare, check, finish, self.runner.changes, seconds)


def outputs(folder: pathlib.Path) -> dict[str, str]:
    """The hashes of the outputs in a folder of a run, or of several runs, by their paths."""
    found = {}
    for pattern in ("adapter", "merged"):
        for place in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
            for path in sorted([*place.glob("*.safetensors"), *place.glob("*config.json")]):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(folder))] = digest
    for path in sorted([*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
        found[str(path.relative_to(folder))] = str(losses)
    compared = folder / "comparison.json"
    if compared.exists():
        found[compared.name] = _without_times(compared.read_text())
    return found


def _without_times(text: str) -> str:
    results = json.loads(text)
    for runs in results.values():
        for run in runs:
            run.pop("seconds")
    return json.dumps(results)


def require_same(expected: dict[str, str], found: dict[str, str]) -> None:
    """Check that outputs are those of an unkilled run.

    Raises:
      Lost: a file is missing.
      Different: a file is another.
    """
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise Lost(f"there is no {', '.join(missing)}")
    different = sorted(name for name in found if found[name] != expected.get(name))
    if different:
        raise Different(f"another {', '.join(different)}")


def require_whole(old: dict[str, str], new: dict[str, str], found: dict[str, str]) -> None:
    """Check that each folder of outputs is wholly the old or the new one.

    Raises:
      Lost: a folder is missing, incomplete or mixed.
    """
    for place in ("adapter", "merged"):
        parts = []
        for whole in (old, new, found):
            parts.append({name: whole[name] for name in whole if name.startswith(place)})
        if parts[2] not in parts[:2]:
            raise Lost(f"{place}/ is neither the old nor the new one")


def attempt(target: Target, runner: Runner, folder: pathlib.Path, draw: random.Random) -> int:
    """Kill a command once or several times, repeat it to its end, and check its outputs.

    Args:
      target: the command.
      runner: starts it.
      folder: a folder that does not exist.
      draw: draws the moments.

    Returns:
      The number of kills; 0 if the command ended before the first.

    Raises:
      Fault: something is lost or different.
    """
    target.prepare(folder)
    arguments = target.arguments(folder)
    kills = 0
    ended = False
    for _ in range(draw.randint(1, 3)):
        if draw.random() < 0.5:
            ended = runner.run(arguments, seconds=draw.uniform(0, target.seconds))
        else:
            ended = runner.run(arguments, number=draw.randint(1, target.changes))
        if ended and not kills:
            # The first command also compiled, which took its time and its files.
            target.changes = min(target.changes, runner.changes)
            target.seconds = min(target.seconds, runner.seconds)
        if ended:
            break
        kills += 1
        target.check(folder)
    # Once more also after an end: a finished run must stay as it is.
    runner.run(arguments)
    target.finish(folder)
    return kills


def kill(runs: int, kinds: list[str], seed: int, folder: pathlib.Path) -> int:
    """Kill commands of all kinds in turn, and print each attempt and the counts.

    Args:
      runs: the number of kills.
      kinds: of the commands.
      seed: of the moments.
      folder: an existing folder for the runs.

    Returns:
      The number of faults.
    """
    draw = random.Random(seed)
    targets = Targets(folder)
    counts = collections.Counter()
    number = 0
    while counts["killed"] < runs:
        kind = kinds[number % len(kinds)]
        trial = folder / f"{number}-{kind}"
        number += 1
        try:
            kills = attempt(targets[kind], targets.runner, trial, draw)
        except Fault as fault:
            kills = 1
            counts[type(fault)] += 1
            print(f"{trial.name}: {type(fault).__name__.lower()}: {fault}; see {trial}", flush=True)
        else:
            print(f"{trial.name}: {kills} kills, and the same in the end", flush=True)
            shutil.rmtree(trial)
        counts["killed"] += kills
    print(f"{counts['killed']} kills: {counts[Lost]} lost, {counts[Different]} different")
    return counts[Lost] + counts[Different]


def main() -> None:
    """Parse the options and kill; exit with code 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, required=True, help="the number of kills")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="balora-kill-"))
    faults = kill(options.runs, options.kinds, options.seed, folder)
    if faults:
        sys.exit(1)
    # After a fault its runs stay, to be looked at.
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
