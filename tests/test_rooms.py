"""Imports between rooms go down only, and each library stays in its room."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "balora_jax"
# From the ground up; a module may import from its own room and from those on the levels below.
LEVELS = (
    {"errors"},
    {"linalg", "config"},
    {"adapters", "regularizers", "models", "data"},
    {"objective", "generation"},
    {"training"},
    {"evaluation"},
    {"reporting"},
    {"runs"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Still upward, until the run's types lie below the rooms that use them.
PENDING = {
    ("evaluation", "runs"),
    ("objective", "training"),
    ("objective", "generation"),
    ("reporting", "runs"),
    ("training", "runs"),
}
NO_JAX = {"errors", "config", "data", "cli"}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def test_imports_go_down():
    upward = []
    for room, path in _modules():
        used = {name.split(".")[1] for name in _imports(path) if name.startswith("balora_jax.")}
        where = path.relative_to(PACKAGE)
        upward += [
            f"{where} imports {other}"
            for other in used
            if LEVEL[other] >= LEVEL[room] and other != room and (room, other) not in PENDING
        ]
    assert not upward


def test_only_models_and_foreign_adapters_import_linen():
    users = {
        str(path.relative_to(PACKAGE))
        for room, path in _modules()
        if room != "models" and any(name.startswith("flax.linen") for name in _imports(path))
    }
    assert users == {"adapters/linen.py"}


def test_no_jax_where_none_is_needed():
    users = {
        room
        for room, path in _modules()
        if any(name.split(".")[0] == "jax" for name in _imports(path))
    }
    assert not users & NO_JAX


def test_training_imports_no_model():
    room = [path for name, path in _modules() if name == "training"]
    assert not [
        path
        for path in room
        if any(name.startswith("balora_jax.models") for name in _imports(path))
    ]
