"""Fingerprints of data sets: equal for equal sets, different for any other token or label."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from balora_jax.data import Examples, fingerprint

PAIRS = Examples(
    tokens=np.arange(6, dtype=np.int32),
    starts=np.array([0, 2, 6]),
    pad_id=0,
    prompt_lengths=np.array([1, 2], np.int32),
)
TEXTS = Examples(
    tokens=np.arange(6, dtype=np.int32),
    starts=np.array([0, 2, 6]),
    pad_id=0,
    token_type_ids=np.zeros(6, np.int32),
    labels=np.array([0, 1], np.int32),
    answers=np.array([[5, -1], [5, 6]], np.int32),
)
# Computed once; another value means that older run folders no longer match their data.
HASH = "fd59f8c9ac21eaa9570291d7476086e9cd3dffbf3d11462f69a1413fbb4b15e2"


def _copy(examples):
    arrays = {
        field.name: getattr(examples, field.name).copy()
        for field in dataclasses.fields(examples)
        if isinstance(getattr(examples, field.name), np.ndarray)
    }
    return dataclasses.replace(examples, **arrays)


@pytest.mark.parametrize("examples", [PAIRS, TEXTS], ids=["pairs", "texts"])
def test_equal_sets_have_equal_fingerprints(examples):
    assert fingerprint([examples]) == fingerprint([_copy(examples)])


@pytest.mark.parametrize(
    ("examples", "name"),
    [
        (examples, name)
        for examples in (PAIRS, TEXTS)
        for name in ("tokens", "prompt_lengths", "token_type_ids", "labels", "answers")
        if getattr(examples, name) is not None
    ],
)
def test_every_value_of_every_array_counts(examples, name):
    seen = {fingerprint([examples])}
    for index in range(getattr(examples, name).size):
        changed = _copy(examples)
        getattr(changed, name).flat[index] += 1
        seen.add(fingerprint([changed]))
    assert len(seen) == getattr(examples, name).size + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"starts": np.array([0, 3, 6])},
        {"pad_id": 1},
        {"labels": None},
        {"labels": TEXTS.labels.astype(np.float32)},
        {"labels": TEXTS.labels[::-1]},
        {"answers": None},
        {"answers": TEXTS.answers.reshape(4)},
    ],
    ids=["starts", "pad id", "no labels", "scores", "order of labels", "no answers", "shape"],
)
def test_shapes_types_and_absent_arrays_count(changes):
    assert fingerprint([TEXTS]) != fingerprint([dataclasses.replace(TEXTS, **changes)])


def test_the_order_and_the_number_of_sets_count():
    hashes = [fingerprint(sets) for sets in ([], [PAIRS], [PAIRS, TEXTS], [TEXTS, PAIRS])]
    assert len(set(hashes)) == 4


def test_the_teacher_and_the_counts_of_rows_do_not_count():
    taught = dataclasses.replace(TEXTS, teacher=np.ones((2, 2), np.float32), truncated=7)
    assert fingerprint([TEXTS]) == fingerprint([taught])


def test_empty_sets_have_a_fingerprint():
    empty = Examples(tokens=np.zeros(0, np.int32), starts=np.zeros(1, np.int64), pad_id=0)
    assert fingerprint([empty]) == fingerprint([_copy(empty)])


def test_views_are_hashed_by_their_values():
    scattered = np.repeat(TEXTS.tokens, 2)[::2]
    assert fingerprint([dataclasses.replace(TEXTS, tokens=scattered)]) == fingerprint([TEXTS])


def test_processes_agree():
    code = (
        "import numpy as np; from balora_jax.data import Examples, fingerprint;"
        "print(fingerprint([Examples(tokens=np.arange(6, dtype=np.int32),"
        "starts=np.array([0, 2, 6]), pad_id=0, prompt_lengths=np.array([1, 2], np.int32))]))"
    )
    assert fingerprint([PAIRS]) == HASH
    for seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == HASH
