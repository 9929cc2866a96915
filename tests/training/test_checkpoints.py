"""Checkpoints: the ones that are kept, their contents, and damage to any of their files."""

import logging
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.config import OptimizerConfig
from balora_jax.errors import BadInput
from balora_jax.objective.params import Params
from balora_jax.training.checkpoints import Checkpoints
from balora_jax.training.checksums import CHECKSUMS, check_checksums
from balora_jax.training.optimizer import make_optimizer
from balora_jax.training.saved_checkpoints import DamagedCheckpoint, SavedCheckpoints
from balora_jax.training.state import init_state, partition, trainable_mask


def _state(value):
    params = Params(
        adapters={"out": {"a": jnp.full((3, 1), value)}},
        base={"out": {"kernel": jnp.ones((3, 2))}},
    )
    mask = trainable_mask(params, method="lora")
    trainable, _ = partition(params, mask)
    return init_state(trainable, make_optimizer(OptimizerConfig(), 10, mask), seed=3)


@pytest.fixture
def saved(tmp_path):
    """Five checkpoints: the second is the best, the last has no score."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for step, score in [(1, -3.0), (2, -1.0), (3, -2.0), (4, -2.5), (5, None)]:
        checkpoints.save(step, _state(float(step)), {"next_index": step}, score)
    checkpoints.close()
    return Checkpoints(tmp_path / "checkpoints", keep=1)


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_the_latest_and_the_best_are_kept(saved):
    assert saved.latest() == saved.find("latest") == 5
    assert saved.find("best") == saved.find("2") == 2
    with pytest.raises(BadInput, match="no checkpoint '3'; accepted: latest, best, or of 2, 5"):
        saved.find("3")


@pytest.mark.parametrize("step", [2, 5])
def test_a_checkpoint_restores_the_saved_state(saved, step):
    state, position = saved.restore(_state(0.0), step)
    assert position.step == step and position.data == {"next_index": step}
    jax.tree.map(np.testing.assert_array_equal, state, _state(float(step)))


def test_without_a_score_there_is_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, _state(1.0), {}, None)
    checkpoints.close()
    with pytest.raises(
        BadInput, match=r"no checkpoint with a held-out score.*accepted: latest, or"
    ):
        SavedCheckpoints(tmp_path / "checkpoints").find("best")


def test_a_checkpoint_without_a_score_logs_nothing(tmp_path, caplog):
    """Also from Python, where nothing else silences orbax's log."""
    caplog.set_level(logging.WARNING, logger="absl")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, _state(1.0), {}, None)
    checkpoints.close()
    assert [record.getMessage() for record in caplog.records] == []


def test_initial_adapters_are_saved_and_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    start = {"out": {"a": jnp.arange(6.0).reshape(3, 2)}}
    assert checkpoints.restore_initial(start) is None
    assert checkpoints.restore_initial(None) is None
    checkpoints.save_initial(start)
    np.testing.assert_array_equal(checkpoints.restore_initial(start)["out"]["a"], start["out"]["a"])


