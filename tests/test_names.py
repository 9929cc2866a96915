"""Names of JAX and its libraries that the code uses: public ones, and none that is deprecated."""

import ast
import importlib
import pathlib
import subprocess
import sys
import warnings

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARIES = {"chex", "flax", "grain", "jax", "jaxlib", "optax", "orbax", "transformers"}
# jax announces a removal by a warning when the name is read.
WARNING_LIBRARIES = {"flax", "jax", "optax"}
EXPERIMENTAL = {
    # Has jax look again at the settings of its cache of programs; no stable function does.
    "jax.experimental.compilation_cache",
    # Gathers an array that is sharded over several processes; there is no stable function for it.
    "jax.experimental.multihost_utils",
    # The kernel of attention for TPUs; there is no stable function for it.
    "jax.experimental.pallas",
    # Compiles for accelerators that the machine lacks, to measure memory (benchmarks only).
    "jax.experimental.topologies",
}
# Imports every module of the package, and prints the warnings attributed to its files.
IMPORT_ALL = """
import importlib, pathlib, pkgutil, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import balora_jax
    for module in pkgutil.walk_packages(balora_jax.__path__, "balora_jax."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # The one extra that the tests do not install.
            if error.name != "mlflow":
                raise
folder = str(pathlib.Path(balora_jax.__file__).parent)
deprecations = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
for warning in caught:
    if issubclass(warning.category, deprecations) and warning.filename.startswith(folder):
        print(f"{warning.filename}:{warning.lineno}: {warning.message}")
"""


def _aliases(tree):
    """The dotted name behind every name that the module's imports bind."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for imported in node.names:
                root = imported.name.split(".")[0]
                aliases[imported.asname or root] = imported.name if imported.asname else root
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for imported in node.names:
                aliases[imported.asname or imported.name] = f"{node.module}.{imported.name}"
    return aliases


def _dotted(node):
    """The parts of a name or of a chain of attributes of a name; empty for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def library_names(source):
    """The dotted names in `source` that belong to one of the libraries.

    `import jax.numpy as jnp; jnp.linalg.svd` gives jax.numpy and jax.numpy.linalg.svd, and
    `from jax import lax; lax.scan` gives jax.lax and jax.lax.scan.

    Args:
      source: the text of a module.

    Returns:
      a set of dotted names, with every alias replaced by the imported name.
    """
    tree = ast.parse(source)
    aliases = _aliases(tree)
    names = set(aliases.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(imported.name for imported in node.names)
        parts = _dotted(node)
        if parts and parts[0] in aliases:
            names.add(".".join([aliases[parts[0]], *parts[1:]]))
    return {name for name in names if name.split(".")[0] in LIBRARIES}


def is_private(name):
    """Return True if a part of a dotted name begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def resolve(name):
    """The object behind a dotted name; submodules are imported as needed."""
    first, *parts = name.split(".")
    value = importlib.import_module(first)
    module = first
    for part in parts:
        if not hasattr(value, part) and isinstance(value, type(ast)):
            importlib.import_module(f"{module}.{part}")
        value = getattr(value, part)
        module = f"{module}.{part}"
    return value


@pytest.fixture(scope="module")
def names():
    """{dotted name: the files that use it} over the package and the benchmarks."""
    users = {}
    for folder in ("balora_jax", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in library_names(path.read_text()):
                users.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert "jax.numpy" in users and "jax.lax.scan" in users
    return users


def test_names_are_found_behind_aliases():
    source = """
import jax._src.core
import jax.numpy as jnp
from jax import lax
from jax.experimental import shard_map as sm

def function(x):
    import flax
    return jnp.linalg.svd(lax.scan(x)), sm.shard_map, flax.core._hidden, x.jax._attribute
"""
    assert library_names(source) == {
        "flax",
        "flax.core",
        "flax.core._hidden",
        "jax",
        "jax._src.core",
        "jax.experimental.shard_map",
        "jax.experimental.shard_map.shard_map",
        "jax.lax",
        "jax.lax.scan",
        "jax.numpy",
        "jax.numpy.linalg",
        "jax.numpy.linalg.svd",
    }
    assert is_private("jax._src.core") and is_private("flax.core._hidden")
    assert not is_private("jax.numpy.linalg.svd") and not is_private("jax.__version__")


def test_no_private_name_is_used(names):
    assert not {name: files for name, files in names.items() if is_private(name)}


def test_experimental_names_are_the_listed_ones(names):
    experimental = {
        ".".join(name.split(".")[:3]) for name in names if name.startswith("jax.experimental.")
    }
    assert experimental == EXPERIMENTAL


def test_no_deprecated_name_is_used(names):
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in sorted(names):
            if name.split(".")[0] not in WARNING_LIBRARIES:
                continue
            try:
                resolve(name)
            except (AttributeError, ImportError, DeprecationWarning) as error:
                faults.append(f"{name} in {names[name]}: {error}")
    assert not faults, "\n".join(faults)


def test_importing_the_package_gives_no_deprecation_warning():
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert finished.stdout == ""
