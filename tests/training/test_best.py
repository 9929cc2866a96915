"""Which evaluation is the best, and when there have been enough."""

import pytest

from balora_jax.training.best import Best


def _records(values):
    return [{"step": step, "eval_loss": value} for step, value in values.items()]


@pytest.mark.parametrize("higher, step", [(True, 20), (False, 30)])
def test_the_best_is_kept(higher, step):
    best = Best("eval_loss", higher=higher)
    taken = [best.take(record) for record in _records({0: 9.0, 10: 2.0, 20: 3.0, 30: 1.0, 40: 3.0})]
    assert best.step == step and not taken[0] and not taken[-1] and not best.ended


def test_patience_counts_since_the_best():
    best = Best("eval_loss", higher=False, patience=2)
    ended = []
    for record in _records({10: 3.0, 20: 4.0, 30: 2.0, 40: 2.0, 50: float("nan")}):
        best.take(record)
        ended.append(best.ended)
    assert ended == [False, False, False, False, True] and best.step == 30


def test_records_of_something_else_are_left_aside():
    best = Best("eval_f1", higher=True, patience=1)
    assert not any(best.take(record) for record in _records({10: 1.0, 20: 2.0}))
    assert best.step is None and not best.ended
