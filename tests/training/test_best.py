"""The best evaluation of a run, and the end of a run whose evaluations no longer improve."""

import pytest

from balora_jax.training.best import Best
from balora_jax.training.records import HeldOutRecord


def _records(values):
    return [HeldOutRecord(step, value, {"f1": value}) for step, value in values.items()]


@pytest.mark.parametrize("higher, step", [(True, 20), (False, 30)])
def test_the_best_is_kept(higher, step):
    best = Best("loss", higher=higher)
    records = _records({0: 9.0, 10: 2.0, 20: 3.0, 30: 1.0, 40: 3.0})
    improved = [best.update(record) for record in records]
    assert best.step == step and not improved[0] and not improved[-1] and not best.ended


def test_patience_counts_since_the_best():
    best = Best("loss", higher=False, patience=2)
    ended = []
    for record in _records({10: 3.0, 20: 4.0, 30: 2.0, 40: 2.0, 50: float("nan")}):
        best.update(record)
        ended.append(best.ended)
    assert ended == [False, False, False, False, True] and best.step == 30


def test_a_named_metric_decides():
    best = Best("f1", higher=True)
    record = HeldOutRecord(10, 5.0, {"f1": 0.25})
    assert best.score(record) == 0.25 and best.update(record) and best.step == 10
