"""The audit in a model card: added, replaced, carried over, and nothing else touched."""

from balora_jax.reporting.audit_section import audit_of, audit_section, with_audit

CARD = "# A card\n\n| updates | 6 of 2 examples |\n"
FIRST = audit_section(6, "Text.", [("KL", "0", "1.2")])
SECOND = audit_section(6, "Text.", [("KL", "0", "3.4")])


def test_a_section_is_added_once_and_replaced():
    once = with_audit(CARD, FIRST)
    assert once.startswith(CARD) and "| KL | 0 | 1.2 |" in once
    assert with_audit(once, FIRST) == once
    assert with_audit(once, SECOND) == with_audit(CARD, SECOND)


def test_text_after_the_section_stays():
    card = with_audit(CARD, FIRST) + "\nMy own remarks.\n"
    replaced = with_audit(card, SECOND)
    assert replaced.endswith("My own remarks.\n") and "| KL | 0 | 3.4 |" in replaced


def test_a_section_can_be_read_back():
    assert audit_of(with_audit(CARD, FIRST)) == FIRST
    assert audit_of(CARD) == ""
    assert with_audit(CARD, "") == CARD
    # A section without an end is no section.
    assert audit_of(FIRST.replace("<!-- audit: end -->", "")) == ""


def test_text_after_a_mark_alone_stays():
    card = CARD + "\n<!-- audit: begin -->\nmy notes\n"
    twice = with_audit(with_audit(card, FIRST), SECOND)
    assert "my notes" in twice and twice.count("## What fine-tuning changed") == 1
    assert "| KL | 0 | 3.4 |" in twice
