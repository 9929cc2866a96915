"""Namespaces of the kernel around a program: network, processes, files, users, messages."""

import os
import stat
from collections.abc import Sequence
from typing import NoReturn

from balora_jax.evaluation.sandbox.supervisor import kernel

ALL = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)

# Processes that wait for the program's to end.
WAITING = 2


def map_users(pid: int, users: Sequence[int], groups: Sequence[int]) -> None:
    """Make users and groups of this namespace exist in that of another process.

    Args:
      pid: the process, in a new user namespace.
      users: the users, who keep their numbers.
      groups: the groups, which keep theirs.
    """
    texts = {"setgroups": "deny", "uid_map": _same(users), "gid_map": _same(groups)}
    for name, text in texts.items():
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _same(numbers: Sequence[int]) -> str:
    return "".join(f"{number} {number} 1\n" for number in numbers)


def show_only(visible: Sequence[str], folder: str, limits: dict[str, int]) -> None:
    """Replace the file system by a few folders, read only, and an empty one; enter that.

    Args:
      visible: folders and files; those that do not exist are left out.
      folder: an empty folder on which the new root is mounted.
      limits: the limits on files.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("none", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    root = f"{folder}/root"
    os.makedirs(f"{root}/work")
    for path in visible:
        if os.path.lexists(path) and not os.path.lexists(root + path):
            _show(path, root + path)
    kernel.make_read_only(folder)
    # The folder itself counts as a file.
    size = f"size={limits['folder_bytes']},nr_inodes={limits['files'] + 1},mode=777"
    kernel.mount("none", f"{root}/work", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
    kernel.change_root(folder)
    # Below another root the kernel lets no process create user namespaces.
    os.chroot("/root")
    os.chdir("/work")


def _show(path: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if stat.S_ISDIR(os.stat(path).st_mode):
        os.mkdir(target)
    else:
        open(target, "x").close()
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)


def become_first_process() -> None:
    """Fork twice: the new namespace's first process, and the program's, which alone returns.

    This process and the first one wait, and end with the exit code of the one below. When the
    first process ends, the kernel kills all others of the namespace.
    """
    child = os.fork()
    if child:
        _end_with(child)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    child = os.fork()
    if child:
        _end_with(child)


def _end_with(child: int) -> NoReturn:
    os.closerange(0, 4)
    pid = None
    while pid != child:
        pid, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
