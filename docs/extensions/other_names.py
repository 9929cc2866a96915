"""The table of the names that other tools have for options, from the table that errors consult."""

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from balora_jax.config.other_names import OTHER_NAMES

logger = logging.getLogger(__name__)


class OtherNames(SphinxDirective):
    """All names of OTHER_NAMES beside our options, with remarks: a yaml mapping, option -> text."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        remarks = yaml.safe_load("\n".join(self.content)) or {}
        names: dict[str, list[str]] = {}
        for other, option in OTHER_NAMES.items():
            names.setdefault(option, []).append(other)
        for option in remarks.keys() - names.keys():
            logger.warning("a remark on %s, which has no other name", option, location=self.lineno)
        rows = ["| there | here | what differs |", "| --- | --- | --- |"]
        for option, others in names.items():
            quoted = ", ".join(f"`{other}`" for other in others)
            rows.append(f"| {quoted} | {{confval}}`{option}` | {remarks.get(option, '')} |")
        place = nodes.container()
        self.state.nested_parse(StringList(rows, ""), self.content_offset, place)
        return place.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("other-names", OtherNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
