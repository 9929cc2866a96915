"""The records of a run that W&B has kept offline, read from its file."""

import json
import pathlib
import struct
from typing import Any

# The file is a log in LevelDB's format: 7 bytes of its own, then blocks of records in parts, each
# after a checksum, a length and a type (whole, first, middle, last).
IDENTITY = 7
BLOCK = 32768
HEADER = struct.Struct("<IHB")
WHOLE = 1
LAST = 4


def read_records(path: pathlib.Path) -> list[Any]:
    """Parse every record of a file run-ID.wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    records = []
    part = b""
    place = IDENTITY
    while place + HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        part += content[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            records.append(Record.FromString(part))
            part = b""
    return records


def history(records: list[Any]) -> list[dict[str, float]]:
    """The rows of the run's history."""
    rows = [
        record.history.item for record in records if record.WhichOneof("record_type") == "history"
    ]
    return [{_key(item): json.loads(item.value_json) for item in row} for row in rows]


def summary(records: list[Any]) -> dict[str, Any]:
    """The run's summary in the end."""
    values = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            values |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    return values


def config(records: list[Any]) -> dict[str, Any]:
    """The run's configuration, by the names of its sections."""
    (run, *_) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    return {_key(item): json.loads(item.value_json) for item in run.config.update}


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
