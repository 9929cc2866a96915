"""The ends of a command: a sentence on the error stream and an exit code, whatever happens."""

import errno
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from balora_jax.errors import (
    BadInput,
    Diverged,
    OutputError,
    is_out_of_device_memory,
    reason_of,
    shown,
)

# The system refused to write: no space, no quota, too large, read only, or the device fails.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
# A path leads where nothing can be read or written: no permission, a folder for a file, and so on.
PATH_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
)
# jax's exceptions where another process of a run has ended or does not answer.
LOST = re.compile(
    r"JaxRuntimeError.*(connection|connect|peer|closed|timed out|timeout|deadline|unavailable)",
    re.IGNORECASE | re.DOTALL,
)
# Seconds that process 0 of a run on several hosts lets the others end by themselves.
GRACE = 2
INTERRUPTED = 130
# As after SIGPIPE: nobody reads the output any more.
UNREAD = 141


def run_to_its_end(run: Callable[[], None]) -> None:
    """Run a command, and end the process if it fails.

    The exit code is 2 for bad input and for a loss that is not finite, 130 for Ctrl-C, 141 where
    nobody reads the output, and 1 for everything else that fails.

    Args:
      run: the command.

    Raises:
      SystemExit: with the exit code, unless the command succeeds.
    """
    try:
        try:
            run()
        finally:
            # Else what cannot be printed is only found after the end.
            flush_output()
    except (BadInput, Diverged) as error:
        _end(2, str(error))
    except OutputError as error:
        _end(1, str(error))
    except KeyboardInterrupt:
        # During training Ctrl-C is a request to save and stop; this is before or after it.
        _end(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        _discard_output()
        _leave(UNREAD)
    except MemoryError:
        _end(1, _memory_sentence("this machine's memory"))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename:
            _end(2, _path_sentence(error))
        _end(1, _failure(error))


def _end(code: int, sentence: str) -> None:
    """Print a sentence as one line on the error stream, and exit."""
    line = " ".join(sentence.split())
    # Half of a character in UTF-16, from a file's name or a JSON text, cannot be printed.
    printable = line.encode("utf-8", "backslashreplace").decode("utf-8")
    print(f"balora: {printable}", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit; one of several processes does not wait for the others, which may wait for it."""
    processes = _joined()
    if processes is not None:
        sys.stderr.flush()
        if processes.is_first():
            # jax aborts the others once process 0 is gone, and they may be about to say the same.
            time.sleep(GRACE)
        os._exit(code)
    sys.exit(code)


def _joined() -> ModuleType | None:
    """The module of processes in one that has joined those of other hosts; None elsewhere."""
    processes = sys.modules.get("balora_jax.training.processes")
    return processes if processes is not None and processes.are_joined() else None


def flush_output() -> None:
    """Write what has been printed.

    Raises:
      OutputError: standard output cannot be written.
      BrokenPipeError: nobody reads it.
    """
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise OutputError(
            f"standard output could not be written ({error.strerror}); repeat the command with "
            "an output that can be written"
        ) from error


def _discard_output() -> None:
    """Send the rest of standard output nowhere, so that Python's end cannot fail to write it."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        # A stream within this process.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _failure(error: Exception) -> str:
    """The sentence for an exception that is no fault of the input."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        _silence_libraries()
        return _disk_sentence(error)
    if is_out_of_device_memory(error):
        return _memory_sentence("the device's memory")
    if _joined() is not None and LOST.search(f"{type(error).__name__} {error}"):
        return (
            "another process has ended, or does not answer, and what it printed says "
            f"why ({reason_of(error)}); the same command starts again, and --output.resume goes on "
            "from a run's last checkpoint, if there is one"
        )
    return _fault_sentence(error)


def print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an exception that nothing can catch, but for those of writes that were given up.

    When one of orbax's writes fails, its event loop is closed. Tensorstore's threads then cannot
    report the others to it, while the first failure is raised to `main`.
    """
    error = unraisable.exc_value
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return
    sys.__unraisablehook__(unraisable)


def _silence_libraries() -> None:
    """Let threads and exit handlers that fail for a reason that was said print no traceback."""
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None


def _disk_sentence(error: OSError) -> str:
    """The sentence on a file that could not be written, and on how to go on."""
    name = f"{error.filename} " if error.filename else "a file "
    if error.errno == errno.EIO:
        return (
            f"{name}could not be read or written ({error.strerror}): the disk or its connection "
            "fails; --output.resume goes on from a run's checkpoint that is whole"
        )
    if error.errno == errno.EROFS:
        return f"{name}could not be written ({error.strerror}); name a folder that can, by --out"
    return (
        f"{name}could not be written ({error.strerror}); make room and repeat the command: "
        "what was whole before still is, and --output.resume goes on from a run's checkpoint"
    )


def _path_sentence(error: OSError) -> str:
    """The sentence on a path that nothing could check before it was used."""
    name = shown(os.fsdecode(error.filename))
    return (
        f"{name} cannot be read or written ({error.strerror}); accepted: files and folders that "
        "are this user's to read and write"
    )


def _memory_sentence(memory: str) -> str:
    return (
        f"{memory} is full; reduce training.batch_size (or raise training.accumulation), "
        "data.max_length or the size of the model, or set training.remat full; for generate, "
        "reduce --batch_size or --max_new_tokens; for evaluate and audit, reduce --batch_tokens; "
        "--output.resume goes on from a run's checkpoint"
    )


def _fault_sentence(error: Exception) -> str:
    """The sentence for an exception that nothing expects, and where its traceback is."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            prefix="balora-traceback-",
            suffix=".txt",
            delete=False,
        ) as file:
            file.write(text)
        place = f"in {file.name}"
    except OSError:
        print(text, file=sys.stderr)
        place = "above"
    return (
        f"this is a fault of balora itself ({reason_of(error)}); the traceback is {place}, "
        "please report it"
    )
