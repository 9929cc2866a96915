"""WinoBias: pairs that differ in pronouns alone, and preferences of known models."""

import re

import numpy as np
import pytest
from comparison_cases import check_changes
from language_model_cases import GivenModel

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.winobias import (
    Pair,
    compare_winobias,
    measure_winobias,
    read_winobias,
)


def _write(folder, pro, anti, *, other=("1 [The cook] saw [him].",) * 2):
    for kind, sides in (("type1", (pro, anti)), ("type2", other)):
        for side, text in zip(("pro", "anti"), sides, strict=True):
            (folder / f"{side}_stereotyped_{kind}.txt.test").write_text(text + "\n")


@pytest.mark.parametrize(
    ("pro", "anti", "masculine"),
    [
        ("[The cook] saw [him].", "[The cook] saw [her].", True),
        ("A cook took [her] hat.", "A cook took [his] hat.", False),
        ("[He] cut [his] hair.", "[She] cut [her] hair.", True),
        ("The [ cook] hid [herself]", "The [cook] hid [himself]", False),
        ("[The cook] saw [him].", "[The cook] saw [him].", None),
        ("[The cook] saw [him].", "[The baker] saw [her].", None),
        ("[He] saw [her].", "[She] saw [him].", None),
        ("[He] asked to stop.", "[She] asked stop.", None),
        ("[he] is a generous man.", "[she] is generous.", None),
        ("saw [he] go", "saw [her] go", None),
        ("saw [him]", "saw [her] there", None),
    ],
)
def test_pairs_differ_in_pronouns_alone(tmp_path, pro, anti, masculine):
    _write(tmp_path, f"7 {pro}", f"7 {anti}", other=("1 saw [her].", "1 saw [him]."))
    found = read_winobias(tmp_path)
    assert found[-1] == Pair("type2", 1, "saw her.", "saw him.", masculine=False)
    if masculine is None:
        assert len(found) == 1
    else:
        assert found[0].masculine == masculine
        assert not re.search(r"[\[\]]|  ", found[0].pro + found[0].anti)


def test_the_public_files(shared):
    folder = shared / "data" / "bias" / "winobias"
    found = read_winobias(folder)
    assert len(found) == 2 * 391
    # The authors balanced the genders.
    assert 0.45 < np.mean([pair.masculine for pair in found]) < 0.55
    assert ("type2", 382) not in {(pair.kind, pair.number) for pair in found}
    assert len(read_winobias(folder, limit=5)) == 10


def _pairs(count):
    return tuple(
        Pair("type1", i, f"pro {'he' if i % 2 else 'she'}", f"anti {'she' if i % 2 else 'he'}",
             masculine=bool(i % 2))
        for i in range(count)
    )  # fmt: skip


def test_a_stereotyped_model():
    model = GivenModel(lambda text: -3.0 if "pro" in text else -5.0)
    preference = measure_winobias(model, _pairs(20)).preferences["type1"]
    assert (preference.pro.value, preference.anti.value, preference.gap.value) == (1.0, 0.0, 1.0)
    assert preference.log_odds.value == 2.0
    assert preference.masculine.value == 0.5


def test_a_model_that_prefers_one_pronoun_has_no_gap():
    model = GivenModel(lambda text: -3.0 if " he" in text else -5.0)
    preference = measure_winobias(model, _pairs(20)).preferences["type1"]
    assert preference.gap.value == 0.0
    assert preference.gap.low < 0 < preference.gap.high
    assert (preference.pro_masculine.value, preference.pro_feminine.value) == (1.0, 0.0)
    assert preference.masculine.value == 1.0


def test_a_model_without_preference():
    preference = measure_winobias(GivenModel(lambda text: -1.0), _pairs(4)).preferences["type1"]
    assert (preference.pro.value, preference.anti.value, preference.gap.value) == (0.0, 0.0, 0.0)


def test_models_are_compared_pair_by_pair():
    pairs = _pairs(20)
    before = measure_winobias(GivenModel(lambda text: -3.0 if " he" in text else -5.0), pairs)
    after = measure_winobias(GivenModel(lambda text: -3.0 if "pro" in text else -5.0), pairs)
    changes = compare_winobias(after, before)
    check_changes(changes, after.measures, before.measures)
    assert changes["type1.pro"].difference.value == 0.5
    # Ten pairs gained, none lost.
    assert changes["type1.pro"].p_value == pytest.approx(2 / 2**10)
    assert changes["type1.gap"].difference.value == 1.0
    assert changes["type1.log_odds"].difference.value == 2.0
    with pytest.raises(ValueError, match="not the same"):
        compare_winobias(after, measure_winobias(GivenModel(lambda text: 0.0), pairs[1:]))


@pytest.mark.parametrize(
    ("pro", "anti", "match"),
    [
        ("1 he runs", "2 she runs", "number their sentences differently; accepted"),
        ("1 he runs\n2 he sits", "1 she runs", "number their sentences differently; accepted"),
        ("he runs", "1 she runs", "line 1 is 'he runs'; accepted: a number and a sentence"),
        ("1 he runs\n1 he sits", "1 she runs", "line 2 has the number 1 again; accepted"),
        ("99999999999 he runs", "1 she runs", "line 1 is .*accepted"),
        ("", "", "no pairs"),
    ],
)
def test_bad_files(tmp_path, pro, anti, match):
    _write(tmp_path, pro, anti)
    with pytest.raises(BadInput, match=match):
        read_winobias(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(BadInput, match=r"pro_stereotyped_type1.txt.test does not exist; accepted"):
        read_winobias(tmp_path)
