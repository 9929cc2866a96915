"""A trace of some updates is written where TensorBoard looks for it."""

import jax.numpy as jnp
import pytest

from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs.finetune import finetune
from balora_jax.training.profile import Profile


def _traces(folder):
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_updates_are_traced(tmp_path):
    with Profile((2, 3), tmp_path) as profile:
        for update in range(1, 5):
            profile.before(update)
            profile.after(update, jnp.ones(3) * update)
            assert len(_traces(tmp_path)) == (update >= 3)


def test_a_trace_ends_with_its_run(tmp_path):
    with pytest.raises(RuntimeError), Profile((1, 9), tmp_path) as profile:
        profile.before(1)
        raise RuntimeError
    assert len(_traces(tmp_path)) == 1
    with Profile((1, 1), tmp_path / "other") as profile:
        profile.before(1)
        profile.after(1, jnp.ones(3))
    assert len(_traces(tmp_path / "other")) == 1


def test_without_updates_there_is_no_trace(tmp_path):
    with Profile(None, tmp_path) as profile:
        profile.before(1)
        profile.after(1, jnp.ones(3))
    assert not list(tmp_path.iterdir())


def test_a_run_writes_one_and_says_where_its_time_went(run_arguments, tmp_path, capsys):
    arguments = run_arguments(tmp_path / "run", "--training.profile", "3:4")
    summary = finetune(read_config(arguments)).summary
    assert len(_traces(tmp_path / "run" / "tensorboard")) == 1
    spent = summary.seconds_by_kind
    assert set(spent) == {"compile", "data", "step", "evaluation", "save"}
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(spent.values()) < summary.seconds
    assert 0 < summary.counted_tokens_per_second < summary.tokens_per_second
    assert summary.utilization is None, "the peak of a CPU is not known"
    printed = capsys.readouterr().out
    assert "of which the loss counts" in printed
    assert f"the trace of updates 3:4 is in {tmp_path / 'run' / 'tensorboard'}" in printed
    # The folder with the trace is the run's own.
    finetune(read_config([*arguments, "--output.overwrite", "--training.profile", "null"]))
    assert not _traces(tmp_path / "run" / "tensorboard")


def test_a_run_that_goes_on_within_the_updates_is_traced(tmp_path):
    with Profile((1, 5), tmp_path) as profile:
        profile.before(4, jnp.ones(3))
        profile.after(4, jnp.ones(3))
    assert len(_traces(tmp_path)) == 1


def test_updates_beyond_the_run_are_refused(run_arguments, tmp_path):
    config = read_config(run_arguments(tmp_path / "run", "--training.profile", "7:9"))
    with pytest.raises(BadInput, match="7:9, and the run has 6 updates; accepted: updates of"):
        finetune(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["3", "4:3", "0:1", "1:2:3", "a:b", "1:", "", "٤:٥"])
def test_bad_updates_are_refused(run_arguments, tmp_path, text):
    with pytest.raises(BadInput, match=r"training\.profile .*; accepted: null, or FIRST:LAST"):
        read_config(run_arguments(tmp_path / "run", "--training.profile", text))
