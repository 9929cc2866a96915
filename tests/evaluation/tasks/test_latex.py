"""Final formulas in answers, against tables made by hand."""

import pytest

from balora_jax.evaluation.tasks.latex import (
    boxed,
    extract_answer,
    normalize,
    official_answer,
    same_text,
    same_words,
)

BOXED = {
    "\\boxed{5}": "5",
    "\\boxed{\\frac{1}{2}}": "\\frac{1}{2}",
    "$\\boxed{\\left\\{1, 2\\right\\}}$": "\\left\\{1, 2\\right\\}",
    "\\boxed{\\{1\\}}": "\\{1\\}",
    "\\boxed{1}, then \\boxed{2}.": "2",
    "\\boxed{1}, then \\boxed{2": "1",
    "\\fbox{7}": "7",
    "\\boxed 5": "5",
    "\\boxed{}": "",
    "\\boxed{(-\\infty, 3)}": "(-\\infty, 3)",
    "\\boxed{\\text{(A)}}": "\\text{(A)}",
    "no box": None,
    "\\boxed": None,
    "": None,
}

OFFICIAL = {
    "The answer is: 5": "5",
    "The answer is: 5.": "5",
    "The answer is: 5.\nThat was easy.": "5",
    "The answer is: \\frac{1}{2}. I hope so": "\\frac{1}{2}. I hope so",
    "The answer is: 1. The answer is: 2": "2",
    "The answer is: $5$": "$5$",
    "The answer is 5": None,
    "\\boxed{5}": None,
}

EXTRACTED = {
    "The answer is: 5": "5",
    "The answer is 5.": "5",
    "The answer is $5$, clearly.": "5",
    "The answer is: \\frac{1}{2}. I hope so.": "\\frac{1}{2}",
    "The answer is: 3.5. Or so.": "3.5",
    "The answer is: \\(x^2\\)": "x^2",
    "The answer is:\n$$\nx^2\n$$": "x^2",
    "The answer is: \\boxed{(1, 2)}.": "(1, 2)",
    "Therefore $\\boxed{5}$.": "5",
    "Therefore $\\boxed{5}$.\n\n### Instruction:\n\\boxed{6}": "5",
    "The answer is: **5**": "5",
    "The answer is: ": None,
    "It is 5.": None,
}

# Texts that the official code takes to be equal.
EQUAL = (
    ("\\dfrac{1}{2}", "\\frac{1}{2}"),
    ("\\frac12", "\\frac{1}{2}"),
    ("\\frac1{72}", "\\frac{1}{72}"),
    ("1/2", "\\frac{1}{2}"),
    ("0.5", "\\frac{1}{2}"),
    (".5", "\\frac12"),
    ("x = 5", "5"),
    ("5\\text{ cm}", "5"),
    ("50\\%", "50"),
    ("\\$50", "50"),
    ("90^\\circ", "90"),
    ("\\left( 1, 2 \\right)", "(1,2)"),
    ("\\sqrt3", "\\sqrt{3}"),
    ("10,\\!000", "10,000"),
)
DIFFERENT = (
    ("5", "6"),
    ("10,000", "10000"),
    ("2/4", "1/2"),
    ("(1,2)", "(2,1)"),
    ("0.25", "\\frac{1}{4}"),
    ("x+1", "1+x"),
    # Where a rule says nothing, the texts are compared as they are.
    ("x/2 ", "x/2"),
    ("5\\text{ cm}\\text{ s}", "5"),
)


@pytest.mark.parametrize("text", BOXED)
def test_boxed(text):
    assert boxed(text) == BOXED[text]


@pytest.mark.parametrize("text", OFFICIAL)
def test_the_official_code_finds(text):
    assert official_answer(text) == OFFICIAL[text]


@pytest.mark.parametrize("text", EXTRACTED)
def test_in_any_form(text):
    assert extract_answer(text) == EXTRACTED[text]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal_texts(first, second):
    assert same_text(first, second) and same_text(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_texts(first, second):
    assert not same_text(first, second)


@pytest.mark.parametrize("text", ["\\frac{1}{2}", "(1,2)", "", "\\frac", "\\sqrt", "a=b=c"])
def test_a_normal_form_is_its_own(text):
    assert normalize(text) == text


def test_words():
    assert same_words("\\text{Friday}", "friday")
    assert not same_words("\\text{Friday}", "Monday")
