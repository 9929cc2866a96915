"""Local files in place of a task's data set on the hub."""

import pathlib
from collections.abc import Mapping
from typing import Any

from balora_jax.errors import BadInput

# The ending of a file -> the reader of `datasets`.
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
COMPRESSED = ".gz"
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


def local_options(
    folder: pathlib.Path, config: Mapping[str, Any], fewshot: int | None = None
) -> dict[str, Any] | None:
    """Make the options of a task's configuration that read its data from local files.

    The files are in a folder of `folder` that is named as the task's metadata says (`folder`), as
    the task, as the last part of its data set, or as a beginning of the task, such as crows_pairs
    for crows_pairs_english. Each split is a file with its name; a single file is the split that is
    scored.

    Args:
      folder: of `--data-dir`.
      config: the task's configuration.
      fewshot: the examples in a prompt; None for as many as the task has.

    Returns:
      The options; None if there is no such folder.

    Raises:
      BadInput: the folder has no file for the split that is scored, or for the examples in prompts.
    """
    place = _find(folder, config)
    if place is None:
        return None
    files: dict[str, pathlib.Path] = {}
    for path in sorted(place.iterdir()):
        if _reader(path) and files.setdefault(_stem(path), path) != path:
            raise BadInput(
                f"{place} has {files[_stem(path)].name} and {path.name}; accepted: one file for "
                "each split"
            )
    scored = config.get("test_split") or config.get("validation_split")
    if scored is None:
        raise BadInput(
            f"task {config['task']} names no split that a file could take the place of; accepted: "
            f"its data from the hub, without {place}"
        )
    if scored not in files and len(files) == 1:
        files = {scored: next(iter(files.values()))}
    if scored not in files:
        raise BadInput(
            f"{place} has no file for the split {scored} of task {config['task']}; "
            f"accepted: {scored}.jsonl, .jsonl.gz, .json, .csv or .parquet"
        )
    _check_fewshot(place, config, fewshot, files)
    wanted = {config[name] for name in SPLITS if config.get(name)}
    chosen = {split: path for split, path in files.items() if split in wanted}
    readers = {_reader(path) for path in chosen.values()}
    if len(readers) > 1:
        raise BadInput(f"{place} has files of several kinds; accepted: one kind for all splits")
    # Splits without a file are none.
    absent = {name: None for name in SPLITS if config.get(name) not in chosen}
    return absent | {
        "dataset_path": readers.pop(),
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(path.resolve()) for split, path in chosen.items()}
        },
    }


def _check_fewshot(
    place: pathlib.Path,
    config: Mapping[str, Any],
    fewshot: int | None,
    files: Mapping[str, pathlib.Path],
) -> None:
    """Check that the examples in prompts have a file; lm-eval would take scored ones."""
    count = config.get("num_fewshot") or 0 if fewshot is None else fewshot
    split = config.get("fewshot_split") or config.get("training_split")
    if count and split and split not in files:
        raise BadInput(
            f"{place} has no file for the split {split}, from which task {config['task']} takes "
            f"{count} examples for each prompt; accepted: {split}.jsonl, or "
            "--fewshot 0 (balora evaluate)"
        )


def _find(folder: pathlib.Path, config: Mapping[str, Any]) -> pathlib.Path | None:
    metadata = config.get("metadata") or {}
    task = config["task"]
    data_set = str(config.get("dataset_path") or "").rpartition("/")[2]
    for name in (metadata.get("folder"), task, data_set):
        if name and (folder / name).is_dir():
            return folder / name
    beginnings = [place for place in folder.iterdir() if task.startswith(f"{place.name}_")]
    longest = max(beginnings, key=lambda place: len(place.name), default=None)
    return longest if longest is not None and longest.is_dir() else None


def _stem(path: pathlib.Path) -> str:
    return path.name.split(".")[0]


def _reader(path: pathlib.Path) -> str | None:
    """The reader of a file; None for other files."""
    name = path.name.removesuffix(COMPRESSED)
    return READERS.get(pathlib.PurePath(name).suffix) if path.is_file() else None
