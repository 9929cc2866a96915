"""The value of data.train: a source, or a list of them with their own settings."""

import re

import pytest

from balora_jax.config import DataConfig, sources
from balora_jax.config.sources import Source, parse_sources
from balora_jax.errors import BadInput


def test_a_source_is_a_text_or_a_mapping():
    assert parse_sources("a.jsonl") == (Source("a.jsonl"),)
    assert parse_sources("org/name:1000") == (Source("org/name", limit=1000),)
    fields = {"response": "reply"}
    mapping = {"source": "b", "subset": "main", "split": "dev", "weight": 2, "fields": fields}
    assert parse_sources([mapping, {"source": "c:5", "weight": 0.5}]) == (
        Source("b", "main", "dev", None, 2, fields),
        Source("c", limit=5, weight=0.5),
    )


def test_a_folder_that_is_called_like_a_number_of_rows_is_that_folder(tmp_path):
    (tmp_path / "sets:2").mkdir()
    assert parse_sources(f"{tmp_path}/sets:2") == (Source(f"{tmp_path}/sets:2"),)
    assert parse_sources(f"{tmp_path}/sets:3") == (Source(f"{tmp_path}/sets", limit=3),)


def test_the_file_system_is_asked_once(monkeypatch):
    """The meaning of a name stays the same during a run."""
    asked = []
    monkeypatch.setattr(sources, "_exists", asked.append)
    config = DataConfig(train=["a.jsonl:5", "b:6"])
    first = config.sources
    assert config.sources is first and [source.limit for source in first] == [5, 6]
    assert config.source_names == ["a.jsonl", "b"] and config.weights is None
    assert asked == ["a.jsonl:5", "b:6"]


def test_each_source_has_a_section_of_its_own():
    shared = {"response": "answer"}
    train = ["a.jsonl", {"source": "b", "subset": "main", "limit": 7, "fields": {}}]
    config = DataConfig(train=train, fields=shared, limit=9, train_split="all")
    first, second = config.sources
    assert (first.train, first.subset, first.limit, first.fields) == ("a.jsonl", None, 9, shared)
    assert (second.train, second.subset, second.limit, second.fields) == ("b", "main", 7, {})
    assert second.train_split == "all"
    assert config.weights is None and config.source_names == ["a.jsonl", "b"]


WRONG = [
    ([], "data.train is []; accepted: a set, or a list of at least one"),
    ("a.jsonl:0", "data.train 'a.jsonl:0' has a number of rows of 0; accepted: at least 1"),
    ("a.jsonl:10:5", "data.train 'a.jsonl:10:5' has two numbers of rows; accepted: a file"),
    ([{"weight": 1}], "source 1 of data.train has no source; accepted: source: a file, a folder"),
    ([{"source": ["a"]}], "source 1 of data.train has no source"),
    (["a", {"source": "b", "wight": 1}], "source 2 of data.train has the key wight; accepted: sou"),
    ([{"source": "a", "weight": -1}], "weight is -1; accepted: a number above 0"),
    ([{"source": "a", "weight": 0}], "weight is 0; accepted: a number above 0"),
    ([{"source": "a", "weight": True}], "weight is True; accepted: a number above 0"),
    ([{"source": "a", "weight": float("nan")}], "weight is nan; accepted: a number above 0"),
    ([{"source": "a", "weight": "2"}], "weight is '2'; accepted: a number above 0"),
    ([{"source": "a", "limit": 0}], "limit is 0; accepted: a whole number of at least 1"),
    ([{"source": "a", "limit": 1.5}], "limit is 1.5; accepted: a whole number"),
    ([{"source": "a", "split": 3}], "split is 3; accepted: text"),
    ([{"source": "a", "fields": {"text": 3}}], "accepted: a mapping of text to text"),
    ([{"source": "a", "fields": ["text"]}], "accepted: a mapping of text to text"),
    ([{"source": "a:3", "limit": 4}], "limit is 4 and source is 'a:3'; accepted: one number"),
    ([{"source": "a", "weight": 10**400}], "accepted: a number above 0, from 1e-09 to 1e+09"),
    ([{"source": "a", "limit": 10**400}], "accepted: a whole number of at least 1, at most"),
    ([None], "source 1 of data.train is None; accepted: text, or a mapping of source, subset"),
    ([["a"]], "source 1 of data.train is ['a']; accepted: text, or a mapping"),
    (["a", {"source": "b", "weight": 2}], "weights for some sources and none for a; accepted: a"),
]


@pytest.mark.parametrize("value, sentence", WRONG, ids=str)
def test_a_wrong_source_is_one_sentence(value, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        DataConfig(train=value)


def test_a_share_is_not_held_out_of_a_source_that_is_there_twice():
    train = ["a.jsonl:50", "b.jsonl", "a.jsonl"]
    with pytest.raises(
        BadInput, match=r"data\.train is .*a\.jsonl.*accepted: each source once, with"
    ):
        DataConfig(train=train, eval_share=0.2)
    assert len(DataConfig(train=train).sources) == 3
