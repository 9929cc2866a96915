"""The process that compares formulas: a pair in JSON on each line in, true or false out.

It is a process of its own because a formula such as 9^9^9^9 can take any time and memory.
"""

import json
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

MOST_MEMORY = 2**32


def main() -> None:
    """Answer lines until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    for line in sys.stdin:
        answer = _are_equal(*json.loads(line))
        print(json.dumps(answer), flush=True)


def _are_equal(reference: str, answer: str) -> bool:
    # Only LaTeX is read: plain expressions would go through Python's eval.
    forms = (LatexExtractionConfig(),)
    expected = parse(f"${reference}$", forms)
    given = parse(f"${answer}$", forms)
    return bool(verify(expected, given))


if __name__ == "__main__":
    main()
