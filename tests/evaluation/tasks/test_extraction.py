"""Programs in answers, against a table made by hand."""

import pytest

from balora_jax.evaluation.tasks.extraction import extract_code, parses

ADD = "def add(a, b):\n    return a + b\n"
CALL = "print(add(1, 2))\n"
# A name -> an answer and the program in it.
ANSWERS = {
    "alone": (ADD, ADD),
    "fenced": (f"```python\n{ADD}```", ADD),
    "fenced without a language": (f"```\n{ADD}```", ADD),
    "fenced with capital letters": (f"```Python\n{ADD}```", ADD),
    "fenced, prose around": (f"Here it is:\n\n```python\n{ADD}```\nIt adds.", ADD),
    "fenced without an end": (f"Here:\n```python\n{ADD}", ADD),
    "fenced in a list": (
        "1. So:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n",
        ADD,
    ),
    "carriage returns": ("```python\r\n" + ADD.replace("\n", "\r\n") + "```", ADD),
    "the block that defines it": (f"```python\nx = 1\n```\nand\n```python\n{ADD}```", ADD),
    "the first block": ("```python\nx = 1\n```\n```python\ny = 2\n```", "x = 1\n"),
    "a block of another language": (f"```bash\npip install x\n```\n```python\n{ADD}```", ADD),
    "prose before": (f"Sure, from here on:\n\n{ADD}", ADD),
    "prose after": (f"{ADD}\nThis function returns the sum.\n", f"{ADD}\n"),
    "prose around": (f"The code is:\n{ADD}\nIt works, e.g. for 1, 2.", f"{ADD}\n"),
    "an import first": (f"import math\n\n{ADD}", f"import math\n\n{ADD}"),
    "a constant first": (f"MOST = 5\n\n{ADD}", f"MOST = 5\n\n{ADD}"),
    "prose and a constant first": (f"So it is:\nMOST = 5\n{ADD}", f"MOST = 5\n{ADD}"),
    "the next task": (f"{ADD}\n\n### Instruction:\nWrite more.", f"{ADD}\n\n"),
    "main": (f"{ADD}\n\nif __name__ == '__main__':\n    {CALL}", ADD),
    "main in a block": (f'```python\n{ADD}\nif __name__ == "__main__":\n    {CALL}```', ADD),
    "example usage": (f"{ADD}\n# Example usage\n{CALL}", ADD),
    "own tests": (f"{ADD}\nassert add(1, 2) == 4\n{CALL}", ADD),
    "an assertion inside": (
        "def add(a, b):\n    assert a\n    return a + b\n",
        "def add(a, b):\n    assert a\n    return a + b\n",
    ),
    "a body": ("    return a + b\n", "    return a + b\n"),
    "a body and a function": (f"    return a + b\n\n{ADD}", f"    return a + b\n\n{ADD}"),
    "no program": ("I cannot do that.", "I cannot do that."),
    "nothing": ("", ""),
    "not valid": ("def add(a, b:\n", "def add(a, b:\n"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_extraction(name):
    answer, expected = ANSWERS[name]
    assert extract_code(answer, "add") == expected


@pytest.mark.parametrize(
    "code", ["def f(:", "x = '\0'", "(" * 10_000, "-" * 100_000 + "1", "x = " + "not " * 50_000]
)
def test_what_does_not_parse(code):
    assert not parses(code)


def test_parsing_runs_nothing(tmp_path):
    file = tmp_path / "written"
    assert parses(f"open({str(file)!r}, 'w')")
    assert not file.exists()
