"""The time of one training step: by kind of operation, and by place in the model.

    python -m benchmarks.profile [--form lora] [--model small] [--batch 4] [--length 256]
        [--rank 32]

Runs the step once to warm it up and then under jax's profiler, and adds up the events of each
instruction of the compiled program. Loops and calls are left out, since what they run is counted.
Several cores run at a time, so the times are of all cores together, and shares are of their sum.
Prints the kinds, and the places that take most, forward and backward.
"""

import argparse
import collections
import pathlib
import re
import tempfile
from typing import NamedTuple

import jax

from benchmarks import step_time

# Operations by the names of XLA; a fusion is a product if it holds one.
PRODUCTS = ("dot", "convolution", "custom-call")
COPIES = (
    "copy",
    "transpose",
    "concatenate",
    "pad",
    "slice",
    "dynamic-slice",
    "dynamic-update-slice",
)
# They run other instructions, which have events of their own.
CONTAINERS = ("while", "call", "conditional", "parameter", "tuple", "get-tuple-element")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?:\([^=]*?\)|\S+) (?P<operation>[\w-]+)\("
)
CALLED = re.compile(r"calls=%?(?P<name>[\w.-]+)")
OPERATION_NAME = re.compile(r'op_name="(?P<name>[^"]*)"')
# Parts of an operation's name that say nothing of its place in the model.
UNSAID = re.compile(r"while|body|closed_call|checkpoint|rematted_computation|layers|jit\(.*\)")
SHOWN = 20


class Instruction(NamedTuple):
    """An instruction of a compiled program.

    Attributes:
      kind: products, copies, or arithmetic.
      place: forward, backward or again, and the modules that it belongs to.
    """

    kind: str
    place: str


def instructions_of(program: str) -> dict[str, Instruction]:
    """Read the instructions of a compiled program that do work of their own.

    Args:
      program: from `jax.stages.Compiled.as_text`.

    Returns:
      The instructions by name.
    """
    operations: dict[str, list[str]] = collections.defaultdict(list)
    lines: dict[str, tuple[str, str]] = {}
    computation = ""
    for line in program.splitlines():
        if found := COMPUTATION.match(line):
            computation = found["name"]
        elif found := INSTRUCTION.match(line):
            operations[computation].append(found["operation"])
            lines[found["name"]] = (found["operation"], line)
    return {
        name: Instruction(_kind(operation, line, operations), _place(line))
        for name, (operation, line) in lines.items()
        if operation not in CONTAINERS
    }


def _kind(operation: str, line: str, operations: dict[str, list[str]]) -> str:
    called = CALLED.search(line)
    held = operations[called["name"]] if called else [operation]
    if any(name in PRODUCTS for name in held):
        return "products"
    if all(name in COPIES for name in held):
        return "copies"
    return "arithmetic"


def _place(line: str) -> str:
    found = OPERATION_NAME.search(line)
    name = found["name"] if found else ""
    when = "backward" if "transpose(" in name else "forward"
    when = "again" if "rematted_computation" in name else when
    modules = [part for part in name.split("/")[:-1] if not UNSAID.fullmatch(part)]
    place = "/".join(modules[-2:]) or "the update"
    # Outside of a module's method jax writes its transformations alone.
    place = re.sub(r"(transpose\()?jvp\(\)\)?", "the objective", place)
    return f"{when:8} {place}"


def seconds_by_instruction(folder: pathlib.Path, names: set[str]) -> collections.Counter[str]:
    """Add up the events of a trace, in seconds of all cores.

    Args:
      folder: that jax's profiler wrote to.
      names: of the instructions that count.
    """
    [trace] = folder.rglob("*.xplane.pb")
    seconds: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in names:
                    seconds[event.name] += event.duration_ns / 1e9
    return seconds


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--form", default="ba-lora", choices=("lora", "ba-lora"))
    step_time.add_sizes(parser)
    options = parser.parse_args()
    options.forms = [options.form]
    call = step_time.our_calls(options)[options.form]
    program = call.func.lower(*call.args).compile()
    jax.block_until_ready(program(*call.args))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*call.args))
        instructions = instructions_of(program.as_text())
        seconds = seconds_by_instruction(pathlib.Path(folder), set(instructions))
    show(instructions, seconds)


def show(instructions: dict[str, Instruction], seconds: collections.Counter[str]) -> None:
    """Print the kinds of operations, and the places that take most.

    Args:
      instructions: of the program.
      seconds: of each, over all cores.
    """
    total = seconds.total()
    kinds: collections.Counter[str] = collections.Counter()
    places: collections.Counter[Instruction] = collections.Counter()
    for name, time in seconds.items():
        kinds[instructions[name].kind] += time
        places[instructions[name]] += time
    print(f"{total:.3f} s of all cores")
    for kind, time in kinds.most_common():
        print(f"{time:8.3f} s {time / total:6.1%} {kind}")
    print()
    for (kind, place), time in places.most_common(SHOWN):
        print(f"{time:8.3f} s {time / total:6.1%} {kind:10} {place}")


if __name__ == "__main__":
    main()
