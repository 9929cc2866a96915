"""The fingerprints of a run's inputs, which a resumed run must find unchanged."""

import hashlib
import pathlib
from collections.abc import Sequence

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.runs.run import Run
from balora_jax.training.processes import require_same, share_out

# The name of the base weights' fingerprint, in messages too.
WEIGHTS = "model.source's weights"


def fingerprints(run: Run) -> dict[str, str]:
    """Hash the data sets, the tokenizer and the base weights of a run.

    Args:
      run: from `set_up`.

    Returns:
      {the input's name in messages: its hash}.
    """
    return {
        "the data sets (data.train, data.eval) or their tokens": data.fingerprint(
            run.task.training_sets
        ),
        "the tokenizer": data.tokenizer_fingerprint(run.tokenizer),
        **_probe_fingerprint(run.config),
        **weights_fingerprint(run.config),
    }


def _probe_fingerprint(config: RunConfig) -> dict[str, str]:
    """Hash the text of evaluation.probe_text; {} without one."""
    path = config.evaluation.probe_text
    if path is None:
        return {}
    content = pathlib.Path(path).expanduser().read_bytes()
    return {"the text of evaluation.probe_text": hashlib.sha256(content).hexdigest()}


def weights_fingerprint(config: RunConfig) -> dict[str, str]:
    """Hash the base weights of a run: {WEIGHTS: hash}; {} for a run that starts from scratch."""
    if config.model.from_scratch:
        return {}
    return {WEIGHTS: base_fingerprint(config.model.source, config.model.revision)}


def base_fingerprint(source: str, revision: str | None = None) -> str:
    """Hash the weights of a model; the processes of several hosts each hash some of its files.

    Args:
      source: a Hugging Face folder or a hub id.
      revision: the hub's branch, tag or commit.
    """
    return models.fingerprint(source, revision, _shared_hashes)


def _shared_hashes(paths: Sequence[pathlib.Path]) -> list[bytes]:
    """Hash files, each in one of the processes of the run.

    Raises:
      BadInput: the processes have not the same files.
    """
    require_same({"weights": [(path.name, path.stat().st_size) for path in paths]})
    return share_out(paths, models.hash_files)
