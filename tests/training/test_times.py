"""The time of each kind of work, of which inner work is not counted twice."""

import pytest

from balora_jax.training import times
from balora_jax.training.times import KINDS, Times


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand: (seconds) -> None."""
    now = [100.0]
    monkeypatch.setattr(times.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_inner_work_counts_once(clock):
    spent = Times()
    clock(5)
    with spent.spent_on("step"):
        clock(1)
        with spent.spent_on("compile"):
            clock(10)
        clock(2)
    clock(7)
    with spent.spent_on("data"):
        clock(0.5)
    expected = dict.fromkeys(KINDS, 0.0) | {"step": 3.0, "compile": 10.0, "data": 0.5}
    assert spent.seconds == expected


def test_work_that_fails_is_counted(clock):
    spent = Times()
    with pytest.raises(ValueError), spent.spent_on("save"):
        clock(3)
        raise ValueError
    with spent.spent_on("step"):
        clock(1)
    assert (spent.seconds["save"], spent.seconds["step"]) == (3.0, 1.0)
