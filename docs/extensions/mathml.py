"""Equations as MathML, which browsers draw themselves: no script, and nothing from a network."""

import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
# LaTeX's names that docutils lacks, by those of the same meaning that it has.
OTHER_COMMANDS = {"dots": "ldots", "big": "bigl", "Big": "Bigl"}


def as_mathml(node: nodes.Element, *, as_block: bool) -> str:
    """Translate an equation; one that cannot be is a warning, and shown as it is written.

    Args:
      node: with the equation in LaTeX.
      as_block: True if it stands on lines of its own.
    """
    text = node.astext().strip()
    known = re.sub(
        r"\\(dots|[bB]ig)(?![a-zA-Z])", lambda found: f"\\{OTHER_COMMANDS[found[1]]}", text
    )
    # docutils takes the bar of \\bar z_F for one over the index, too.
    known = re.sub(r"\\bar\s*([a-zA-Z])", r"{\\bar{\1}}", known)
    try:
        return latex2mathml.tex2mathml(known, as_block=as_block)
    except (MathError, SyntaxError) as error:
        logger.warning("no MathML for %s: %s", text, error, location=node)
        return ""


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write an equation within a line."""
    translator.body.append(as_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation on lines of its own."""
    translator.body.append(f'<div class="equation">{as_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
