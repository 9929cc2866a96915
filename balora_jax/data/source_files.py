"""The files of a source: those of a folder, or those that match a pattern."""

import glob
import os
import re
from pathlib import Path

from balora_jax.errors import BadInput, listed, shown

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TABLE_SUFFIXES = (".csv", ".parquet")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES
# The files of a data set that is split: train.jsonl, test-00000-of-00001.parquet.
SPLIT = re.compile(r"(?P<split>train|validation|valid|val|dev|test)(?![A-Za-z])")
# What `datasets`, and our tiny world, write beside their files.
METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "world.json"})
# Names of one split.
SAME = {"valid": "validation", "val": "validation", "dev": "validation"}


def is_pattern(source: str) -> bool:
    """Return True if a source has *, ? or brackets, and is a pattern unless a file is called so."""
    return glob.has_magic(source)


def matching_files(pattern: str) -> list[Path]:
    """List the files that match a pattern, in the order of their names.

    Args:
      pattern: with *, ?, brackets, and ** for any folders; a file that links lead to is there once.

    Raises:
      BadInput: none does.
    """
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    # By ** a link to a folder above leads to the same files again and again.
    once = {os.path.realpath(name): name for name in sorted(found, reverse=True)}
    files = [Path(name) for name in sorted(once.values()) if not Path(name).is_dir()]
    if not files:
        raise BadInput(f"{shown(pattern)} matches no file; accepted: a pattern of files that exist")
    return files


def folder_files(folder: Path, split: str) -> list[Path]:
    """List the data files of a folder, in the order of their names.

    Args:
      folder: the folder; files in folders below it are not read.
      split: where the files' names begin with those of splits, such as train.jsonl and test.jsonl,
        this split's are read alone.

    Raises:
      BadInput: it has no file with a known suffix, none of the split, or some with splits in their
        names and some without.
    """
    found = {path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES)}
    names = sorted(found - METADATA)
    if not names:
        raise BadInput(
            f"{folder} is a folder without data files; accepted: one with files that end in "
            f"{', '.join(SUFFIXES)}"
        )
    splits = {name: _split_of(name) for name in names}
    if not any(splits.values()):
        return [folder / name for name in names]
    others = [name for name in names if splits[name] is None]
    if others:
        raise BadInput(
            f"{folder} has files of splits and {listed(others)} beside them; accepted: a folder "
            f"whose files all have a split in their names or none has, or {folder}/*.jsonl"
        )
    chosen = [name for name in names if splits[name] == SAME.get(split, split)]
    if not chosen:
        raise BadInput(
            f"{folder} has no file of the split {shown(split)}; it has: {listed(names)}; accepted: "
            "a split that it has (data.train_split, data.eval_split), or one of the files"
        )
    return [folder / name for name in chosen]


def _split_of(name: str) -> str | None:
    match = SPLIT.match(name)
    return SAME.get(match["split"], match["split"]) if match else None
