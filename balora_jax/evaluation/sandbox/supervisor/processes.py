"""The processes below this one: counted, and killed to the last."""

import contextlib
import os
import signal
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def _tasks(pid: int) -> list[str]:
    """The threads of a process; none if it has ended."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in _tasks(pid):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children += [int(word) for word in file.read().split()]
        except OSError:
            # It has ended since.
            continue
    return children


def descendants() -> list[int]:
    """The processes below this one, parents first."""
    found = _children(os.getpid())
    for pid in found:
        found += [child for child in _children(pid) if child not in found]
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def usage() -> tuple[int, int]:
    """Count the threads of all descendants, and their resident memory in bytes."""
    pids = descendants()
    threads = sum(len(_tasks(pid)) for pid in pids)
    resident = sum(_resident(pid) for pid in pids)
    return threads, resident


def _reap() -> bool:
    """Remove ended children; False if no child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def kill_all() -> None:
    """Kill all descendants.

    Those whose parents have ended become children of this process, a subreaper, so none is left
    once it has no child.
    """
    while _reap():
        found = _children(os.getpid())
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                _kill(pid)
            found += _children(pid)
        time.sleep(0.001)


def _kill(pid: int) -> None:
    """Kill a process and its group: no fork outruns one signal to all, as it does many."""
    group = os.getpgid(pid)
    # A new process has not left that of the supervisor yet.
    if group != os.getpgrp():
        os.killpg(group, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
