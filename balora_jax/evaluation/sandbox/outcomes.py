"""The limits on a program in the sandbox, and the outcome of one."""

import dataclasses
import math
from typing import Literal

from balora_jax.errors import BadInput, shown

Status = Literal[
    "passed",
    "failed",
    "timed out",
    "out of memory",
    "too much output",
    "too many processes",
    "sandbox failed",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on one program.

    Attributes:
      seconds: wall time from the start of its interpreter to its end.
      cpu_seconds: processor time of each of its processes.
      memory_bytes: address space of each process, and resident memory of all together.
      processes: processes and threads at one time, its first included.
      output_bytes: bytes to standard output and standard error together.
      folder_bytes: size of its folder, and of each file.
      files: files and folders in its folder.
      open_files: file descriptors of each process.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 2**30
    processes: int = 32
    output_bytes: int = 2**20
    folder_bytes: int = 2**25
    files: int = 1000
    open_files: int = 64

    def __post_init__(self) -> None:
        """Check that all limits are positive.

        Raises:
          BadInput: a limit is not.
        """
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < math.inf:
                raise BadInput(
                    f"the sandbox's limit {name} is {shown(value)}; accepted: a positive number"
                )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of one program.

    Attributes:
      status: "passed" if it ran through to its last line without an exception; "sandbox failed"
        says nothing about the program.
      detail: a line of at most 300 characters: the exception, the signal, or the limit.
    """

    status: Status
    detail: str = ""
