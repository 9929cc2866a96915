"""The scratch folder that the tiny model is pre-trained in."""

import json

import pytest

from balora_jax.data import load_rows, load_tokenizer
from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world import make_questions, make_world
from balora_jax.evaluation.tiny_world.embedded import ASSETS
from balora_jax.evaluation.tiny_world.make import make, write_scratch


def test_scratch_folder_has_the_committed_tokenizer_and_config(tmp_path):
    rows = [row for rows in make_questions(0) for row in rows]
    tokenizer = write_scratch(tmp_path, make_world(0), rows, seed=0)
    assert load_tokenizer(str(ASSETS / "model")).get_vocab() == tokenizer.get_vocab()
    config, committed = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path, ASSETS / "model")
    )
    assert {name: committed[name] for name in config} == config
    assert len(load_rows(str(tmp_path / "corpus.jsonl")).rows) > 10_000


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is not empty; accepted: a new or empty folder"):
        make(tmp_path, seed=0)
