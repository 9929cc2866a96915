"""The run folder: who may write there, and what a resumed run must have in common with the first."""

import dataclasses
import pathlib
from typing import Any

import jax
import yaml

from balora_jax.config import RunConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput

CONFIG = "config.yaml"
# What a resumed run may have otherwise: it changes where and how often things are written or measured, not the
# numbers. Everything else decides the result.
FREE = frozenset(
    {
        "output.dir",
        "output.save_every",
        "output.keep",
        "output.resume",
        "output.merge",
        "training.eval_every",
        "data.eval_ood",
        "data.predict",
    }
)


class RunFolder:
    """A run's files: config.yaml, metrics.jsonl, summary.json, and the folders named below."""

    def __init__(self, path: str) -> None:
        self.path = pathlib.Path(path).expanduser()
        self.config, self.metrics, self.summary = (
            self.path / name for name in (CONFIG, "metrics.jsonl", "summary.json")
        )
        self.checkpoints, self.adapter, self.merged, self.plots, self.predictions = (
            self.path / name
            for name in ("checkpoints", "adapter", "merged", "plots", "predictions")
        )

    def check(self, config: RunConfig) -> bool:
        """Whether this goes on with the run that is here; writes nothing.

        Raises:
          BadInput: a folder that is not empty and is not to be resumed, or whose run was configured otherwise.
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"output.dir {self.path} is a file; accepted: a folder, new or empty")
        if not self.path.exists() or not any(self.path.iterdir()):
            return False
        if not self.config.is_file():
            raise BadInput(
                f"output.dir {self.path} holds files that are no run's; accepted: a new or empty folder"
            )
        if not config.output.resume:
            raise BadInput(
                f"output.dir {self.path} holds another run; accepted: a new folder, "
                "or --output.resume to go on with that run"
            )
        self._check_same(config)
        return True

    def _check_same(self, config: RunConfig) -> None:
        # Read as a configuration, so that options added since have their defaults.
        before = _flatten(yaml.safe_load(_as_yaml(self.read_config())))
        now = _flatten(yaml.safe_load(_as_yaml(config)))
        # Where a run may end early, how often it is measured decides when.
        free = FREE if config.training.patience is None else FREE - {"training.eval_every"}
        keys = sorted(key for key in before.keys() | now.keys() if key not in free)
        changed = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in keys
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise BadInput(
                f"output.dir {self.path} holds a run with another configuration: {'; '.join(changed)}"
            )

    def read_config(self) -> RunConfig:
        """The configuration of the run that is here.

        Raises:
          BadInput: a folder that holds no run.
        """
        if not self.config.is_file():
            raise BadInput(
                f"{self.path} is no run's folder: it has no {CONFIG}; accepted: the output.dir of a run"
            )
        return read_config(["--config", str(self.config)])

    def create(self, config: RunConfig) -> None:
        """Makes the folder and writes the resolved configuration, whole or not at all."""
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, _as_yaml(config))


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that a killed run leaves the old one or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _as_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
