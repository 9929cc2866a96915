"""A disk that fills up: each phase ends with a sentence; after making room, in the right bits."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main

SIZE = 8 * 2**20
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system of 8 MB (tmpfs)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def expected(run_arguments, tmp_path_factory):
    """The folder of the same run on a disk with room."""
    folder = tmp_path_factory.mktemp("room") / "run"
    main(["train", *run_arguments(folder, "--output.merge")])
    return folder


def _fill(disk, left):
    """Leave so many bytes free."""
    status = os.statvfs(disk)
    free = status.f_bavail * status.f_frsize
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, free - left)))


# From nothing at all, through config, log, adapters of step 0 and checkpoints, to the outputs.
@pytest.mark.parametrize("left_kb", [0, 12, 96, 240, 480, 640, 800])
def test_a_full_disk_is_a_sentence_and_costs_nothing(
    small_disk, run_arguments, expected, capfd, left_kb
):
    folder = small_disk / "run"
    arguments = ["train", *run_arguments(folder, "--output.merge")]
    _fill(small_disk, left_kb * 1024)
    capfd.readouterr()
    code = 0
    try:
        main(arguments)
    except SystemExit as error:
        code = error.code
    errors = capfd.readouterr().err
    if left_kb == 0:
        assert code != 0
    if code:
        assert "Traceback" not in errors
        assert errors.splitlines()[-1].startswith("balora: ")
        assert "space" in errors.splitlines()[-1].lower()
    (small_disk / "filler").unlink()
    main([*arguments, "--output.resume"])
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        wanted = load_file(expected / name)
        actual = load_file(folder / name)
        assert wanted.keys() == actual.keys()
        for key in wanted:
            np.testing.assert_array_equal(wanted[key], actual[key])


def test_nothing_but_the_sentence_is_printed(small_disk, run_arguments):
    """Also by threads and exit handlers of libraries, which fail for the same reason."""
    arguments = run_arguments(small_disk / "run", "--training.steps", "40")
    _fill(small_disk, 200 * 1024)
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    *others, sentence = done.stderr.splitlines()
    assert sentence.startswith("balora: ") and "No space left on device" in sentence
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert not any(line.startswith("balora: ") for line in others)


# A write of tensorstore that ends after orbax has closed its event loop, in a thread.
LATE_WRITE = """
import asyncio
import contextlib
import threading

import tensorstore

from balora_jax.cli import main

with contextlib.suppress(SystemExit):
    main(["no-command"])


async def wait():
    return await future


async def give_up():
    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0.1)
    return task


promise, future = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
task = loop.run_until_complete(give_up())
loop.close()
thread = threading.Thread(target=promise.set_result, args=(1,))
thread.start()
thread.join()
"""


def test_a_write_that_ends_too_late_prints_nothing():
    done = subprocess.run(
        [sys.executable, "-c", LATE_WRITE], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    [sentence] = done.stderr.splitlines()
    assert "no-command" in sentence
