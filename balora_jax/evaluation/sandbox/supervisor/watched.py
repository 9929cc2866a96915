"""A program that runs below this process: its output is counted, its verdict is received."""

import contextlib
import os
import select
import socket
from typing import Any

from balora_jax.evaluation.sandbox.supervisor import launch, namespaces

# No user has these numbers; the program of each supervisor gets one.
FIRST_USER = 2_000_000_000
LONGEST_VERDICT = 2000
# Longer than the way from a program's last output to its end.
SOON = 0.002


class Watched:
    """A program that runs.

    Attributes:
      pid: the child of this process that is the program or ends with its exit code.
      written: bytes that it wrote to standard output and standard error.
      verdict: bytes that its harness sent.
      word: what the harness sends if the program ran through.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Fork; the child becomes the program.

        Args:
          request: the level, the limits, the folder, and the interpreter.
        """
        user = _new_user(request["level"])
        self._channel, theirs = socket.socketpair()
        self._output, output = os.pipe()
        self.written = 0
        self.verdict = b""
        self.pid = os.fork()
        if self.pid == 0:
            launch.launch(request, user, theirs.fileno(), output)
        theirs.close()
        os.close(output)
        self._open: list[Any] = [self._channel, self._output]
        self._die_first()
        if request["level"] == "namespaces":
            self._map_users(user)
        # Made after the fork: it is in no memory of the program's ancestors but this one.
        self.word = os.urandom(16).hex().encode()
        with contextlib.suppress(BrokenPipeError):
            self._channel.send(self.word)

    def _die_first(self) -> None:
        """Have the kernel kill the program before others when memory runs out."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
            file.write("1000")

    def _map_users(self, user: int | None) -> None:
        first = self._channel.recv(1)
        if first != launch.IN_NAMESPACE:
            # The beginning of a message that says why not.
            self.verdict = first
            return
        added = [] if user is None else [user]
        namespaces.map_users(self.pid, [os.getuid(), *added], [os.getgid(), *added])
        self._channel.send(launch.USERS_MAPPED)

    @property
    def is_open(self) -> bool:
        """True while more may be received."""
        return bool(self._open)

    def listen(self, seconds: float) -> None:
        """Wait for output or a verdict, and take it in.

        Args:
          seconds: the longest time to wait.
        """
        readable, _, _ = select.select(self._open, [], [], seconds if self._open else SOON)
        if self._output in readable:
            data = os.read(self._output, 2**16)
            self.written += len(data)
            if not data:
                self._open.remove(self._output)
        if self._channel in readable:
            data = _receive(self._channel)
            self.verdict += data
            if not data or len(self.verdict) > LONGEST_VERDICT:
                self._open.remove(self._channel)

    def exit_code(self) -> int | None:
        """Return the exit code, 128 more than the signal that ended it, or None if it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(LONGEST_VERDICT)
    except ConnectionResetError:
        # Ended before it read the word.
        return b""


def _new_user(level: str) -> int | None:
    """The number of a user for this program alone; None if this process cannot change its own."""
    if level == "other user" and os.getuid() != 0:
        raise PermissionError("only root can become another user")
    if level == "same user" or os.getuid() != 0:
        return None
    os.setgroups([])
    return FIRST_USER + os.getpid()
