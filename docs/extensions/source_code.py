"""The code of a function beside its equation, as it stands in the package."""

import ast
import importlib
import inspect
import textwrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class SourceCode(SphinxDirective):
    """A function or class without its docstrings: {source} balora_jax.regularizers.nlg.entropy."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        file = inspect.getsourcefile(found)
        self.env.note_dependency(file)
        code = without_docstrings(textwrap.dedent(inspect.getsource(found)))
        place = f"{module.replace('.', '/')}.py"
        caption = nodes.caption("", "", nodes.literal(place, place))
        block = nodes.literal_block(code, code, language="python")
        return [nodes.container("", caption, block, literal_block=True,
                                classes=["literal-block-wrapper"])]  # fmt: skip


def without_docstrings(code: str) -> str:
    """Return code without the lines of its docstrings."""
    lines = code.splitlines()
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    for node in sorted(found, key=lambda node: node.lineno, reverse=True):
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("source", SourceCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