def _written(tmp_path, steps=(1, 2)):
    """A folder of whole checkpoints and adapters of step 0."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=len(steps))
    checkpoints.save_initial({"out": {"a": jnp.arange(6.0).reshape(3, 2)}})
    for step in steps:
        checkpoints.save(step, _state(float(step)), {"next_index": step}, float(step))
    checkpoints.close()
    return folder


def test_every_checkpoint_has_checksums_of_all_its_files(tmp_path):
    folder = _written(tmp_path)
    for part in (folder / "1", folder / "2", folder / "initial" / "adapters"):
        check = check_checksums(part)
        assert check.checked and check.fault is None
        listed = {line.split("  ")[1] for line in (part / CHECKSUMS).read_text().splitlines()[2:]}
        listed |= {(part / CHECKSUMS).read_text().splitlines()[1].partition("  ")[2]} - {""}
        files = {str(path.relative_to(part)) for path in _files(part)}
        assert files == listed | {CHECKSUMS}


@pytest.mark.parametrize("seed", range(40))
def test_every_flipped_bit_is_found(tmp_path, seed):
    folder = _written(tmp_path)
    random_ = random.Random(seed)
    path = random_.choice([path for path in _files(folder) if path.stat().st_size])
    _flip(path, random_.randrange(path.stat().st_size * 8))
    checkpoints = Checkpoints(folder, keep=2)
    restored = checkpoints.restore_initial({"out": {"a": jnp.zeros((3, 2))}})
    state, position = checkpoints.restore_latest(_state(0.0))
    assert checkpoints.notices
    jax.tree.map(np.testing.assert_array_equal, state, _state(float(position.step)))
    if restored is not None:
        np.testing.assert_array_equal(restored["out"]["a"], jnp.arange(6.0).reshape(3, 2))


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: path.write_bytes(b"\x00\xff" * 50),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, damage):
    whole = _written(tmp_path)
    files = [path.relative_to(whole) for path in _files(whole / "2")]
    for file in files:
        folder = tmp_path / "copy" / "checkpoints"
        shutil.copytree(whole, folder)
        if damage == "cut" and not (folder / file).stat().st_size:
            continue
        DAMAGE[damage](folder / file)
        if file.name == CHECKSUMS:
            expected = 2
            reader = SavedCheckpoints(folder)
            reader.restore_named(_state(0.0), "latest")
            assert bool(reader.notices) == (damage != "deleted")
        else:
            expected = 1
            reader = SavedCheckpoints(folder)
            with pytest.raises(DamagedCheckpoint, match=file.name):
                reader.restore(_state(0.0), 2)
            state, position = reader.restore_named(_state(0.0), "latest")
            assert position.step == 1 and "step 2 is left out" in reader.notices[0]
        checkpoints = Checkpoints(folder, keep=2)
        state, position = checkpoints.restore_latest(_state(0.0))
        assert position.step == expected and "step 2" in checkpoints.notices[0]
        jax.tree.map(np.testing.assert_array_equal, state, _state(float(expected)))
        if expected == 1:
            assert (folder.parent / "damaged" / "checkpoint-2").is_dir()
            checkpoints.save(2, _state(2.0), {"next_index": 2}, None)
        checkpoints.close()
        shutil.rmtree(folder.parent)


def test_without_a_whole_checkpoint_there_is_one_sentence_and_nothing_moves(tmp_path):
    folder = _written(tmp_path)
    for step in (1, 2):
        (folder / str(step) / "data" / "metadata").write_text("")
    with pytest.raises(BadInput, match=r"no whole checkpoint .*1: data/metadata has changed.*2: "):
        Checkpoints(folder, keep=2)
    assert SavedCheckpoints(folder).steps() == [1, 2]


def test_checkpoints_without_checksums_are_used(tmp_path):
    folder = _written(tmp_path)
    for path in folder.rglob(CHECKSUMS):
        path.unlink()
    checkpoints = Checkpoints(folder, keep=2)
    _, position = checkpoints.restore_latest(_state(0.0))
    assert position.step == 2 and not checkpoints.notices
    for path in _files(folder / "2" / "state"):
        path.write_bytes(b"")
    _, position = checkpoints.restore_latest(_state(0.0))
    assert position.step == 1 and "step 2 is not used" in checkpoints.notices[0]


def test_damaged_adapters_of_step_0_are_compared_with_those_made_again(tmp_path):
    folder = _written(tmp_path)
    like = {"out": {"a": jnp.arange(6.0).reshape(3, 2)}}
    data = next(path for path in _files(folder / "initial") if path.parent.name == "d")
    data.write_bytes(b"")
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.restore_initial(like) is None
    with pytest.raises(BadInput, match="made in its place differs"):
        checkpoints.save_initial(jax.tree.map(lambda leaf: leaf + 1, like))
    checkpoints.save_initial(like)
    assert (folder.parent / "damaged" / "initial-adapters").is_dir()
    np.testing.assert_array_equal(checkpoints.restore_initial(like)["out"]["a"], like["out"]["a"])


def test_a_reader_beside_a_writer_disturbs_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    writer = Checkpoints(folder, keep=1)
    writer.save(1, _state(1.0), {"next_index": 1}, None)
    for step in range(2, 102):
        writer.save(step, _state(float(step)), {"next_index": step}, None)
        reader = SavedCheckpoints(folder)
        if not reader.steps():
            continue
        state, position = reader.restore_named(_state(0.0), "latest")
        jax.tree.map(np.testing.assert_array_equal, state, _state(float(position.step)))
    writer.close()
    assert writer.steps() == [101] and check_checksums(folder / "101").checked
