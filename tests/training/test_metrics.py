"""The metrics log: whole lines in order, and none after the checkpoint of a resumed run."""

import dataclasses
import json

from record_cases import RECORD

from balora_jax.training.metrics import MetricsLog, read_records
from balora_jax.training.records import HeldOutRecord, ProbeRecord


def test_a_resumed_log_drops_the_records_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, after=-1)
    for step in (1, 2, 3):
        log.write(dataclasses.replace(RECORD, step=step))
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(path, after=2)
    log.write(dataclasses.replace(RECORD, step=3, loss=9.0))
    log.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3] and records[2]["loss"] == 9.0
    assert any((tmp_path / "tensorboard").iterdir())


def test_every_kind_of_record_is_read_as_it_was_written(tmp_path):
    written = [
        HeldOutRecord(0, 2.5, {"accuracy": 0.5, "set/f1": 0.25}),
        ProbeRecord(0, {"entropy": 1.0}),
        RECORD,
        dataclasses.replace(RECORD, step=4, terms={}, weights={}, response_tokens=12.0),
    ]
    log = MetricsLog(tmp_path / "metrics.jsonl", after=-1)
    for record in written:
        log.write(record)
    log.close()
    assert read_records(tmp_path / "metrics.jsonl") == written == log.records()
    first, probe, step, _ = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first == {"step": 0, "eval_loss": 2.5, "eval_accuracy": 0.5, "eval_set/f1": 0.25}
    assert probe == {"step": 0, "probe_entropy": 1.0}
    assert step["consistency"] == 0.5 and step["weight_consistency"] == 0.025
