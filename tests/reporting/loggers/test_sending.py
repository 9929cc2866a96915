"""Sending to a service that fails: nothing is lost while it comes back, all is said if it not."""

import threading
import time

import pytest

from balora_jax.reporting.loggers import sending
from balora_jax.reporting.loggers.sending import Sending


class Service:
    """A service whose calls fail while it is down."""

    def __init__(self):
        self.down = False
        self.steps = []
        self.attempts = 0
        self.ends = []

    def send(self, entries):
        self.attempts += 1
        if self.down:
            raise ConnectionError("no route to host")
        self.steps += [step for step, _ in entries]

    def finish(self, outcome, summary):
        if self.down:
            raise ConnectionError("no route to host")
        self.ends.append((outcome, summary))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(sending, "LONGEST_DELAY", 0.05)
    monkeypatch.setattr(sending, "PATIENCE", 0.5)


def _wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_records_arrive_in_order_and_then_the_end(capsys):
    service = Service()
    logger = Sending("mlflow", service, "run/metrics.jsonl")
    for step in range(200):
        logger.write(step, {"loss": 1.0})
    logger.close("finished", {"steps": 199})
    assert service.steps == [*range(200)]
    assert service.ends == [("finished", {"steps": 199})]
    assert capsys.readouterr().err == ""


def test_what_fails_is_sent_again_and_said_once(capsys):
    service = Service()
    service.down = True
    logger = Sending("mlflow", service, "run/metrics.jsonl")
    for step in range(3):
        logger.write(step, {"loss": 1.0})
    _wait_until(lambda: service.attempts > 3)
    service.down = False
    _wait_until(lambda: service.steps)
    logger.close("stopped", None)
    assert service.steps == [0, 1, 2] and service.ends == [("stopped", None)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("note: mlflow takes no records (ConnectionError: no route to host)")
    assert second == "note: mlflow takes records again"


def test_what_never_arrives_is_counted_and_given_up(capsys):
    service = Service()
    service.down = True
    logger = Sending("mlflow", service, "run/metrics.jsonl")
    for step in range(7):
        logger.write(step, {"loss": 1.0})
    start = time.monotonic()
    logger.close("finished", {})
    assert time.monotonic() - start < 5
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("note: mlflow did not get 7 records (ConnectionError: no route to host)")
    assert "every record is in run/metrics.jsonl" in last


def test_an_end_that_fails_is_said(capsys):
    service = Service()
    logger = Sending("wandb", service, "run/metrics.jsonl")
    logger.write(1, {})
    _wait_until(lambda: service.steps)
    service.down = True
    logger.close("finished", {})
    assert "wandb did not get the end of the run" in capsys.readouterr().err


def test_a_service_that_hangs_keeps_nobody(capsys):
    service = Service()
    gone = threading.Event()
    service.send = lambda entries: gone.wait(60)
    logger = Sending("wandb", service, "run/metrics.jsonl")
    start = time.monotonic()
    logger.write(1, {})
    logger.close("finished", {})
    assert time.monotonic() - start < 5
    assert "did not get 1 records (no answer in 0.5 s)" in capsys.readouterr().err
    gone.set()


def test_writing_waits_for_nothing_and_holds_so_many_records(capsys, monkeypatch):
    monkeypatch.setattr(sending, "MOST_WAITING", 5)
    service = Service()
    service.down = True
    logger = Sending("wandb", service, "run/metrics.jsonl")
    start = time.monotonic()
    for step in range(8):
        logger.write(step, {})
    assert time.monotonic() - start < 0.5
    logger.close("failed", None)
    assert "wandb did not get 8 records" in capsys.readouterr().err


def test_records_beyond_the_most_that_wait_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(sending, "MOST_WAITING", 2)
    service = Service()
    service.down = True
    logger = Sending("mlflow", service, "run/metrics.jsonl")
    for step in range(5):
        logger.write(step, {"loss": 1.0})
    service.down = False
    logger.close("finished", {})
    assert service.steps == [0, 1]
    *_, last = capsys.readouterr().err.splitlines()
    assert "did not get 3 records (more than 2 waited at a time); every record is in" in last
