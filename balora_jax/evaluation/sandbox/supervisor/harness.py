"""Runs the program on standard input in this process, and tells the supervisor on descriptor 3.

The supervisor has left a random word in descriptor 3. It is read only after the program ran
through, and written back: a program that ends early, or prints whatever it likes, does not pass.
The text of this module is handed to an interpreter; it imports the standard library only.
"""

import os
import sys
import types
from typing import NoReturn


def _describe(error: BaseException) -> str:
    """The exception on one line, with the last line of the program that it went through."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            place = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    message = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {message}".rstrip(": ")[:250] + place


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    # EFBIG and ENOSPC: a limit on files.
    if isinstance(error, OSError) and error.errno in (27, 28):
        return "too much output"
    return "failed"


def _run() -> NoReturn:
    # Bound here before the program can replace them.
    read = os.read
    write = os.write
    leave = os._exit
    number = os.getpid
    any_exception = BaseException
    process = number()
    source = sys.stdin.buffer.read()
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.set_inheritable(3, False)
    sys.argv = ["program.py"]
    module = sys.modules["program"] = types.ModuleType("program")
    try:
        text = source.decode("utf-8", "surrogatepass")
        exec(compile(text, "program.py", "exec", dont_inherit=True), module.__dict__)
    except any_exception as error:
        if number() == process:
            write(3, f"{_kind(error)}\n{_describe(error)}".encode("utf-8", "replace"))
        leave(1)
    # A copy of the process, made by fork, tells nothing.
    if number() == process:
        write(3, read(3, 64))
    leave(0)


if __name__ == "__main__":
    _run()
