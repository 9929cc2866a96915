"""Numbers in answers, against tables made by hand."""

from fractions import Fraction

import pytest

from balora_jax.evaluation.tasks.numbers import extract_number, official_number

OFFICIAL = {
    "So 2 + 2 = 4.\nThe answer is: 4": 4,
    "The answer is: 4.": 4,
    "The answer is: $18": 18,
    "The answer is: 1,000": 1000,
    "The answer is: -7": -7,
    "The answer is: +7": 7,
    "The answer is: 12 apples and 3 pears": 12,
    "The answer is: 50%": 50,
    "The answer is: 7/2": 4,
    "The answer is: 5/2": 2,
    "The answer is: 3.7": 4,
    "The answer is: .4": 0,
    "The answer is: 5/0": 5,
    "The answer is: 5/00": None,
    "First The answer is: 1\nThe answer is: 2": 2,
    # Its expression reads one comma at most.
    "The answer is: 1,234,567": 1234,
    "The answer is: \\frac{1}{2}": 1,
    "The answer is: −7": 7,
    "The answer is: " + "9" * 5000: None,
    "The answer is: 10^30": 10,
    "The answer is:\n42": None,
    "The answer is 42": None,
    "the answer is: 42": None,
    "\\boxed{42}": None,
    "#### 42": None,
    "The answer is: unknown": None,
    "42": None,
    "": None,
}

EXTRACTED = {
    "The answer is: 42.": 42,
    "The answer is 42": 42,
    "the answer is\n\n42": 42,
    "The final answer is: **42**": 42,
    "3 + 4 = 7\n#### 7": 7,
    "It is \\boxed{42} or 43": 42,
    "\\boxed{41}, no, \\boxed{42}": 42,
    "He has 3 boxes of 14, or 42 in all.": 42,
    "The answer is: 42\n\n### Instruction:\nWhat is 5 + 5?\n\n### Response: 10": 42,
    "The answer is: 41. Wait. The answer is: 42, not 43": 42,
    # Signs.
    "The answer is: -7": -7,
    "The answer is: −7": -7,
    "The answer is: -$7": -7,
    "The answer is: $-7": -7,
    "The answer is: +7": 7,
    "We find 10-7": 7,
    # Thousands.
    "The answer is: 1,234,567": 1234567,
    "The answer is: $1,234.50": Fraction(123450, 100),
    "The answer is: 1{,}000{,}000": 10**6,
    "The answer is: 12\\,000": 12000,
    "The answer is: 12\u202f000": 12000,
    "The answer is: 10,\\!000": 10000,
    "The answer is: 3, 4 and 5": 3,
    # Units, currencies, percent.
    "The answer is: $18": 18,
    "The answer is: \\$18": 18,
    "The answer is: €18": 18,
    "The answer is: 18 dollars": 18,
    "The answer is: 18km": 18,
    "The answer is: 50%": 50,
    "The answer is: $50\\%$": 50,
    "The answer is: 3:30": 3,
    "The answer is: x = 5": 5,
    "The answer is: x2 = 5": 5,
    # Fractions and decimals.
    "The answer is: 7/2": Fraction(7, 2),
    "The answer is: 3 1/2": Fraction(7, 2),
    "The answer is: $\\frac{7}{2}$": Fraction(7, 2),
    "The answer is: \\boxed{-\\dfrac{7}{2}}": Fraction(-7, 2),
    "The answer is: 3\\frac{1}{2}": Fraction(7, 2),
    "The answer is: \\frac72": Fraction(7, 2),
    "The answer is: 0.25": Fraction(1, 4),
    "The answer is: .25": Fraction(1, 4),
    "The answer is: 42.0": 42,
    "The answer is: 5/0": None,
    # Powers.
    "The answer is: 1" + "0" * 30: 10**30,
    "The answer is: 10^30": 10**30,
    "The answer is: $10^{30}$": 10**30,
    "The answer is: 1.5 \\times 10^{3}": 1500,
    "The answer is: 1.5 × 10^-3": Fraction(15, 10000),
    "The answer is: 2e3": 2000,
    "The answer is: 9^999999999": None,
    "The answer is: " + "9" * 5000: None,
    # No number.
    "The answer is: unknown, of 3 apples": 3,
    "There are 3. The answer is: unknown": None,
    "no number": None,
    "": None,
}


@pytest.mark.parametrize("text", OFFICIAL)
def test_the_official_code_reads(text):
    assert official_number(text) == OFFICIAL[text]


@pytest.mark.parametrize("text", EXTRACTED)
def test_in_any_form(text):
    assert extract_number(text) == EXTRACTED[text]


def test_a_long_text_of_digits_is_read_in_time():
    assert extract_number("1,234 5/6 " * 3000 + "= 7") == 7
    assert extract_number("1" * 100_000) is None
    assert extract_number("1," * 50_000 + "x") == 1
