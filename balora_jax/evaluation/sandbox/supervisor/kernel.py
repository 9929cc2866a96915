"""Calls to the Linux kernel that Python's standard library does not offer."""

import ctypes
import os
from typing import Any

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# linux/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
# The same number on all processors but Alpha.
MOUNT_SETATTR = 442
# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
# linux/capability.h
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move this process to new namespaces."""
    _call("unshare", ctypes.c_int(flags))


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, options: str = ""
) -> None:
    """Mount a file system, or a folder or file at a second place.

    Args:
      source: the folder or file.
      target: the place.
      kind: the kind of file system; None for a folder or file.
      flags: those of mount(2).
      options: those of the file system.
    """
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), options.encode())


def make_read_only(folder: str) -> None:
    """Make a mount and all mounts below it read only, and their setuid bits void."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    _call(
        "syscall",
        ctypes.c_long(MOUNT_SETATTR),
        ctypes.c_long(AT_FDCWD),
        os.fsencode(folder),
        ctypes.c_long(AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def change_root(folder: str) -> None:
    """Make a mount the root of the file system, and the old root disappear."""
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    # Both roots lie at one place now, the old one above.
    _call("umount2", b".", ctypes.c_int(MNT_DETACH))
    os.chdir("/")


def prctl(option: int, value: int = 1, address: int = 0) -> None:
    """Set a property of this process."""
    _call("prctl", ctypes.c_int(option), *(ctypes.c_ulong(n) for n in (value, address, 0, 0)))


def drop_capabilities() -> None:
    """Give up all capabilities, also those that a program started later would have."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(CAPABILITIES):
        # Refused for numbers that the kernel does not know, and where there is none to drop.
        _libc.prctl(ctypes.c_int(PR_CAPBSET_DROP), ctypes.c_ulong(capability), 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), ctypes.byref(nothing))
