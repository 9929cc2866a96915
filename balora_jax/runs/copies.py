"""The copies of run folders in buckets: that of a run that writes, those of commands that read."""

import contextlib
import glob
import hashlib
import os
import pathlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax

from balora_jax.config.addresses import is_address
from balora_jax.errors import BadInput
from balora_jax.runs.caches import cache_folder, make_private
from balora_jax.training.bucket import Bucket, opened
from balora_jax.training.processes import is_first, require_same, together
from balora_jax.training.replacing import is_running
from balora_jax.training.run_folder import CONFIG, RunFolder
from balora_jax.training.run_lock import RunLock

# In the folder of caches.
CACHE = "runs"
READING = "reading-"


@contextlib.contextmanager
def writing(run: str, say: Callable[[str], None]) -> Iterator[RunLock]:
    """Lock the folder of a run; copy one in a bucket first, and send what is left at the end.

    The copy is deleted after all has been sent. Each process of a run has its own: hosts need not
    share a disk.

    Args:
      run: output.dir.
      say: gets a sentence before much is copied or sent.

    Yields:
      The lock.

    Raises:
      BadInput: the bucket cannot be read or written, or another process writes the folder or copy.
      OutputError: what was left could not be sent.
    """
    if not is_address(run):
        with RunLock(RunFolder(run).path) as lock:
            yield lock
        return
    name = hashlib.sha256(run.rstrip("/").encode()).hexdigest()[:16]
    if not is_first():
        name += f"-process-{jax.process_index()}"
    copy = _private_folder() / name
    bucket = Bucket(run, copy)
    with RunLock(copy) as lock, opened(bucket):
        lock.acquire()
        try:
            with together(f"a process of the run cannot use {run}"):
                if is_first():
                    bucket.check()
                bucket.fetch(say)
            require_same({f"files in {run}": sorted(bucket.versions.items())})
            yield lock
        finally:
            if is_first():
                bucket.push(say)
            # All is in the bucket; else `push` has failed.
            shutil.rmtree(copy, ignore_errors=True)


@contextlib.contextmanager
def reading(*runs: str | None) -> Iterator[None]:
    """Copy the runs that are in buckets to this host, and send back what the command adds there.

    Args:
      *runs: paths, which are used where they are, addresses, or None.

    Raises:
      BadInput: a bucket cannot be read, or holds no run.
      OutputError: what the command added could not be sent.
    """
    addresses = [run for run in runs if run is not None and is_address(run)]
    with contextlib.ExitStack() as closing:
        buckets = [closing.enter_context(_read(address)) for address in addresses]
        yield
        for bucket in buckets:
            bucket.add()


@contextlib.contextmanager
def _read(address: str) -> Iterator[Bucket]:
    folder = _private_folder()
    mine = f"{READING}{socket.gethostname()}-"
    _clear_up(folder, mine)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{mine}{os.getpid()}-") as own:
        # Named like the run, because pages and cards are.
        bucket = Bucket(address, pathlib.Path(own) / address.rstrip("/").rpartition("/")[2])
        with together(f"a process cannot read {address}"):
            bucket.fetch(lambda sentence: print(sentence, file=sys.stderr))
        require_same({f"files in {address}": sorted(bucket.versions.items())})
        if not (bucket.copy / CONFIG).is_file():
            raise BadInput(
                f"--run {address[:200]} is no run's folder: it has no {CONFIG}; accepted: the "
                "output.dir of a run"
            )
        with opened(bucket):
            yield bucket


def _clear_up(folder: pathlib.Path, prefix: str) -> None:
    """Delete the copies of commands of this host that were killed."""
    for copy in folder.glob(f"{glob.escape(prefix)}*"):
        if not is_running(copy.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(copy, ignore_errors=True)


def _private_folder() -> pathlib.Path:
    """The folder of copies, which is made."""
    try:
        folder = cache_folder(CACHE)
        make_private(folder)
    except OSError as error:
        raise BadInput(
            f"there is no folder for copies of runs in buckets ({error}); accepted: BALORA_CACHE, "
            "the path of a folder that can be written to"
        ) from error
    return folder
