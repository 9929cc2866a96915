"""The run folder: its files, and the checks before a run writes there or resumes."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import yaml

from balora_jax.config import RunConfig
from balora_jax.config.addresses import is_address
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput, listed, reason_of
from balora_jax.training.bucket import CONFIG, LOCKS, open_bucket
from balora_jax.training.checksums import has_own_hash, is_as_written, with_own_hash
from balora_jax.training.replacing import is_leftover, write_whole
from balora_jax.training.saved_checkpoints import SavedCheckpoints

CHECKPOINTS = "checkpoints"
# What a run that was stopped while it began may leave; a folder with nothing else counts as empty.
BEGINNINGS = LOCKS
# Options that a resumed run may change: they decide where and how often the run writes and
# measures, or change the trained weights by rounding alone. All others change what is trained.
CHANGEABLE = frozenset(
    {
        "model.attention",
        "mesh.data",
        "mesh.fsdp",
        "mesh.tensor",
        "mesh.auto",
        "mesh.distributed",
        "mesh.coordinator",
        "mesh.processes",
        "mesh.process_id",
        "mesh.wait",
        "training.remat",
        "output.dir",
        "output.save_every",
        "output.keep",
        "output.resume",
        "output.merge",
        "output.overwrite",
        "output.loggers",
        "output.push_to",
        "output.push_private",
        "output.compilation_cache",
        "training.eval_every",
        "training.profile",
        "data.cache",
        "data.eval_ood",
        "data.predict",
        # Measured beside the training.
        "data.probes",
        "evaluation.probe_text",
        "evaluation.probe_limit",
        "evaluation.tasks",
        "evaluation.task_limit",
        "evaluation.data_dir",
    }
)

# The sections that every config.yaml of a run has.
SECTIONS = frozenset({"model", "data", "output", "training"})
# The options of a run's length, which more of extends it.
LENGTH = frozenset({"training.steps", "training.epochs"})


class RunFolder:
    """The paths of a run's files.

    Attributes:
      path: the run folder on this host.
      bucket: the folder in a bucket that `path` is a copy of; None if there is none.
      config: config.yaml, the resolved configuration.
      metrics: metrics.jsonl, a record a line.
      summary: summary.json, written last.
      fingerprints: fingerprints.json, the fingerprints of data, tokenizer and base weights.
      loggers: loggers.json, the run's names at the services that its numbers are sent to.
      checkpoints: the folder of checkpoints.
      adapter: the folder of the PEFT adapter.
      merged: the folder of the merged model.
      plots: the folder of plots.
      tensorboard: the folder of TensorBoard's files.
      predictions: the folder of predictions on unlabeled sets.
    """

    def __init__(self, path: str) -> None:
        """Name the paths; nothing is read or written.

        Args:
          path: the run folder, which need not exist, or its address in a bucket that is open.

        Raises:
          BadInput: the bucket is not open.
        """
        self.bucket = open_bucket(path)
        self.path = pathlib.Path(path).expanduser() if self.bucket is None else self.bucket.copy
        self.config = self.path / CONFIG
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.fingerprints = self.path / "fingerprints.json"
        self.loggers = self.path / "loggers.json"
        self.checkpoints = self.path / CHECKPOINTS
        self.adapter = self.path / "adapter"
        self.merged = self.path / "merged"
        self.plots = self.path / "plots"
        self.tensorboard = self.path / "tensorboard"
        self.predictions = self.path / "predictions"

    @property
    def address(self) -> str:
        """The folder as a user names it: its path, or where it is in a bucket."""
        return str(self.path) if self.bucket is None else self.bucket.address

    def check(self, config: RunConfig) -> bool:
        """Check that a run may write here; nothing is written.

        Args:
          config: the run's configuration.

        Returns:
          True if the run resumes the one in the folder, False if it starts in a new folder.

        Raises:
          BadInput: the folder is not empty and the run does not resume, or the run in the folder
            has another configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"output.dir {self.address} is a file; accepted: a folder, new or empty")
        names = os.listdir(self.path) if self.path.exists() else []
        if all(name in BEGINNINGS or is_leftover(name) for name in names):
            return False
        if not self.config.is_file():
            raise BadInput(
                f"output.dir {self.address} holds files that are no run's; "
                "accepted: a new or empty folder"
            )
        if config.output.overwrite:
            self._check_own()
            return False
        # A run that ended before its first checkpoint has nothing to lose.
        if not config.output.resume and SavedCheckpoints(self.checkpoints).steps():
            raise BadInput(
                f"output.dir {self.address} holds another run; accepted: a new folder, "
                "--output.resume to resume that run, or --output.overwrite to delete it"
            )
        self._check_same(config)
        return True

    def _check_own(self) -> None:
        """Check that a run has written what `clear` deletes; runs.export checks adapter and merged.

        Raises:
          BadInput: config.yaml is no run's, or a folder holds something else.
        """
        if not set(self._recorded()) >= SECTIONS:
            raise BadInput(
                f"output.dir {self.address} has a config.yaml that no run wrote; "
                "accepted: a new or empty folder"
            )
        self._check_kinds()
        for folder, names in (
            (self.checkpoints, r"\d+|\d+\..*|initial"),
            (self.plots, r".*\.png"),
            (self.predictions, r".*\.tsv"),
            (self.tensorboard, r"events\..*|plugins"),
        ):
            entries = os.listdir(folder) if folder.is_dir() else []
            foreign = [name for name in sorted(entries) if not re.fullmatch(names, name)]
            foreign = [name for name in foreign if not is_leftover(name)]
            if foreign:
                raise BadInput(
                    f"{folder} holds {listed(foreign)}, which the run did not write, and would be "
                    "deleted by output.overwrite; accepted: another output.dir, or move that away"
                )

    def _check_kinds(self) -> None:
        """Check that the files of the run are files, and its folders folders."""
        files = (self.metrics, self.summary, self.fingerprints, self.loggers)
        folders = (self.checkpoints, self.adapter, self.merged, self.plots, self.predictions)
        for path in (*files, *folders, self.tensorboard):
            kind = "file" if path in files else "folder"
            right = path.is_file() if path in files else path.is_dir()
            if not right and (path.exists() or path.is_symlink()):
                raise BadInput(f"{path} is no {kind}; accepted: a {kind}, as the run wrote it")

    def _check_same(self, config: RunConfig) -> None:
        """Check that the run in the folder has the same configuration."""
        # Parsed, so that a run of an older version gets the defaults of newer options.
        before = flatten(dataclasses.asdict(self.read_config()))
        now = flatten(yaml.safe_load(_as_yaml(config)))
        # A plugin file may move, but its text must be the same.
        recorded = self._recorded().get("plugins") or []
        before["plugins"] = [plugin["sha256"][:12] for plugin in recorded]
        now["plugins"] = [plugin["sha256"][:12] for plugin in now["plugins"]]
        changeable = CHANGEABLE
        if config.training.patience is not None:
            # Early stopping depends on how often the run is evaluated.
            changeable = CHANGEABLE - {"training.eval_every"}
        # Of their number of updates `runs.run` decides, which knows the size of the data.
        changeable = changeable | LENGTH
        keys = sorted((before.keys() | now.keys()) - changeable)
        changed = [
            f"{key} was {_in_yaml(before.get(key))}, is {_in_yaml(now.get(key))}"
            for key in keys
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise BadInput(
                f"output.dir {self.address} holds a run with another configuration: "
                f"{'; '.join(changed)}; accepted: the options of that run, or another folder"
            )

    def step_of(self, checkpoint: str) -> int:
        """Return the step of a checkpoint of the run.

        Args:
          checkpoint: a step, latest or best.

        Raises:
          BadInput: there is no such checkpoint.
        """
        return SavedCheckpoints(self.checkpoints).find(checkpoint)

    def read_config(self) -> RunConfig:
        """Read the configuration of the run in the folder.

        Raises:
          BadInput: the folder holds no run, its configuration is damaged or has changed, or one
            of its files is a folder, a named pipe or the like.
        """
        if not self.config.is_file():
            raise BadInput(
                f"{self.address} is no run's folder: it has no {CONFIG}; "
                "accepted: the output.dir of a run"
            )
        self._check_kinds()
        self._recorded()
        return read_config(["--config", str(self.config)])

    def _recorded(self) -> dict[str, Any]:
        """The content of config.yaml, unchecked."""
        try:
            text = self.config.read_text(encoding="utf-8")
            recorded = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise BadInput(
                f"{self.config} cannot be read ({reason_of(error)}); "
                "accepted: the file as the run wrote it"
            ) from error
        if not isinstance(recorded, dict):
            raise BadInput(
                f"{self.config} is no configuration; accepted: the file as the run wrote it"
            )
        # A run of version 0.1 wrote no hash.
        if has_own_hash(text) and not is_as_written(text):
            raise BadInput(
                f"{self.config} has changed since the run wrote it; accepted: the file as it was, "
                "or, if the change is meant, without its first line"
            )
        return recorded

    def create(self, config: RunConfig, fingerprints: dict[str, str]) -> None:
        """Create the folder, and write the configuration and the fingerprints of the inputs.

        Args:
          config: the resolved configuration.
          fingerprints: a hash for each input, by its name in messages.
        """
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            # How this command used the folder, and where it ran, is nothing for the next one.
            output = dataclasses.replace(config.output, resume=False, overwrite=False)
            alone = {"coordinator": None, "processes": None, "process_id": None}
            mesh = dataclasses.replace(config.mesh, distributed=False, **alone)
            kept = dataclasses.replace(config, output=output, mesh=mesh)
            write_whole(self.config, with_own_hash(_as_yaml(kept)))
            write_whole(self.fingerprints, json.dumps(fingerprints, indent=2) + "\n")

    def begin_extension(self, steps: int) -> None:
        """Set the summary of a finished run aside, because the run goes on.

        Args:
          steps: the updates that it had.
        """
        if self.summary.is_file():
            self.summary.rename(self.summary.with_name(f"summary-{steps}.json"))

    def clear(self) -> None:
        """Delete the files of the run in the folder, and nothing else.

        Killed half-way, it leaves a run without checkpoints, which the same command starts again.
        """
        names = os.listdir(self.path)
        earlier = [self.path / name for name in names if re.fullmatch(r"summary-\d+\.json", name)]
        folders = (self.checkpoints, self.adapter, self.merged, self.plots, self.predictions)
        for folder in (*folders, self.tensorboard):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        files = (self.metrics, self.fingerprints, self.loggers, self.config)
        for file in (self.summary, *earlier, *files):
            file.unlink(missing_ok=True)

    def check_fingerprints(self, now: dict[str, str]) -> None:
        """Compare the fingerprints of a run's inputs with those of the run in the folder.

        A run of version 0.1 has none and is not compared.

        Args:
          now: the fingerprints, by the input's name. Those of other inputs are not compared.

        Raises:
          BadInput: an input has changed, or the file is damaged.
        """
        if not self.fingerprints.is_file():
            return
        try:
            before = json.loads(self.fingerprints.read_text())
            # A resumed run may have inputs that it had not before, such as a text to probe by.
            changed = [name for name in now if name in before and before[name] != now[name]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{self.fingerprints} cannot be read ({reason_of(error)}); accepted: the file as "
                "the run wrote it, or none, so that the run's inputs are not compared"
            ) from error
        if changed:
            raise BadInput(
                f"{self.address} holds a run that was made with other inputs: "
                f"{' and '.join(changed)} changed since; accepted: the same contents as then"
            )


def check_config_file(file: str, folder: str) -> None:
    """Check that a run resumes in the folder of the configuration file that it is given.

    Args:
      file: a file of options, or its address. Those of other folders than runs' may name any
        folder.
      folder: output.dir.

    Raises:
      BadInput: it is config.yaml of a run's folder, which has moved or was copied since.
    """
    if is_address(file):
        place, _, name = file.rpartition("/")
        is_same = name != CONFIG or place == folder.rstrip("/")
    else:
        path = pathlib.Path(file).expanduser()
        place, name = str(path.parent), path.name
        is_run = name == CONFIG and SavedCheckpoints(path.parent / CHECKPOINTS).steps()
        here = path.resolve().parent
        is_same = not is_run or (
            not is_address(folder) and here == pathlib.Path(folder).expanduser().resolve()
        )
    if not is_same:
        raise BadInput(
            f"{file} is of the run in {place}, and output.dir is {folder}; "
            f"accepted: also --output.dir {place}, to resume that run"
        )


def _as_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _in_yaml(value: Any) -> str:
    """A value as a file of options has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested dictionaries by dots.

        flatten({"a": {"b": 1}, "c": 2})  ->  {"a.b": 1, "c": 2}

    Args:
      tree: the dictionary.
      prefix: what the joined keys begin with.
    """
    flat = {}
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
