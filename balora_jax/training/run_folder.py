"""The run folder: its files, and the checks before a run writes there or resumes."""

import dataclasses
import pathlib
from typing import Any

import jax
import yaml

from balora_jax.config import RunConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput

CONFIG = "config.yaml"
# Options that a resumed run may change: they decide where and how often the run writes and
# measures. All other options change the trained weights.
CHANGEABLE = frozenset(
    {
        "output.dir",
        "output.save_every",
        "output.keep",
        "output.resume",
        "output.merge",
        "training.eval_every",
        "data.eval_ood",
        "data.predict",
        # Measured beside the training.
        "data.probes",
    }
)


class RunFolder:
    """The paths of a run's files.

    Attributes:
      path: the run folder.
      config: config.yaml, the resolved configuration.
      metrics: metrics.jsonl, a record a line.
      summary: summary.json, written last.
      checkpoints: the folder of checkpoints.
      adapter: the folder of the PEFT adapter.
      merged: the folder of the merged model.
      plots: the folder of plots.
      predictions: the folder of predictions on unlabeled sets.
    """

    def __init__(self, path: str) -> None:
        """Name the paths; nothing is read or written.

        Args:
          path: the run folder, which need not exist.
        """
        self.path = pathlib.Path(path).expanduser()
        self.config = self.path / CONFIG
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"
        self.merged = self.path / "merged"
        self.plots = self.path / "plots"
        self.predictions = self.path / "predictions"

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
            raise BadInput(f"output.dir {self.path} is a file; accepted: a folder, new or empty")
        if not self.path.exists() or not any(self.path.iterdir()):
            return False
        if not self.config.is_file():
            raise BadInput(
                f"output.dir {self.path} holds files that are no run's; "
                "accepted: a new or empty folder"
            )
        if not config.output.resume:
            raise BadInput(
                f"output.dir {self.path} holds another run; accepted: a new folder, "
                "or --output.resume to resume that run"
            )
        self._check_same(config)
        return True

    def _check_same(self, config: RunConfig) -> None:
        """Check that the run in the folder has the same configuration."""
        # Parsed, so that a run of an older version gets the defaults of newer options.
        before = _flatten(dataclasses.asdict(self.read_config()))
        now = _flatten(yaml.safe_load(_as_yaml(config)))
        # A plugin file may move, but its text must be the same.
        recorded = yaml.safe_load(self.config.read_text()).get("plugins") or []
        before["plugins"] = [plugin["sha256"][:12] for plugin in recorded]
        now["plugins"] = [plugin["sha256"][:12] for plugin in now["plugins"]]
        changeable = CHANGEABLE
        if config.training.patience is not None:
            # Early stopping depends on how often the run is evaluated.
            changeable = CHANGEABLE - {"training.eval_every"}
        keys = sorted((before.keys() | now.keys()) - changeable)
        changed = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in keys
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise BadInput(
                f"output.dir {self.path} holds a run with another configuration: "
                f"{'; '.join(changed)}"
            )

    def read_config(self) -> RunConfig:
        """Read the configuration of the run in the folder.

        Raises:
          BadInput: the folder holds no run.
        """
        if not self.config.is_file():
            raise BadInput(
                f"{self.path} is no run's folder: it has no {CONFIG}; "
                "accepted: the output.dir of a run"
            )
        return read_config(["--config", str(self.config)])

    def create(self, config: RunConfig) -> None:
        """Create the folder and write the resolved configuration."""
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, _as_yaml(config))


def write_whole(path: pathlib.Path, text: str) -> None:
    """Write a file atomically: a killed run leaves the old file or the new one, never a part of it.

    Args:
      path: the file.
      text: its new content.
    """
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.replace(path)


def _as_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested dictionaries by dots.

    _flatten({"a": {"b": 1}, "c": 2})  ->  {"a.b": 1, "c": 2}
    """
    flat = {}
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict):
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
