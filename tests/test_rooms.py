"""Imports between rooms go down only, and each library stays in its room."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "balora_jax"
# From the ground up; a module may import from its own level's room and from those below.
LEVELS = (
    {"errors"},
    {"config"},
    {"options"},
    {"adapters", "regularizers", "schedules"},
    {"objective", "models", "data", "scores", "notices"},
    {"streaming", "generation", "training"},
    {"tasks", "tiny_world"},
    {"assembly", "plots", "model_card", "doctor"},
    {"programs", "outputs"},
    {"report", "completion"},
    {"finetune"},
    {"comparison"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
NO_JAX = {"errors", "config", "options", "data", "scores", "cli"}


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
        upward += [f"{path.name} imports {other}" for other in used if LEVEL[other] >= LEVEL[room] and other != room]
    assert not upward


def test_only_models_import_linen():
    users = {room for room, path in _modules() if any(name.startswith("flax.linen") for name in _imports(path))}
    assert users == {"models"}


def test_no_jax_where_none_is_needed():
    users = {room for room, path in _modules() if any(name.split(".")[0] == "jax" for name in _imports(path))}
    assert not users & NO_JAX


def test_training_imports_no_model():
    room = [path for name, path in _modules() if name == "training"]
    assert not [path for path in room if any(name.startswith("balora_jax.models") for name in _imports(path))]
