"""Folders and patterns of files as one set."""

import json
import re

import pytest

from balora_jax.data import load_rows
from balora_jax.errors import BadInput


@pytest.fixture
def write(tmp_path):
    """Write files of rows {"n": ...}, given by name, and return their folder."""

    def files(**numbers):
        for name, values in numbers.items():
            file = tmp_path / name.replace("_", ".")
            file.write_text("".join(json.dumps({"n": value}) + "\n" for value in values))
        return tmp_path

    return files


def _numbers(source, **options):
    return [row["n"] for row in load_rows(str(source), **options)]


def test_a_folder_is_its_files_in_the_order_of_their_names(write):
    folder = write(b_jsonl=[3, 4], a_jsonl=[1, 2], notes_txt=[9])
    assert _numbers(folder) == [1, 2, 3, 4]
    assert _numbers(folder, limit=3) == [1, 2, 3]
    rows = load_rows(str(folder))
    assert rows.where(2) == f"{folder / 'b.jsonl'}, line 1"
    assert rows.select([3, 0]).where(0) == f"{folder / 'b.jsonl'}, line 2"


def test_of_a_folder_with_splits_one_is_read(write):
    folder = write(train_jsonl=[1], dev_jsonl=[2], test_jsonl=[3])
    (folder / "dataset_info.json").write_text("{}")
    assert _numbers(folder) == [1]
    assert _numbers(folder, split="validation") == _numbers(folder, split="dev") == [2]
    assert _numbers(folder, split="test") == [3]
    with pytest.raises(BadInput, match=r"has no file of the split 'all'; it has: dev.jsonl, tes"):
        load_rows(str(folder), split="all")
    write(more_jsonl=[4])
    with pytest.raises(BadInput, match=r"files of splits and more.jsonl beside them; accepted"):
        load_rows(str(folder))


def test_a_pattern_is_the_files_that_match(write):
    folder = write(a1_jsonl=[1], a2_jsonl=[2], b1_jsonl=[3])
    assert _numbers(folder / "a*.jsonl") == [1, 2]
    assert _numbers(folder / "?1.jsonl") == [1, 3]
    assert _numbers(folder / "[b]1.jsonl") == [3]
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a1.jsonl").rename(folder / "deep" / "er" / "a1.jsonl")
    assert _numbers(folder / "**" / "a*.jsonl") == [2, 1]
    # A file that is called like a pattern is that file.
    (folder / "b1.jsonl").rename(folder / "[a].jsonl")
    assert _numbers(folder / "[a].jsonl") == [3]


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("no*.jsonl", "matches no file; accepted: a pattern of files that exist"),
        ("empty", "is a folder without data files; accepted: one with files that end in .jsonl"),
        ("*", "ends in none of the known suffixes"),
    ],
)
def test_nothing_to_read_is_one_sentence(write, source, sentence):
    folder = write(a_jsonl=[1], notes_txt=[9])
    (folder / "empty").mkdir()
    with pytest.raises(BadInput, match=re.escape(sentence)):
        load_rows(str(folder / source))


def test_a_link_to_a_folder_above_gives_no_row_twice(write):
    folder = write(a_jsonl=[1], b_jsonl=[2])
    (folder / "loop").symlink_to(folder)
    assert _numbers(folder / "**" / "*.jsonl") == [1, 2]


def test_a_link_to_nothing_is_one_sentence(write):
    folder = write(a_jsonl=[1])
    (folder / "b.jsonl").symlink_to("gone.jsonl")
    for source in (folder, folder / "*.jsonl"):
        with pytest.raises(BadInput, match=r"cannot be read .*No such file"):
            load_rows(str(source))


def test_a_broken_file_is_named_with_its_line(write):
    folder = write(a_jsonl=[1], b_jsonl=[2])
    with (folder / "b.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(BadInput, match=r"b.jsonl, line 2.*is not JSON"):
        load_rows(str(folder))
