"""A page of findings in one HTML file, which opens from disk and asks no network."""

import io
import pathlib
import re
from dataclasses import dataclass

import jinja2
from matplotlib.figure import Figure

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
      header: the titles of the columns.
      rows: the texts of the cells.
      note: a sentence below it; empty for none.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing of a page.

    Attributes:
      svg: from `draw`.
      text: its description, for people who do not see it.
    """

    svg: str
    text: str


@dataclass(frozen=True)
class Passage:
    """A text on a page, such as a passage that the model reads differently now.

    Attributes:
      title: a line above it, with its numbers.
      text: the text.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Passages:
    """Texts behind a title that opens them.

    Attributes:
      title: what they are.
      items: the texts.
    """

    title: str
    items: tuple[Passage, ...]


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
      title: its heading.
      text: what is asked, what was found and how sure that is.
      parts: tables, pictures and passages, in order.
    """

    title: str
    text: str
    parts: tuple[Table | Picture | Passages, ...] = ()


def draw(figure: Figure) -> str:
    """Return a matplotlib figure as an SVG element without outside references.

    Args:
      figure: the figure.
    """
    buffer = io.StringIO()
    # Without a date, the same findings give the same page.
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.DOTALL)


def render(title: str, intro: str, sections: tuple[Section, ...], generator: str) -> str:
    """Render a page.

    Args:
      title: the title.
      intro: the text below it.
      sections: in order.
      generator: the command that writes the page, which its header names.

    Returns:
      The HTML. All texts are escaped.
    """
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.tests["picture"] = lambda part: isinstance(part, Picture)
    template = environment.get_template(TEMPLATE)
    return template.render(title=title, intro=intro, sections=sections, generator=generator)
