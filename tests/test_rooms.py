"""Imports between rooms go down only, each library stays in its room, and the root is small."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "balora_jax"
# From the ground up; a module may import from its own room and from those on the levels below.
LEVELS = (
    {"errors", "hosts"},
    {"config", "ends", "linalg"},
    {"adapters", "data", "models", "regularizers"},
    {"generation", "objective"},
    {"training"},
    {"evaluation"},
    {"reporting"},
    {"runs"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
NO_JAX = {"errors", "ends", "config", "data", "cli"}


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


def _folders(place):
    """The folders in a place that hold Python files."""
    return {path.name for path in place.iterdir() if path.is_dir() and any(path.rglob("*.py"))}


def test_imports_go_down():
    assert len(LEVELS) <= 10
    upward = []
    for room, path in _modules():
        used = {name.split(".")[1] for name in _imports(path) if name.startswith("balora_jax.")}
        upward += [
            f"{path.relative_to(PACKAGE)} imports {other}"
            for other in used - {room, "__version__", "load_pretrained", "register_term"}
            if LEVEL[other] >= LEVEL[room]
        ]
    assert not upward


def test_the_root_is_small():
    folders = _folders(PACKAGE)
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert len(folders) <= 12
    modules = {"cli", "ends", "errors", "hosts"}
    assert files == {"__init__.py", "__main__.py", "py.typed"} | {f"{name}.py" for name in modules}
    assert folders | modules | {"__main__"} == set(LEVEL)


def test_tests_mirror_the_package():
    beside = {"cases", "bad_input", "faults", "fuzz"}
    assert _folders(pathlib.Path(__file__).parent) - beside == _folders(PACKAGE)


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


def test_losses_take_no_configuration():
    """Objectives take arrays and settings; the table of terms is where the configuration ends."""
    mathematics = [path for name, path in _modules() if name in ("objective", "linalg")]
    mathematics += [PACKAGE / "regularizers" / name for name in ("nlg.py", "nlu.py")]
    assert not [
        path
        for path in mathematics
        if any(name.startswith("balora_jax.config") for name in _imports(path))
    ]
