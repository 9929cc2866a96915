"""The table of model types and their tasks, from the registry."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from balora_jax.models.hf.registry import MODEL_TYPES


class ModelTypes(SphinxDirective):
    """A row for each model type, a column for each task."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        tasks = sorted({task for kind in MODEL_TYPES.values() for task in kind.tasks})
        rows = [f"| `model_type` | {' | '.join(f'`{task}`' for task in tasks)} |"]
        rows.append("| --- " * (len(tasks) + 1) + "|")
        for name, kind in MODEL_TYPES.items():
            marks = ["yes" if task in kind.tasks else "" for task in tasks]
            rows.append(f"| `{name}` | {' | '.join(marks)} |")
        place = nodes.container()
        self.state.nested_parse(StringList(rows, ""), self.content_offset, place)
        return place.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("model-types", ModelTypes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
