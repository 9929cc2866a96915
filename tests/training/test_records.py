"""The record of an update, and the error for numbers that are not finite."""

import dataclasses

import pytest
from record_cases import RECORD

from balora_jax.errors import Diverged
from balora_jax.training.records import StepRecord, check_finite


@pytest.mark.parametrize("broken", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(broken, value):
    check_finite(RECORD)
    with pytest.raises(Diverged, match=r"step 3: .*task 1\.25.*last good checkpoint"):
        check_finite(dataclasses.replace(RECORD, **{broken: value}))


def test_a_steps_metrics_become_a_record():
    metrics = {
        "loss": 1.5,
        "task": 1.25,
        "my_term": 0.5,
        "weight_my_term": 0.1,
        "unsettled_my_term": 0.25,
        "learning_rate": 1e-3,
        "gradient_norm": 2.0,
        "tokens": 640.0,
        "response_tokens": 64.0,
    }
    record = StepRecord.of_metrics(7, metrics, seconds=0.5)
    assert record.terms == {"my_term": 0.5} and record.weights == {"my_term": 0.1}
    assert record.unsettled == {"my_term": 0.25}
    assert record.tokens_per_second == 1280 and record.response_tokens == 64
    assert record.to_json() == {"step": 7, **metrics, "tokens_per_second": 1280}
