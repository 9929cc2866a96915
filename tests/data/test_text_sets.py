"""Sources and names of a classification run's sets, and files of predictions."""

import numpy as np
import pytest
from classification_cases import save_tokenizer, write_rows

from balora_jax.config import DataConfig
from balora_jax.data import (
    Rows,
    find_task,
    load_tokenizer,
    read_text_sets,
    text_sets,
    text_task,
    write_predictions,
)
from balora_jax.errors import BadInput


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    return load_tokenizer(str(tmp_path))


@pytest.fixture
def hub(monkeypatch):
    """The requests to a hub whose sets all have one row with every field."""
    requests = []

    def load_rows(source, *, subset=None, split="train", limit=None):
        requests.append((source, subset, split))
        row = {"premise": "a", "hypothesis": "b", "sentence1": "a", "sentence2": "b", "label": 1}
        return Rows(source, tuple(row), [row])

    monkeypatch.setattr(text_sets, "load_rows", load_rows)
    return requests


def test_a_task_alone_is_the_hubs(hub, tokenizer):
    """MNLI has two validation sets, and predicts two test sets and the diagnostic set."""
    sets = read_text_sets(DataConfig(task="mnli", predict="test"), tokenizer)
    splits = [
        "train",
        "validation_matched",
        "validation_mismatched",
        "test_matched",
        "test_mismatched",
    ]
    assert hub == [
        *(("nyu-mll/glue", "mnli", split) for split in splits),
        ("nyu-mll/glue", "ax", "test"),
    ]
    assert list(sets.held_out) == ["validation_matched", "validation_mismatched"]
    assert list(sets.unlabeled) == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    assert all(texts.labels is None for texts in sets.unlabeled.values())


def test_names_of_sets_are_the_shortest_ends_of_their_paths_that_differ(hub, tokenizer):
    config = DataConfig(
        task="rte",
        train="my/train.jsonl",
        eval=["one/dev.jsonl", "two/dev.jsonl"],
        eval_ood="far/away/dev.jsonl",
        predict="my/unseen.jsonl",
    )
    sets = read_text_sets(config, tokenizer)
    assert (list(sets.held_out), list(sets.out_of_domain)) == (["one/dev", "two/dev"], ["away/dev"])
    assert list(sets.unlabeled) == ["RTE.tsv"], "one set, and one file that the server takes"
    assert not read_text_sets(DataConfig(task="rte", train="my/train.jsonl"), tokenizer).held_out


def test_files_of_mnlis_test_sets_are_known_by_their_names(hub, tokenizer):
    config = DataConfig(
        task="mnli",
        train="my/train.jsonl",
        predict=["my/test_matched.jsonl", "my/ax.jsonl", "x.csv"],
    )
    assert list(read_text_sets(config, tokenizer).unlabeled) == ["MNLI-m.tsv", "AX.tsv", "x.tsv"]


@pytest.mark.parametrize("sources", [["a/x.jsonl", "a/x.jsonl"], ["a/x.jsonl", "a/x.csv"]])
def test_no_set_hides_another(hub, tokenizer, sources):
    with pytest.raises(
        BadInput, match=r"a/x.jsonl is there twice among a/x.jsonl, a/x.*; accepted"
    ):
        read_text_sets(DataConfig(task="rte", train="my/train.jsonl", predict=sources), tokenizer)


def test_own_labels_by_name_and_number(tokenizer, tmp_path):
    rows = [{"words": "a", "b": "c", "kind": "yes"}, {"words": "a", "b": "c", "kind": 0}]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    fields = {"text": "words", "text_pair": "b", "label": "kind"}
    sets = read_text_sets(DataConfig(train=path, labels=["no", "yes"], fields=fields), tokenizer)
    assert sets.train.labels.tolist() == [1, 0]
    assert sets.task.metrics == ("accuracy", "f1")
    assert text_task(DataConfig(train=path, labels=3)).metrics == ("accuracy", "macro_f1")
    with pytest.raises(BadInput, match=r"line 1: kind is 'yes'; data.labels accepts: 0, 1$"):
        read_text_sets(DataConfig(train=path, labels=2, fields=fields), tokenizer)


@pytest.mark.parametrize(
    "task, predictions, lines",
    [
        ("rte", [0, 1], ["0\tentailment", "1\tnot_entailment"]),
        ("cola", [0, 1], ["0\t0", "1\t1"]),
        ("stsb", [5.4, 1.25, -1], ["0\t5.000", "1\t1.250", "2\t0.000"]),
    ],
)
def test_predictions_have_the_servers_format(tmp_path, task, predictions, lines):
    write_predictions(tmp_path / "new" / "x.tsv", find_task(task), np.array(predictions))
    assert (tmp_path / "new" / "x.tsv").read_text().splitlines() == ["index\tprediction", *lines]
