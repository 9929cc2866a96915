"""The page of findings: whole, escaped, and without a word to a network."""

import html.parser
import re

import matplotlib.pyplot as plt

from balora_jax.reporting.page import Passage, Passages, Picture, Section, Table, draw, render

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'and' {{ 7 * 7 }}"


def _page():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], [1, 0])
    picture = Picture(draw(figure), HOSTILE)
    plt.close(figure)
    table = Table(("name", HOSTILE), (("a", HOSTILE), ("b", "2")), note=HOSTILE)
    parts = (table, picture, Passages(HOSTILE, (Passage(HOSTILE, HOSTILE),)))
    sections = (Section(HOSTILE, HOSTILE, parts), Section("more", "text"))
    return render(HOSTILE, HOSTILE, sections, HOSTILE)


class _Reader(html.parser.HTMLParser):
    """Collects the tags, their addresses and the texts of a page."""

    VOID = frozenset({"meta", "path", "use", "rect", "line", "br"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = []
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("href", "src", "xlink:href", "action")
        self.addresses += [value for name, value in attributes if name in names]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_page_is_whole_and_escaped():
    reader = _Reader()
    page = _page()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert {"table", "svg", "blockquote", "nav"} <= set(reader.tags)
    assert "{{ 7 * 7 }}" in page and "49" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_a_page_asks_no_network():
    reader = _Reader()
    page = _page()
    reader.feed(page)
    assert all(address.startswith("#") for address in reader.addresses)
    styles = " ".join(re.findall(r"<style.*?</style>|style=\".*?\"", page, flags=re.DOTALL))
    assert "@import" not in styles
    assert all(address.startswith("#") for address in re.findall(r"url\((.*?)\)", styles))


def test_the_same_findings_give_the_same_page():
    def without_names(page):
        # matplotlib's names of shapes are random.
        return re.sub(r"[pm][0-9a-f]{10}", "name", page)

    assert without_names(_page()) == without_names(_page())
