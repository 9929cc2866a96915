"""A held-out share of the training rows: disjoint, the same each time, and of every class."""

import json

import numpy as np
import pytest

from balora_jax.config import DataConfig
from balora_jax.data import read_held_out_rows, read_rows, read_train_rows
from balora_jax.data.splits import divide
from balora_jax.errors import BadInput


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
def test_the_parts_are_disjoint_and_whole(share):
    train, held_out = divide("s", [None] * 200, share)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(200))
    assert len(held_out) == round(200 * share)
    again = divide("s", [None] * 200, share)
    np.testing.assert_array_equal(again.held_out, held_out)
    # A draw, not the first or the last rows.
    assert 60 < held_out.mean() < 140 or share < 0.1


def test_every_class_has_its_share():
    classes = ["rare"] * 10 + ["common"] * 990
    np.random.default_rng(0).shuffle(classes)
    held_out = divide("s", classes, 0.2).held_out
    counts = {name: sum(classes[i] == name for i in held_out) for name in ("rare", "common")}
    assert counts == {"rare": 2, "common": 198}
    # A class of one row stays in training.
    alone = divide("s", ["one"] + ["many"] * 9, 0.9)
    assert 0 in alone.train and len(alone.held_out) == 8


def test_less_than_a_row_is_refused():
    with pytest.raises(BadInput, match=r"eval_share 0.01 of the 9 rows of s is not one row; accep"):
        divide("s", [None] * 9, 0.01)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": f"t{i}", "label": i % 2, "prompt": f"{i}", "completion": "x"} for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**options):
        return DataConfig(train=str(path), eval_share=0.25, **options)

    return make


def test_rows_of_prompts(config):
    train = [row["prompt"] for row in read_rows(config())]
    held_out = [row["prompt"] for row in read_rows(config(), "eval")]
    assert len(held_out) == 10 and sorted(train + held_out) == sorted(map(str, range(40)))
    assert [row["prompt"] for row in read_rows(config(eval_limit=3), "eval")] == held_out[:3]
    assert len(read_rows(config(limit=8), "eval").rows) == 2
    # Messages name the line in the file.
    assert read_rows(config(), "eval").where(0).endswith(f"line {int(held_out[0]) + 1}")


def test_rows_of_classes(config):
    train = [row["text"] for row in read_train_rows(config(labels=2))]
    [(name, rows)] = read_held_out_rows(config(labels=2)).items()
    held_out = list(rows)
    assert name == "rows" and sum(row["label"] for row in held_out) == 5
    texts = sorted([*train, *(row["text"] for row in held_out)])
    assert texts == sorted(f"t{i}" for i in range(40))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eval_share": 0.0}, "data.eval_share is 0.0; accepted: a number above 0 and below 1"),
        ({"eval_share": 1.0}, "data.eval_share is 1.0; accepted"),
        ({"eval_share": 0.5, "eval": "b.jsonl"}, "with data.train, and without data.eval"),
        ({"eval_share": 0.5, "train": None}, "with data.train, and without data.eval"),
    ],
)
def test_options_that_are_refused(options, match):
    with pytest.raises(BadInput, match=match):
        DataConfig(**({"train": "a.jsonl"} | options))
