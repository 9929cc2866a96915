"""Compiled programs that are kept: where, what is read again, and folders that cannot be used."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from filelock import FileLock

from balora_jax.cli import main
from balora_jax.runs import caches
from balora_jax.runs import compiled_programs as programs
from balora_jax.runs.compiled_programs import compiled_programs

# Compiles a program under the folder named, and prints where its result comes from and its bits.
SCRIPT = """
import sys
import jax, jax.numpy as jnp
from balora_jax.runs import compiled_programs as programs
programs.LEAST_SECONDS = 0.0
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[-1]))
x = jax.random.normal(jax.random.key(0), (64, 64))
def program(x):
    return jnp.linalg.svd(jax.nn.softmax(x @ x.T))[1]
with programs.compiled_programs(sys.argv[1], lambda sentence: print("note:", sentence)):
    events.clear()
    values = jax.jit(program)(x)
print("cache_hits" in events, "cache_misses" in events)
print(bytes(memoryview(values)).hex())
"""


@pytest.fixture
def own_place(tmp_path, monkeypatch):
    """A cache folder of this test alone, with no choice of jax's."""
    monkeypatch.setenv("BALORA_CACHE", str(tmp_path / "caches"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "caches"
    jax.config.update("jax_compilation_cache_dir", before)


def run_script(folder) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert "Error reading" not in done.stderr
    return done.stdout.splitlines()


def entry_of(folder) -> pathlib.Path:
    return next(folder.rglob("jit_program-*-cache"))


def test_a_program_is_read_again_with_the_same_bits(tmp_path):
    assert run_script("off")[0] == "False False"
    fresh = run_script(tmp_path)
    assert fresh[0] == "False True"
    warm = run_script(tmp_path)
    assert warm[0] == "True False"
    assert warm[1] == fresh[1] == run_script("off")[1]


def test_a_damaged_program_is_made_again_and_said(tmp_path):
    fresh = run_script(tmp_path)
    entry = entry_of(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    note, counts, bits = run_script(tmp_path)
    assert note.startswith("note: a compiled program in ")
    assert note.endswith("is damaged (jit_program): it is made again")
    assert (counts, bits) == ("False True", fresh[1])
    assert run_script(tmp_path) == ["True False", fresh[1]]


def test_half_a_program_of_a_killed_process_is_not_found(tmp_path):
    fresh = run_script(tmp_path)
    entry = entry_of(tmp_path)
    entry.write_bytes(entry.read_bytes()[:100])
    entry.with_name(entry.name.removesuffix("-cache") + "-atime").unlink()
    assert run_script(tmp_path) == ["False True", fresh[1]]
    assert run_script(tmp_path) == ["True False", fresh[1]]


def test_settings_are_put_back(own_place):
    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    before = [getattr(jax.config, name) for name in names]
    with compiled_programs(None, pytest.fail):
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
        assert folder.parent == own_place / "compiled"
        assert folder.stat().st_mode & 0o077 == 0
    assert [getattr(jax.config, name) for name in names] == before


def test_the_users_choice_in_jax_stays(own_place, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    with compiled_programs(None, pytest.fail):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "chosen")
    assert not own_place.exists()
    with compiled_programs(str(tmp_path / "option"), pytest.fail):
        assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path / "option"))


def test_off_keeps_nothing(own_place):
    with compiled_programs("off", pytest.fail):
        assert not jax.config.jax_enable_compilation_cache
    assert not own_place.exists()


def test_a_folder_that_cannot_be_made_is_said_once(own_place, tmp_path):
    (tmp_path / "file").write_text("")
    notes = []
    with compiled_programs(str(tmp_path / "file" / "programs"), notes.append):
        assert jax.config.jax_compilation_cache_dir is None
        np.testing.assert_array_equal(jax.jit(lambda x: x + 1)(np.arange(2)), [1, 2])
    assert len(notes) == 1
    assert notes[0].endswith(
        "BALORA_CACHE, or of a run output.compilation_cache, names another folder"
    )


def test_a_lock_that_another_process_keeps_is_not_waited_for(own_place, monkeypatch):
    monkeypatch.setattr(programs, "MOST_SECONDS", 0.1)
    with compiled_programs(None, pytest.fail):
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    notes = []
    with FileLock(folder / programs.LOCK), compiled_programs(None, notes.append):
        assert jax.config.jax_compilation_cache_dir is None
    assert len(notes) == 1 and ".lockfile" in notes[0]


def test_programs_that_cannot_be_written_are_said_once(own_place):
    """As jax warns of each where the disk is full."""
    warned = "Error writing persistent compilation cache entry for 'jit_{}': OSError: [Errno 28] no"
    notes = []
    with compiled_programs(None, notes.append):
        folder = jax.config.jax_compilation_cache_dir
        for name in ("step", "prefill"):
            warnings.warn(warned.format(name), stacklevel=1)
    assert notes == [f"compiled programs are not kept in {folder}: OSError: [Errno 28] no"]


def test_the_place_of_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("BALORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches.cache_folder("tokens") == tmp_path / "balora_jax" / "tokens"
    # Relative ones are to be ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = tmp_path / "home" / ".cache" / "balora_jax" / "tokens"
    assert caches.cache_folder("tokens") == expected
    monkeypatch.setenv("BALORA_CACHE", "~/other")
    assert caches.cache_folder("tokens") == tmp_path / "home" / "other" / "tokens"


def test_the_entries_used_last_stay(tmp_path):
    for number, name in enumerate(("old", "older", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.bin").write_bytes(bytes(100))
        os.utime(tmp_path / name, (0, [2, 1, 3][number]))
    caches.discard_oldest(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}
    caches.discard_oldest(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_commands_keep_programs_too(own_place, monkeypatch, tiny_llama, capsys):
    monkeypatch.setattr(programs, "LEAST_SECONDS", 0.0)
    jax.clear_caches()
    main(["generate", "--model", str(tiny_llama), "--prompt", "1+2=", "--max_new_tokens", "3"])
    first = capsys.readouterr().out
    kept = {path.name: path.read_bytes() for path in own_place.rglob("*-cache")}
    assert kept
    jax.clear_caches()
    main(["generate", "--model", str(tiny_llama), "--prompt", "1+2=", "--max_new_tokens", "3"])
    assert capsys.readouterr().out == first
    assert {path.name for path in own_place.rglob("*-cache")} == set(kept)
