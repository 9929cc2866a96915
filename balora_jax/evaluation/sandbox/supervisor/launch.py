"""The way from a fork of the supervisor to the program, on which rights are given up."""

import os
import pathlib
import resource
import signal
from typing import Any, NoReturn

from balora_jax.evaluation.sandbox.supervisor import kernel, namespaces, system_calls

CHANNEL = 3
IN_NAMESPACE = b"?"
USERS_MAPPED = b"!"
# Of a program that ended with an exception.
REPORTED = ("failed", "out of memory", "too much output")
# Exit code of a process that never came as far as the program.
NOT_LAUNCHED = 125
HARNESS = pathlib.Path(__file__).with_name("harness.py").read_text()


def launch(request: dict[str, Any], user: int | None, channel: int, output: int) -> NoReturn:
    """Become the program; never returns.

    Args:
      request: as the supervisor received it.
      user: the number of the user and group to become, or None to stay the same.
      channel: the socket to the supervisor.
      output: where standard output and standard error go.
    """
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(channel, CHANNEL)
        os.closerange(CHANNEL + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        folder = _enter(request, user)
        _limit(request["limits"], request["level"])
        _drop_rights(user)
        if request["level"] != "namespaces":
            system_calls.forbid()
        _start(request["python"], folder)
    except BaseException as error:
        os.write(CHANNEL, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(NOT_LAUNCHED)


def _enter(request: dict[str, Any], user: int | None) -> str:
    """Enter the program's folder and return its path."""
    if request["level"] == "namespaces":
        # The supervisor writes files of this process in /proc.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.unshare(namespaces.ALL)
        os.write(CHANNEL, IN_NAMESPACE)
        os.read(CHANNEL, len(USERS_MAPPED))
        namespaces.show_only(request["visible"], request["folder"], request["limits"])
        namespaces.become_first_process()
        return "/work"
    folder = f"{request['folder']}/work"
    os.mkdir(folder, 0o700)
    if user is not None:
        os.chmod(request["folder"], 0o711)
        os.chown(folder, user, user)
    os.chdir(folder)
    return folder


def _limit(limits: dict[str, Any], level: str) -> None:
    """Set the kernel's limits on this process and its children.

    Processes are counted by user. In namespaces, and as another user, the program's are the only
    ones; otherwise those of the whole machine are the upper bound of what this user has already.
    On root the limit has no effect: the supervisor counts.
    """
    processes = limits["processes"]
    if level == "namespaces":
        processes += namespaces.WAITING
    if level == "same user":
        with open("/proc/loadavg") as file:
            processes += int(file.read().split()[3].split("/")[1])
    values = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_FSIZE: limits["folder_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in values.items():
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        # A second between both: the first is a signal that ends a program, the second one kills.
        hard = value + 1 if kind == resource.RLIMIT_CPU else value
        resource.setrlimit(kind, (value, hard))


def _drop_rights(user: int | None) -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS)
    if user is not None:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kernel.drop_capabilities()
    # Cleared when the user changed.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(python: str, folder: str) -> NoReturn:
    """Replace this process by an interpreter that runs the harness.

    As isolated as by -I: the environment is this one alone. The seed makes the order of sets, and
    with it the outcome, the same each time.
    """
    environment = {"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0"}
    os.set_inheritable(CHANNEL, True)
    flags = ["-s", "-P", "-S", "-B", "-X", "utf8"]
    os.execve(python, [python, *flags, "-c", HARNESS], environment)
