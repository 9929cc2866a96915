"""Equality of formulas, and formulas that would take all time or memory."""

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.tasks import equality

EQUAL = (
    ("\\frac{1}{2}", "0.5"),
    ("\\frac{1}{2}", "\\frac{2}{4}"),
    ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("10,000", "10000"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"),
    ("\\text{Friday}", "Friday"),
    ("[0, 1)", "[0,1)"),
    ("\\{1, 2\\}", "\\{2, 1\\}"),
)
DIFFERENT = (
    ("\\frac{1}{2}", "0.51"),
    ("(1, 2)", "(2, 1)"),
    ("[0, 1)", "[0, 1]"),
    ("x+1", "x-1"),
    ("\\text{Friday}", "Monday"),
    ("5", ""),
    ("5", "}{$"),
    ("5", "5" * 2000),
)


@pytest.fixture
def math_verify():
    pytest.importorskip("math_verify", reason="needs math-verify")


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal(math_verify, reference, answer):
    assert equality.are_equal(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_different(math_verify, reference, answer):
    assert not equality.are_equal(reference, answer)


def test_an_answer_is_not_run(math_verify, tmp_path):
    file = tmp_path / "written"
    assert not equality.are_equal("5", f"open('{file}', 'w')")
    assert not file.exists()


def test_a_formula_without_end_counts_as_different(math_verify, monkeypatch):
    monkeypatch.setattr(equality, "CPU_SECONDS", 1)
    assert not equality.are_equal("7", "9^{9^{9^{9}}}")
    assert equality.are_equal("\\frac{1}{2}", "0.5")


def test_a_process_that_does_not_answer_is_replaced(math_verify, monkeypatch):
    # The process runs from here on.
    assert equality.are_equal("(x+1)^2", "x^2+2x+1")
    monkeypatch.setattr(equality, "CPU_SECONDS", 10**6)
    monkeypatch.setattr(equality, "MOST_SECONDS", 0.5)
    assert not equality.are_equal("7", "9^{9^{9^{9}}}")
    monkeypatch.undo()
    assert equality.are_equal("\\frac{1}{2}", "0.5")


def test_math_verify_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(equality.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'pip install "balora-jax\[eval\]"'):
        equality.check_installed()
