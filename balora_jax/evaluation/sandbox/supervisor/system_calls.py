"""System calls that programs may not make where no namespaces surround them (seccomp)."""

import ctypes
import os

from balora_jax.evaluation.sandbox.supervisor import kernel

# The numbers of setsid and setpgid, by which processes leave their group and with it the reach of
# one signal to all; socket; ptrace, process_vm_readv and process_vm_writev, which reach into other
# processes; io_uring_setup, which goes around the filter.
FORBIDDEN = {
    "x86_64": (112, 109, 41, 101, 310, 311, 425),
    "aarch64": (157, 154, 198, 117, 270, 271, 425),
}
# linux/audit.h
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# x86_64 has a second set of calls from here on.
SECOND_SET = 0x40000000
# linux/bpf_common.h
LOAD = 0x20
IF_EQUAL = 0x15
IF_AT_LEAST = 0x35
RETURN = 0x06
# linux/seccomp.h
ALLOW = 0x7FFF0000
NOT_PERMITTED = 0x00050001
KILL = 0x80000000
NUMBER_OFFSET = 0
ARCHITECTURE_OFFSET = 4


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("skip_if_true", ctypes.c_uint8),
        ("skip_if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.c_void_p))


def forbid() -> None:
    """Forbid the calls to this process and all that it starts, for good; no_new_privs is set.

    Raises:
      OSError: the kernel has no filters, or this processor's numbers are not known.
    """
    machine = os.uname().machine
    if machine not in FORBIDDEN:
        raise OSError(f"no filter of system calls for {machine}")
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_OFFSET),
        (IF_EQUAL, 1, 0, ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_OFFSET),
        (IF_AT_LEAST, 0, 1, SECOND_SET),
        (RETURN, 0, 0, NOT_PERMITTED),
    ]
    for number in FORBIDDEN[machine]:
        steps.append((IF_EQUAL, 0, 1, number))
        steps.append((RETURN, 0, 0, NOT_PERMITTED))
    steps.append((RETURN, 0, 0, ALLOW))
    instructions = (_Instruction * len(steps))(*steps)
    program = _Program(len(steps), ctypes.addressof(instructions))
    kernel.prctl(kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER, ctypes.addressof(program))
