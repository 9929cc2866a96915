"""Counts of the style that the code keeps: one table of terms, one step, plain lines."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "balora_jax"
TERMS = {"consistency", "diversity", "svd"}


def _python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _tree(path):
    return ast.parse(path.read_text())


# Functions of libraries that have a term's name.
DECOMPOSITIONS = ("jnp.linalg.svd", "np.linalg.svd")


def _docstrings(tree):
    """(line, text) of every docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node):
            yield node.body[0].value, ast.get_docstring(node)


def _names_a_term(tree):
    """Return True if code (not a docstring) has a term's name: a string, a name, an attribute."""
    docstrings = {id(node) for node, _ in _docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = set(re.findall(r"\w+", node.value))
            if id(node) not in docstrings and words & TERMS:
                return True
        linalg = isinstance(node, ast.Attribute) and ast.unparse(node) in DECOMPOSITIONS
        for field in ("id", "attr", "arg", "name"):
            if getattr(node, field, None) in TERMS and not linalg:
                return True
    return False


def test_three_files_name_a_term():
    naming = {
        str(path.relative_to(PACKAGE))
        for path in _python_files("balora_jax")
        if path.relative_to(PACKAGE).parts[0] != "config" and _names_a_term(_tree(path))
    }
    assert naming == {"regularizers/nlg.py", "regularizers/nlu.py", "regularizers/terms.py"}


def test_one_place_builds_a_step():
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _python_files("balora_jax", "benchmarks")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("make_train_step")
    ]
    assert len(places) == 1, places
    assert places[0].startswith("balora_jax/runs/setup.py")


def _is_packed(node):
    """Return True if a statement assigns several unrelated values at once: a, b = x, y."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def test_assignments_are_unfolded():
    packed = []
    lines = 0
    for path in _python_files("balora_jax"):
        text = path.read_text()
        lines += text.count("\n")
        packed += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(ast.parse(text))
            if _is_packed(node)
        ]
    assert 1000 * len(packed) / lines <= 4, packed


def test_docstrings_lead_with_a_verb_or_a_noun():
    riddles = re.compile(r"(what|which|how|whether|where|when|why)\b", re.IGNORECASE)
    opening = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}"
        for path in _python_files("balora_jax", "benchmarks", "tests")
        for node, text in _docstrings(_tree(path))
        if riddles.match(text)
    ]
    assert not opening, "\n".join(opening)
