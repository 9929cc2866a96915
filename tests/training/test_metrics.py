"""The metrics log: whole lines in order, none after a resumed run's checkpoint, and loggers."""

import contextlib
import dataclasses
import json

import pytest
from record_cases import RECORD

from balora_jax.training.metrics import MetricsLog, read_records
from balora_jax.training.records import HeldOutRecord, ProbeRecord


def test_a_resumed_log_drops_the_records_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, after=-1) as log:
        for step in (1, 2, 3):
            log.write(dataclasses.replace(RECORD, step=step))
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsLog(path, after=2) as log:
        log.write(dataclasses.replace(RECORD, step=3, loss=9.0))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3] and records[2]["loss"] == 9.0


def test_every_kind_of_record_is_read_as_it_was_written(tmp_path):
    written = [
        HeldOutRecord(0, 2.5, {"accuracy": 0.5, "set/f1": 0.25}),
        ProbeRecord(0, {"entropy": 1.0}),
        RECORD,
        dataclasses.replace(RECORD, step=4, terms={}, weights={}, response_tokens=12.0),
        dataclasses.replace(RECORD, step=5, memory_host=2**31, memory_device_peak=2**35),
    ]
    with MetricsLog(tmp_path / "metrics.jsonl", after=-1) as log:
        for record in written:
            log.write(record)
    assert read_records(tmp_path / "metrics.jsonl") == written == log.records()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, probe, step, _, measured = map(json.loads, lines)
    assert first == {"step": 0, "eval_loss": 2.5, "eval_accuracy": 0.5, "eval_set/f1": 0.25}
    assert probe == {"step": 0, "probe_entropy": 1.0}
    assert step["consistency"] == 0.5 and step["weight_consistency"] == 0.025
    assert "memory_host" not in step and measured["memory_device_peak"] == 2**35


class Listening:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.given = []

    def write(self, step, values):
        self.given.append((step, values))

    def close(self, outcome, summary):
        self.given.append((outcome, summary))


def test_loggers_get_every_record_and_the_end(tmp_path):
    logger = Listening()
    with MetricsLog(tmp_path / "metrics.jsonl", after=-1, loggers=[logger]) as log:
        log.write(RECORD)
        log.finish({"steps": 3})
    numbers = {name: value for name, value in RECORD.to_json().items() if name != "step"}
    assert logger.given == [(3, numbers), ("finished", {"steps": 3})]


@pytest.mark.parametrize("error, outcome", [(None, "stopped"), (ValueError, "failed")])
def test_loggers_are_told_of_a_run_without_its_end(tmp_path, error, outcome):
    logger = Listening()
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, MetricsLog(tmp_path / "metrics.jsonl", after=-1, loggers=[logger]):
        if error:
            raise error
    assert logger.given == [(outcome, None)]
