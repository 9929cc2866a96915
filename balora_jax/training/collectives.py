"""The bytes that devices send each other in a compiled program, loops included."""

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<result>[\w.-]+) = (?P<shape>.*?) (?P<name>[a-z][\w-]*)\((?P<inputs>.*)"
)
ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<sizes>[\d,]*)\]")
CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CONDITION = re.compile(r"condition=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONSTANT = re.compile(r"%?(?P<name>[\w.-]+) = [su]32\[\]\S* constant\((?P<number>\d+)\)")
ELEMENT = re.compile(r"get-tuple-element\(.*\), index=(\d+)")
# What stands beside the names of an instruction's inputs: their layouts, sizes and numbers.
BESIDE_NAMES = re.compile(r"\{[^}]*\}|\[[\d,]*\]|/\*.*?\*/")
CHANNEL = re.compile(r"channel_id=(\d+)")
# The devices of a group: {{0,1},{2,3}}, or [groups,devices], or the axes of a mesh.
LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
OF_MESH = re.compile(r"replica_groups=mesh\[(?P<sizes>[^\]]*)\] \{(?P<axes>[^}]*)\}")


@dataclasses.dataclass
class _Computation:
    """A computation of a program.

    Attributes:
      sent: (channel, kind, bytes) of each collective; the channel is None where there is none.
      called: (computation, how often) of those that it runs.
      loops: (body, condition, how often) of its loops; None where the program does not say.
      counter: of a loop's condition, the place of its counter in the loop's state.
      limit: of a loop's condition, the number that its counter stays below.
      steps: of a loop's body, what it adds to each number of the loop's state, by place.
    """

    sent: list[tuple[str | None, str, float]] = dataclasses.field(default_factory=list)
    called: list[str] = dataclasses.field(default_factory=list)
    loops: list[tuple[str, str, int | None]] = dataclasses.field(default_factory=list)
    counter: int | None = None
    limit: int | None = None
    steps: dict[int, int] = dataclasses.field(default_factory=dict)

    def count(self, body: "_Computation") -> int:
        """The number of times that a loop with this condition runs; 1 where it does not say."""
        if self.limit is None:
            return 1
        return math.ceil(self.limit / body.steps.get(self.counter, 1))


def bytes_sent(program: str) -> dict[str, float]:
    """Add up the bytes that each device sends in a compiled program, by kind of collective.

    As rings send them: of n devices an all-gather or a reduce-scatter sends (n - 1) / n of the
    whole array, and an all-reduce twice that. A loop counts as often as its counter says, and once
    where that is not known; of branches all count. A collective that is spread over several
    instructions, so that others run beside it, has one channel, and counts once.

    Args:
      program: from `jax.stages.Compiled.as_text`, partitioned over devices.

    Returns:
      The bytes of one device by kind; kinds that do not occur are left out.
    """
    computations, entry = _read(program)
    sums: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()

    def add(name: str, times: int) -> None:
        computation = computations[name]
        for channel, kind, size in computation.sent:
            if channel not in seen:
                sums[kind] += times * size
        seen.update(channel for channel, _, _ in computation.sent if channel is not None)
        for called in computation.called:
            add(called, times)
        for body, condition, trips in computation.loops:
            add(body, times * (trips or computations[condition].count(computations[body])))

    add(entry, 1)
    return dict(sums)


def _read(program: str) -> tuple[dict[str, _Computation], str]:
    """Read the computations of a program, and the name of its first one."""
    computations: dict[str, _Computation] = collections.defaultdict(_Computation)
    constants: dict[str, int] = {}
    # Of the computation that is being read: places of a loop's state, and sums, by their names.
    elements: dict[str, int] = {}
    sums: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if found := COMPUTATION.match(line):
            name = found["name"]
            entry = name if found["entry"] else entry
            elements.clear()
            sums.clear()
            continue
        if found := CONSTANT.search(line):
            constants[found["name"]] = int(found["number"])
        instruction = INSTRUCTION.match(line)
        if instruction is None:
            continue
        computation = computations[name]
        kind = instruction["name"].removesuffix("-start")
        if kind in KINDS:
            channel = CHANNEL.search(line)
            size = _bytes_of(kind, instruction["shape"], line)
            computation.sent.append((channel and channel[1], kind, size))
        elif kind == "while":
            body = CALLED.search(line)[1]
            trips = TRIPS.search(line)
            condition = CONDITION.search(line)[1]
            computation.loops.append((body, condition, int(trips[1]) if trips else None))
        else:
            computation.called += _called(line)

        inputs = _names(instruction["inputs"])
        if found := ELEMENT.search(line):
            elements[instruction["result"]] = int(found[1])
        elif kind == "add":
            sums[instruction["result"]] = inputs
        elif "ROOT" in line and "direction=LT" in line and len(inputs) == 2:
            computation.counter = elements.get(inputs[0])
            computation.limit = constants.get(inputs[1])
        elif "ROOT" in line and kind == "tuple":
            for place, result in enumerate(inputs):
                added = [constants.get(part) for part in sums.get(result, ()) if part in constants]
                if added and place in map(elements.get, sums[result]):
                    computation.steps[place] = added[0]
    return computations, entry


def _names(inputs: str) -> list[str]:
    """The names of an instruction's inputs, which may follow their types."""
    listed = BESIDE_NAMES.sub("", inputs).partition(")")[0]
    return [part.split()[-1].lstrip("%") for part in listed.split(",") if part.strip()]


def _called(line: str) -> list[str]:
    called = CALLED.findall(line)
    for branches in BRANCHES.findall(line):
        called += [branch.strip().lstrip("%") for branch in branches.split(",")]
    return called


def _bytes_of(kind: str, shape: str, line: str) -> float:
    size = sum(_size(found["dtype"], found["sizes"]) for found in ARRAY.finditer(shape))
    devices = _devices(line)
    if f"{kind}-start(" in line:
        # What starts one of these names its inputs, too.
        size *= {"all-gather": devices / (devices + 1), "collective-permute": 1 / 2}.get(kind, 1)
    share = (devices - 1) / devices
    if kind == "reduce-scatter":
        return share * size * devices
    if kind == "all-reduce":
        return 2 * share * size
    return size if kind == "collective-permute" else share * size


def _devices(line: str) -> int:
    """The devices of a group that exchange something."""
    if found := LISTED.search(line):
        return len(found[1].split(","))
    if found := COUNTED.search(line):
        return int(found[1])
    if found := OF_MESH.search(line):
        sizes = dict(part.split("=") for part in found["sizes"].replace("'", "").split(","))
        axes = found["axes"].replace("'", "").split(",")
        return math.prod(int(sizes[axis.strip()]) for axis in axes)
    return 2


def _size(dtype: str, sizes: str) -> float:
    """The bytes of an array, by the digits in the name of its element type."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8
    return bits / 8 * math.prod(int(size) for size in sizes.split(",") if size)
