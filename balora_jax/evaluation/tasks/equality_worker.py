"""The process that compares formulas: a pair and its bound in JSON on each line, true or false out.

It is a process of its own because a formula such as 9^9^9^9 can take any time and memory. The bound
is on processor time, so that a score does not depend on what else the machine does; a process that
goes beyond it is ended by the system.
"""

import json
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

MOST_MEMORY = 2**32


def main() -> None:
    """Answer lines until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    # The system writes no file when it ends the process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        reference, answer, seconds = json.loads(line)
        _bound(seconds)
        print(json.dumps(_are_equal(reference, answer)), flush=True)


def _bound(seconds: int) -> None:
    """Bound the processor time from now on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + seconds, hard))


def _are_equal(reference: str, answer: str) -> bool:
    # Only LaTeX is read: plain expressions would go through Python's eval.
    forms = (LatexExtractionConfig(),)
    expected = parse(f"${reference}$", forms, parsing_timeout=None)
    given = parse(f"${answer}$", forms, parsing_timeout=None)
    return bool(verify(expected, given, timeout_seconds=None))


if __name__ == "__main__":
    main()
