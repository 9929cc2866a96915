"""README's tree of files, from the modules' own docstrings: run this file to write it anew."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "balora_jax"
README = ROOT / "README.md"
# From the ground up, as tests/test_rooms.py has the levels.
ROOMS = (
    "errors.py", "ends.py", "config", "linalg", "adapters", "regularizers", "models", "data",
    "generation", "objective", "training", "evaluation", "reporting", "runs", "cli.py",
)  # fmt: skip
TREE = re.compile(r"(?<=```text\n)balora_jax/\n.*?(?=```)", re.S)
WIDTH = 26


def _summary(path: pathlib.Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split("\n")[0]


def _lines(path: pathlib.Path, depth: int) -> list[str]:
    indentation = "  " * depth
    if path.is_file():
        return [f"{indentation + path.name:{WIDTH}}{_summary(path)}"]
    lines = [f"{indentation + path.name + '/':{WIDTH}}{_summary(path / '__init__.py')}"]
    inside = [entry for entry in path.iterdir() if (entry / "__init__.py").is_file()]
    inside += [entry for entry in path.glob("*.py") if entry.name != "__init__.py"]
    for entry in sorted(inside):
        lines += _lines(entry, depth + 1)
    return lines


def tree() -> str:
    """The package's files, a line each."""
    lines = ["balora_jax/"]
    for room in ROOMS:
        lines += _lines(PACKAGE / room, 1)
    return "".join(line.rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    README.write_text(TREE.sub(lambda _: tree(), README.read_text()))
