"""The command `balora doctor`."""

import json

from balora_jax.cli import main
from balora_jax.runs.doctor import self_test


def test_doctor_prints_versions_and_the_self_test(capsys):
    main(["doctor"])
    output = capsys.readouterr().out
    assert "jaxlib" in output
    assert "self-test: adapter, regularizers and step work" in output.replace("\n", " ")


def test_the_self_test_reduces_the_loss():
    losses = self_test()
    assert losses[-1] < losses[0] and json.dumps(losses)
