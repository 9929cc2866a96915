"""Compiled programs that later starts read instead of compiling again, by jax's own cache."""

import contextlib
import hashlib
import pathlib
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from filelock import FileLock
from jax.experimental.compilation_cache import compilation_cache

from balora_jax.errors import reason_of
from balora_jax.runs.caches import cache_folder, make_private

OFF = "off"
# Bytes of the programs; those not used for longest give way.
MOST_BYTES = 4 * 2**30
# Programs that compile faster are not kept.
LEAST_SECONDS = 0.1
# As jax names its files: a program is whole once the time of its use stands beside it.
ENTRY = "-cache"
USED = "-atime"
LOCK = ".lockfile"
# Another process holds the lock while it writes a program, or for ever if it was stopped.
MOST_SECONDS = 10
# What jax warns of an entry that it cannot read: it names the program, and compiles it again.
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '(?P<name>\w+)'")
# What it warns where it cannot write one, at every program.
NOT_KEPT = re.compile(r"Error writing persistent compilation cache entry for '\w+': (?P<reason>.*)")


@contextlib.contextmanager
def compiled_programs(option: str | None, notify: Callable[[str], None]) -> Iterator[None]:
    """Keep the programs that are compiled within the context, and read those kept before.

    A program is the same, and gives the same bits, whether it was compiled or read: its file's name
    is a hash of all that it is made of, of jax's version and of the devices, and it is kept for
    processors with the same instructions. jax's settings are as before after the context.

    Args:
      option: output.compilation_cache: a folder, off, or None for the user's own choice in jax
        (JAX_COMPILATION_CACHE_DIR), and else the folder `compiled` of the user's caches.
      notify: called with a sentence if the folder cannot be used, or a program there is damaged.
    """
    if option is None and jax.config.jax_compilation_cache_dir:
        yield
        return
    if option == OFF:
        with _settings({"jax_enable_compilation_cache": False}):
            yield
        return
    try:
        folder = _folder(option)
        make_private(folder)
        _remove_halves(folder)
    except OSError as error:
        notify(
            f"compiled programs are not kept: {reason_of(error)}; BALORA_CACHE, or of a run "
            "output.compilation_cache, names another folder"
        )
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": MOST_BYTES,
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    with _settings(settings), _replacing_damaged(folder, notify):
        yield


def _folder(option: str | None) -> pathlib.Path:
    """The folder for this machine's processor."""
    if option is None:
        folder = cache_folder("compiled")
    else:
        folder = pathlib.Path(option).expanduser().absolute()
    return folder / _processor()


def _processor() -> str:
    """A name of the processor's instructions: programs use all that it has.

    A home folder may be shared by machines of several kinds.
    """
    described = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        described += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"


def _remove_halves(folder: pathlib.Path) -> None:
    """Remove programs that a killed process was writing."""
    with FileLock(folder / LOCK, timeout=MOST_SECONDS):
        for entry in folder.glob(f"*{ENTRY}"):
            used = entry.with_name(f"{entry.name.removesuffix(ENTRY)}{USED}")
            if not used.is_file() or not used.stat().st_size:
                entry.unlink()
                used.unlink(missing_ok=True)


@contextlib.contextmanager
def _settings(values: dict[str, Any]) -> Iterator[None]:
    """Set jax's settings, and put them back."""
    before = {name: getattr(jax.config, name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    # jax looks at its settings once.
    compilation_cache.reset_cache()


@contextlib.contextmanager
def _replacing_damaged(folder: pathlib.Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Delete a program that jax cannot read, so that jax keeps the one that it compiles instead."""
    show = warnings.showwarning
    reasons: set[str] = set()

    def delete_or_show(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if not_kept := NOT_KEPT.match(str(message)):
            if not reasons:
                notify(f"compiled programs are not kept in {folder}: {not_kept['reason']}")
            reasons.add(not_kept["reason"])
            return
        found = DAMAGED.match(str(message))
        if found is None:
            show(message, *arguments, **options)
            return
        for entry in folder.glob(f"{found['name']}-*{ENTRY}"):
            entry.unlink(missing_ok=True)
        notify(f"a compiled program in {folder} is damaged ({found['name']}): it is made again")

    warnings.showwarning = delete_or_show
    try:
        yield
    finally:
        warnings.showwarning = show
