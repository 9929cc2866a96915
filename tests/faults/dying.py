"""Run a command of balora and die, as by kill -9, at one of its changes of files.

    python tests/faults/dying.py NUMBER train --config ...

NUMBER is the change to die at, counted from 1: a file opened for writing, renamed, removed, or a
folder made. A command that ends before, as with 0, prints the number of its changes last.
"""

import os
import signal
import sys
import threading

CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})
# A part of a second, in which the change may happen, or a part of it.
DELAY = 0.002


def main() -> None:
    """Run the command."""
    number = int(sys.argv[1])
    count = 0

    def count_changes(event: str, arguments: tuple) -> None:
        nonlocal count
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not opened and event not in CHANGES:
            return
        count += 1
        if count == number:
            # A thread and no wait, so that the change itself is on its way.
            threading.Timer(DELAY * (number % 2), os.kill, (os.getpid(), signal.SIGKILL)).start()

    # Imported before the count: a compiled module is a file too, written once.
    from balora_jax.cli import main as balora

    sys.addaudithook(count_changes)
    balora(sys.argv[2:])
    print(count)


if __name__ == "__main__":
    main()
