"""The section of a model card on an audit: what fine-tuning changed."""

from collections.abc import Sequence

BEGIN = "<!-- audit: begin -->"
END = "<!-- audit: end -->"
SECTION = """{begin}
## What fine-tuning changed

Measured by `balora audit` at update {step}, beside the untouched base; 95 % intervals in
parentheses. {text}

| | before | after |
|---|---|---|
{rows}
{end}
"""


def audit_section(step: int, text: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """Write the section.

    Args:
      step: the update of the checkpoint.
      text: what was read.
      rows: the title of each measure, and its value before and after fine-tuning.

    Returns:
      Markdown, between two comments.
    """
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return SECTION.format(begin=BEGIN, step=step, text=text, rows=lines, end=END)


def with_audit(card: str, section: str) -> str:
    """Put a section into a card, in place of an earlier one.

    Args:
      card: a model card.
      section: from `audit_section`; empty for none.

    Returns:
      The card.
    """
    earlier = audit_of(card).rstrip("\n")
    before, _, after = card.partition(earlier) if earlier else (card, "", "")
    parts = [part.strip("\n") for part in (before, section, after)]
    return "\n\n".join(filter(None, parts)) + "\n"


def audit_of(card: str) -> str:
    """Return the section of a card.

    Args:
      card: a model card.

    Returns:
      The section; empty where there is none.
    """
    # The last pair: a mark alone, which somebody else may have written, is left as it is.
    end = card.rfind(END)
    begin = card.rfind(BEGIN, 0, max(end, 0))
    if end < 0 or begin < 0:
        return ""
    return card[begin : end + len(END)] + "\n"
