import io
import json

import pytest
from rich.console import Console

from balora_jax.errors import Diverged
from balora_jax.reporting.progress import ProgressLine
from balora_jax.training.metrics import MetricsLog, check_finite

RECORD = {
    "step": 3,
    "loss": 1.5,
    "task": 1.25,
    "consistency": 0.5,
    "gradient_norm": 1.0,
    "tokens_per_second": 1234.5,
}


def test_a_resumed_log_drops_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, after=-1)
    for step in (1, 2, 3):
        log.write(RECORD | {"step": step})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(path, after=2)
    log.write(RECORD | {"step": 3, "loss": 9.0})
    log.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3] and records[2]["loss"] == 9.0
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("broken", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(broken, value):
    check_finite(RECORD)
    with pytest.raises(Diverged, match=r"step 3: .*task 1\.25.*last good checkpoint"):
        check_finite(RECORD | {broken: value})


def test_progress_off_a_terminal_is_plain_lines():
    out = io.StringIO()
    with ProgressLine(20, console=Console(file=out, width=80)) as progress:
        for step in range(1, 21):
            progress(RECORD | {"step": step})
        progress({"step": 20, "eval_loss": 1.0})
    lines = out.getvalue().splitlines()
    assert len(lines) == 12 and "\x1b" not in out.getvalue()
    assert lines[0] == "step 1/20: loss 1.5000 (task 1.250 kl 0.500) 1,234 tok/s"
    assert lines[-1] == "step 20: held-out loss 1.0000"


def test_progress_on_a_terminal_fits_80_columns():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with ProgressLine(2000, console=console) as progress:
        progress(
            RECORD
            | {"step": 1999, "diversity": -2.123, "svd": -1.234, "tokens_per_second": 123456.7}
        )
    lines = [line.rstrip() for line in out.getvalue().replace("\r", "\n").splitlines()]
    assert any("1999/2000" in line and "123,457 tok/s" in line for line in lines)
    assert any(
        line.endswith("loss 1.5000 (task 1.250 kl 0.500 div -2.123 svd -1.234)") for line in lines
    )
