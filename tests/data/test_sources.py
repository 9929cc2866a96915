"""Rows of every kind of file, and one message for every kind of broken file."""

import gzip
import json

import datasets
import pytest

from balora_jax.data.sources import load_rows
from balora_jax.errors import BadInput

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", LINES),
        ("a.json", LINES),
        ("a.json", " \n" + json.dumps(ROWS, indent=2)),
        ("a.jsonl", "\ufeff" + LINES),
        ("a.jsonl", LINES.replace("\n", "\n\n")),
        ("a.csv", "question,answer\n1+1?,2\n2+2?,4\n"),
    ],
)
def test_reads_text_files(tmp_path, name, text):
    rows = load_rows(_write(tmp_path / name, text))
    assert rows.columns == ("question", "answer")
    assert [dict(row) for row in rows.rows] == ROWS


def test_reads_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    rows = load_rows(str(path))
    assert [dict(row) for row in rows.rows] == ROWS
    assert rows.where(1) == f"{path}, row 2"


def test_reads_a_hub_name_with_subset_and_split(monkeypatch):
    requested = {}

    def load_dataset(**arguments):
        requested.update(arguments)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_rows("openai/gsm8k", subset="main", split="test", limit=1)
    assert requested == {"path": "openai/gsm8k", "name": "main", "split": "test"}
    assert [dict(row) for row in rows.rows] == ROWS[:1]


def test_csv_cells_stay_as_written(tmp_path):
    rows = load_rows(_write(tmp_path / "a.csv", 'question,answer\nNA,007\nnull,"1.50"\n'))
    assert [tuple(row.values()) for row in rows.rows] == [("NA", "007"), ("null", "1.50")]


def test_json_columns_may_mix_types_and_rows_may_differ(tmp_path):
    rows = load_rows(
        _write(tmp_path / "a.jsonl", '{"answer": 2}\n\n{"answer": "two", "more": null}\n')
    )
    assert rows.columns == ("answer", "more")
    assert [row["answer"] for row in rows.rows] == [2, "two"]
    assert rows.where(1).endswith("a.jsonl, line 3")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_limit_takes_the_first_rows(tmp_path, name):
    text = LINES if name == "a.jsonl" else "question,answer\n1+1?,2\n2+2?,4\n"
    path = _write(tmp_path / name, text)
    assert [dict(row) for row in load_rows(path, limit=1).rows] == ROWS[:1]
    assert len(load_rows(path, limit=9).rows) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            LINES + '{"question": "3+3?", answer: 6}\n',
            r"a\.jsonl, line 3, column 22 is not JSON",
        ),
        ("a.jsonl.gz", LINES + "{", r"a\.jsonl\.gz, line 3, column 2 is not JSON"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a\.json, line 2, column 7 is not JSON"),
        ("a.jsonl", LINES + "[1, 2]\n", r"a\.jsonl, line 3 is not an object but list"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json, item 2 is not an object but int"),
        ("a.jsonl", "", r"a\.jsonl has no rows"),
        ("a.jsonl", "\n\n", r"a\.jsonl has no rows"),
        ("a.json", "[]", r"a\.json has no rows"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "question,answer\n", r"a\.csv has no rows"),
        ("a.csv", 'q,a\n1,"2', r"a\.csv, line 2 is not CSV: unexpected end of data; accepted"),
        ("a.parquet", "no parquet", r"a\.parquet cannot be loaded: .*; accepted"),
        ("a.txt", LINES, r"a\.txt ends in none of the known suffixes; accepted: a \.jsonl"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path, capfd, name, text, message):
    path = _write(tmp_path / name, text)
    with pytest.raises(BadInput, match=message) as error:
        load_rows(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_says_when_a_file_is_not_utf8(tmp_path, name):
    (tmp_path / name).write_bytes("frage,größe\n".encode("latin-1"))
    with pytest.raises(BadInput, match=rf"{name} is not text in UTF-8"):
        load_rows(str(tmp_path / name))


def test_says_when_a_gzip_file_is_cut(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode() * 99)[:40])
    with pytest.raises(BadInput, match="is not a whole gzip file"):
        load_rows(str(tmp_path / "a.jsonl.gz"))


@pytest.mark.parametrize("source", ["no/such.jsonl", "gsm8k.csv", "./folder/name", "a/b/c", ""])
def test_says_when_nothing_is_there(source):
    with pytest.raises(BadInput, match=r"(does not exist|is a folder without data files); acc"):
        load_rows(source)


def test_says_when_the_source_is_a_folder(tmp_path):
    with pytest.raises(BadInput, match="is a folder without data files; accepted"):
        load_rows(str(tmp_path))


def test_says_when_a_hub_name_cannot_be_loaded(monkeypatch):
    def load_dataset(**arguments):
        raise ConnectionError("Couldn't reach the hub.\nMore lines.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        BadInput, match="no-one/nothing cannot be loaded: Couldn't reach the hub; accepted"
    ) as error:
        load_rows("no-one/nothing")
    assert "\n" not in str(error.value)
