"""The probes take their world from its folder."""

import dataclasses
import json

import pytest

from balora_jax.config import DataConfig
from balora_jax.data import load_tokenizer
from balora_jax.errors import BadInput
from balora_jax.evaluation.tiny_world import make_probes, make_questions, make_world
from balora_jax.evaluation.tiny_world.embedded import ASSETS
from balora_jax.evaluation.tiny_world.evaluator import TinyWorldEvaluator, make_probe_evaluator
from balora_jax.evaluation.tiny_world.questions import write_rows
from balora_jax.evaluation.tiny_world.world import FILE, read_world, write_world


@pytest.fixture
def tokenizer():
    return load_tokenizer(str(ASSETS / "model"))


def test_the_embedded_world_is_that_of_seed_0(tokenizer):
    assert read_world(ASSETS) == make_world(0)
    evaluator = make_probe_evaluator(
        DataConfig(train=str(ASSETS / "train.jsonl"), probes="tiny-world"), tokenizer
    )
    expected = make_probes(make_world(0), tokenizer, *make_questions(0))
    for name, probe in expected.items():
        found = evaluator._probes[name].examples
        assert found.tokens.tolist() == probe.examples.tokens.tolist(), name


def test_another_world_is_judged_by_its_own_facts(tmp_path, tokenizer):
    write_world(tmp_path, make_world(7))
    for name, rows in zip(("train", "test"), make_questions(7), strict=True):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    found = TinyWorldEvaluator(tmp_path, tokenizer)._probes["facts"].examples
    own, other = (
        make_probes(make_world(seed), tokenizer, *make_questions(seed))["facts"].examples
        for seed in (7, 0)
    )
    assert found.tokens.tolist() == own.tokens.tolist() != other.tokens.tolist()


def test_folders_without_a_world_are_refused(tmp_path, tokenizer):
    config = DataConfig(train=str(tmp_path / "train.jsonl"), probes="tiny-world")
    with pytest.raises(BadInput, match=r"has no world\.json; accepted: data\.train in a folder"):
        make_probe_evaluator(config, tokenizer)
    (tmp_path / FILE).write_text('{"facts": [{}]}')
    with pytest.raises(BadInput, match="holds no tiny world"):
        make_probe_evaluator(config, tokenizer)
    world = dataclasses.asdict(make_world(0))
    for damage in ({"occupations": {"nurse": "they"}}, {"facts": []}, {"occupations": {"a": 3}}):
        (tmp_path / FILE).write_text(json.dumps(world | damage))
        with pytest.raises(BadInput, match="holds no tiny world; accepted: facts of person"):
            make_probe_evaluator(config, tokenizer)
    write_world(tmp_path, make_world(0))
    with pytest.raises(BadInput, match=r"train\.jsonl is not there"):
        make_probe_evaluator(config, tokenizer)


def test_no_probes_without_being_asked(tokenizer):
    assert make_probe_evaluator(DataConfig(train="anything.jsonl"), tokenizer) is None
