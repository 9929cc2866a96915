"""Plots of a made-up run: only the terms that acted have one."""

import dataclasses

from PIL import Image
from record_cases import RECORD

from balora_jax.reporting.plots import draw
from balora_jax.training.records import HeldOutRecord
from balora_jax.training.summary import History


def _history(terms):
    """The history of five steps with these terms."""
    steps = [
        dataclasses.replace(
            RECORD,
            step=step,
            loss=3 / step,
            task=3 / step,
            terms={name: 0.1 * step for name in terms},
            weights={name: 0.01 for name in terms},
        )
        for step in range(1, 6)
    ]
    return History.of([HeldOutRecord(0, 3.0), *steps])


def test_only_active_terms_are_plotted(tmp_path):
    every = draw(_history(["consistency", "diversity", "svd"]), tmp_path / "a")
    assert {path.stem for path in every} == {"loss", "learning_rate", "regularizers", "weights"}
    assert all(Image.open(path).size[0] > 600 for path in every)
    plain = draw(_history([]), tmp_path / "b")
    assert {path.stem for path in plain} == {"loss", "learning_rate"}
    one = draw(_history(["svd"]), tmp_path / "c")
    assert len(one) == 4
