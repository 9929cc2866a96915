"""Damaged summaries of a comparison's runs: read whole, or the run is finished again."""

import json
import tempfile

from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from balora_jax.runs import compare
from balora_jax.training.run_folder import RunFolder

WHOLE = {
    "method": "lora", "model": "m", "steps": 2, "step_kept": 2, "parameters_trained": 3,
    "parameters_frozen": 4, "loss_first": 2.0, "loss_last": 1.0, "eval_loss_first": 2.0,
    "eval_loss_last": 1.0, "metrics": {"accuracy": 0.5}, "metrics_ood": {}, "score": -1.0,
    "probes": {"facts_known": [0.9, 0.8]}, "terms": {}, "tokens_per_second": 1.0,
    "lengths_compiled": [8], "compile_seconds": 1.0, "device_bytes": 1, "seconds": 2.0,
}  # fmt: skip


def _check(content: bytes) -> None:
    """Read a summary; its numbers must fit in the table and decide a search."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        folder.summary.write_bytes(content)
        summary = compare._read_summary(folder, Console(quiet=True))
        if summary is None:
            return
        compare.table({"lora": [compare._columns(summary)]})
        compare._best({0.1: summary.score, 0.2: -1.0})


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes(content):
    _check(content)


@fuzz
@given(json_values)
def test_random_json(value):
    _check(json.dumps(value).encode())


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), json_values, min_size=1, max_size=3))
def test_other_values(changed):
    _check(json.dumps(WHOLE | changed).encode())


@fuzz
@given(st.integers(0, len(json.dumps(WHOLE))), st.binary(max_size=8), st.integers(0, 8))
def test_replaced_bytes(start, inserted, removed):
    whole = json.dumps(WHOLE).encode()
    _check(whole[:start] + inserted + whole[start + removed :])
