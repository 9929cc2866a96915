"""T5's form of the GLUE tasks to the letter, and every answer back to its label."""

import numpy as np
import pytest
from seq2seq_cases import make_tokenizer

from balora_jax.data import (
    NO_CLASS,
    Answers,
    Rows,
    TextTask,
    collate,
    encode_with_answers,
    find_task,
    question,
)
from balora_jax.data.answers import answer_text
from balora_jax.errors import BadInput

OWN = TextTask("data.labels", ("text", "other"), ("many", "few"), ("accuracy",), {})
SCORE = find_task("stsb")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize(
    ("task", "text", "answers"),
    [
        ("cola", "cola sentence: 1", ["unacceptable", "acceptable"]),
        ("sst2", "sst2 sentence: 1", ["negative", "positive"]),
        ("mrpc", "mrpc sentence1: 1 sentence2: 2", ["not_equivalent", "equivalent"]),
        ("qqp", "qqp question1: 1 question2: 2", ["not_duplicate", "duplicate"]),
        ("mnli", "mnli hypothesis: 2 premise: 1", ["entailment", "neutral", "contradiction"]),
        ("qnli", "qnli question: 1 sentence: 2", ["entailment", "not_entailment"]),
        ("rte", "rte sentence1: 1 sentence2: 2", ["entailment", "not_entailment"]),
        ("stsb", "stsb sentence1: 1 sentence2: 2", []),
    ],
)
def test_glue_as_t5_has_it(task, text, answers):
    task = find_task(task)
    assert question(task, ["1", "2"][: len(task.fields)]) == text
    assert [answer_text(task, label) for label in range(len(task.labels))] == answers


def test_custom_fields_keep_their_order():
    assert question(OWN, ["a", "b"]) == "text: a other: b"


@pytest.mark.parametrize(
    ("scores", "score", "text"),
    [
        ((0, 5), 3.8, "3.8"),
        ((0, 5), 2.5, "2.4"),
        ((0, 5), 0.7, "0.8"),
        ((0, 5), 5, "5.0"),
        ((0, 1), 0.333, "0.32"),
        ((-1, 1), -0.03, "-0.04"),
        ((-1, 1), 0.0, "-0.04"),
        ((0, 100), 51, "52.0"),
    ],
)
def test_scores_are_rounded_to_25_steps(scores, score, text):
    """STS-B's as T5's round(score * 5) / 5 in float32: 2.5 to the even 2.4, 0.7 up."""
    task = TextTask("data.scores", ("text",), (), ("pearson",), {}, scores=scores)
    assert answer_text(task, np.float32(score)) == text


def test_answers_are_read_back(tokenizer):
    answers = Answers(OWN, tokenizer)
    tokens = answers.encode(np.array([1, 0]))
    assert (
        tokenizer.convert_ids_to_tokens(tokens[0]) == ["few", "</s>"] and tokens.dtype == np.int32
    )
    written = np.array([[*tokens[0]], [*tokens[1]], [3, 4], tokens[0][[0, 0]], [0, 0]])
    assert answers.read(written, np.array([1, 1, 2, 2, 0])).tolist() == [
        1,
        0,
        NO_CLASS,
        NO_CLASS,
        NO_CLASS,
    ]


def test_scores_are_read_back(tokenizer):
    answers = Answers(SCORE, tokenizer)
    tokens = answers.encode(np.array([3.8, 0.0], np.float32))
    assert tokenizer.convert_ids_to_tokens(tokens[0]) == ["3", ".", "8", "</s>"]
    nine, few = tokenizer.convert_tokens_to_ids(["9", "few"])
    written = np.concatenate([tokens, [[nine, 0, 0, 0], [few, 0, 0, 0]]])
    assert answers.read(written, np.array([3, 3, 1, 1])).tolist() == pytest.approx(
        [3.8, 0.0, 5.0, np.nan], nan_ok=True
    )


def _rows(*rows):
    return Rows("rows", tuple(rows[0]), rows)


def test_a_batch_has_the_answers_tokens(tokenizer):
    labels = {"few": 1, "many": 0}
    names = TextTask("data.labels", ("text",), ("many", "few few"), ("accuracy",), {})
    rows = _rows(*({"text": "a b", "label": label} for label in labels.values()))
    texts = encode_with_answers(rows, names, tokenizer, max_length=16)
    assert tokenizer.convert_ids_to_tokens(texts[0]) == ["text", ":", "a", "b", "</s>"]
    assert "answers of at most 3" in str(texts)
    batch = collate(texts, [0, 1], [8])
    few, many = tokenizer.convert_tokens_to_ids(["few", "many"])
    assert batch.targets.tolist() == [[few, few, 1], [many, 1, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    assert texts.largest_token == many


def test_long_questions_lose_their_end_but_keep_the_ending(tokenizer):
    rows = _rows({"text": "a b c d e f", "label": 0, "other": "g"})
    texts = encode_with_answers(rows, OWN, tokenizer, max_length=6)
    assert (
        tokenizer.convert_ids_to_tokens(texts[0]) == ["text", ":", "a", "b", "c", "</s>"]
        and texts.truncated == 1
    )


@pytest.mark.parametrize(
    ("special", "labels", "message"),
    [
        (
            {"eos_token": None},
            ("many", "few"),
            "no end-of-sequence token; accepted: one with eos_token",
        ),
        ({"pad_token": None}, ("many", "few"), "no pad token"),
        (
            {},
            ("many", " many"),
            "makes 'many' of data.labels's class ' many' and of 'many'; accepted: classes whose",
        ),
        ({}, ("many", "unknown"), "makes '' of data.labels's class 'unknown'; accepted"),
        (
            {},
            ("many", "few " * 6),
            "data.max_length is 6 and data.labels has answers of 7 tokens; accepted: at least 7",
        ),
    ],
)
def test_bad_answers(special, labels, message):
    task = TextTask("data.labels", ("text",), labels, ("accuracy",), {})
    with pytest.raises(BadInput, match=message):
        encode_with_answers(
            _rows({"text": "a", "label": 0}), task, make_tokenizer(**special), max_length=6
        )
