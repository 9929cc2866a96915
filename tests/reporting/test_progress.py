"""The progress display: one line on a terminal, plain lines elsewhere."""

import dataclasses
import importlib.util
import io

import pytest
from record_cases import RECORD
from rich.console import Console

from balora_jax.reporting.progress import ProgressLine
from balora_jax.training.records import HeldOutRecord


def test_progress_off_a_terminal_is_plain_lines():
    out = io.StringIO()
    with ProgressLine(20, console=Console(file=out, width=80)) as progress:
        for step in range(1, 21):
            progress(dataclasses.replace(RECORD, step=step))
        progress(HeldOutRecord(20, 1.0))
    lines = out.getvalue().splitlines()
    assert len(lines) == 12 and "\x1b" not in out.getvalue()
    assert lines[0] == "step 1/20: loss 1.5000 (task 1.250 kl 0.500) 1,234 tok/s"
    assert lines[-1] == "step 20: held-out loss 1.0000"


def test_rounds_that_have_not_converged_are_told_once():
    out = io.StringIO()
    with ProgressLine(20, console=Console(file=out, width=80)) as progress:
        for step, share in enumerate((0.0, 0.5, 1.0), start=1):
            progress(dataclasses.replace(RECORD, step=step, unsettled={"svd": share}))
    told = [line for line in out.getvalue().splitlines() if "converged" in line]
    assert len(told) == 1 and told[0].startswith("step 2: the singular values of the SVD term")
    assert told[0].endswith("regularizers.svd.method exact computes them whole")


def test_progress_on_a_terminal_fits_80_columns():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    terms = {"consistency": 0.5, "diversity": -2.123, "svd": -1.234}
    record = dataclasses.replace(RECORD, step=1999, terms=terms, tokens_per_second=123456.7)
    with ProgressLine(2000, console=console) as progress:
        progress(record)
    lines = [line.rstrip() for line in out.getvalue().replace("\r", "\n").splitlines()]
    assert any("1999/2000" in line and "123,457 tok/s" in line for line in lines)
    assert any(
        line.endswith("loss 1.5000 (task 1.250 kl 0.500 div -2.123 svd -1.234)") for line in lines
    )


@pytest.mark.parametrize("widgets", [True, False])
def test_progress_in_a_notebook_is_live_where_it_can_be(monkeypatch, widgets):
    """Lines that are printed in a notebook are displayed; a bar needs ipywidgets."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: widgets or None)
    console = Console(force_jupyter=True, width=80)
    printed = []
    monkeypatch.setattr(console, "print", lambda *texts, **_: printed.append(texts))
    progress = ProgressLine(2, console=console)
    for step in (1, 2):
        progress(dataclasses.replace(RECORD, step=step))
    assert len(printed) == (0 if widgets else 2)
    assert progress._bar.disable != widgets
