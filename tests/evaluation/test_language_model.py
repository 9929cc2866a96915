"""Texts against lm-eval's own model in PyTorch: the same scores and the same continuations."""

import json
import shutil

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from balora_jax import data
from balora_jax.errors import BadInput
from balora_jax.evaluation.language_model import LanguageModel, cut
from balora_jax.models import end_ids, load_pretrained

PAIRS = [
    ("1+1=", "2"), ("", "2+3=5"), ("ends with spaces  ", "x"), ("a", " b c"),
    ("7", "8" * 40), ("0" * 300, "1"),
]  # fmt: skip


def _language_model(folder, **options):
    model, params = load_pretrained(folder)
    return LanguageModel("base", model, params, None, data.load_tokenizer(folder), **options)


def _reference(folder):
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=2)


def _instances(kind, arguments):
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


@pytest.fixture(scope="module")
def tiny(tiny_llama):
    return _language_model(tiny_llama)


@pytest.fixture(scope="module")
def reference(tiny_llama):
    return _reference(tiny_llama)


def test_pairs_score_as_in_lm_eval(tiny, reference):
    expected = reference.loglikelihood(_instances("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, score, (log_likelihood, greedy) in zip(
        PAIRS, tiny.log_likelihoods(PAIRS), expected, strict=True
    ):
        assert score.log_likelihood == pytest.approx(log_likelihood, abs=1e-3), pair
        assert score.greedy == greedy


def test_a_context_of_spaces_is_none(tiny):
    assert tiny.log_likelihoods([(" ", "y")]) == tiny.log_likelihoods([("", " y")])


def test_texts_longer_than_the_model_score_as_in_lm_eval(tiny, reference):
    texts = ["1+2=3", "9" * 700, "ab" * 128, "x"]
    instances = _instances("loglikelihood_rolling", [(text,) for text in texts])
    expected = reference.loglikelihood_rolling(instances, disable_tqdm=True)
    found = tiny.text_log_likelihoods(texts)
    np.testing.assert_allclose([score.log_likelihood for score in found], expected, rtol=1e-5)
    assert [score.tokens for score in found] == [len(tiny.encode(text)) for text in texts]


@pytest.mark.parametrize("stop", [[], ["no such text"]])
def test_the_ends_of_turns_end_a_text_as_in_transformers(tiny_llama, tmp_path, stop):
    """A second end in generation_config.json: a token that the model writes in some answers."""
    prompts = ["1+1=", "12+3=", "ab", "9"]
    plain = _language_model(tiny_llama).generate(prompts, max_new_tokens=12)
    folder = shutil.copytree(tiny_llama, tmp_path / "llama")
    tokenizer = data.load_tokenizer(folder)
    turn_end = tokenizer(plain[0], add_special_tokens=False)["input_ids"][3]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, turn_end]}))
    assert end_ids(folder) == (2, turn_end)
    requests = [
        (prompt, {"until": stop, "max_gen_toks": 12, "do_sample": False}) for prompt in prompts
    ]
    expected = _reference(folder).generate_until(
        _instances("generate_until", requests), disable_tqdm=True
    )
    model = _language_model(folder, end_ids=end_ids(folder))
    # transformers keeps the token that ends a turn where it is no special one.
    ended = [text.split(tokenizer.decode([turn_end]))[0] for text in expected]
    found = model.generate(prompts, max_new_tokens=12, stop=stop)
    assert found == ended and found[0] != plain[0]


@pytest.mark.parametrize("stop", [[], ["3"], ["no such text"]])
def test_continuations_are_those_of_lm_eval(tiny, reference, stop):
    prompts = ["1+1=", "12+30=", "a much longer prompt, of many letters: 7"]
    options = {"until": stop, "max_gen_toks": 12, "do_sample": False}
    arguments = [(prompt, options) for prompt in prompts]
    expected = reference.generate_until(_instances("generate_until", arguments), disable_tqdm=True)
    assert tiny.generate(prompts, max_new_tokens=12, stop=stop) == expected


def test_more_prompts_than_a_batch_are_continued_alike(tiny):
    prompts = [f"{number}+{number}=" for number in range(40)]
    together = tiny.generate(prompts, max_new_tokens=4)
    assert together == [tiny.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]


def test_draws_differ_between_prompts_and_repeat_with_the_seed(tiny):
    options = {"max_new_tokens": 8, "temperature": 2.0}
    drawn = tiny.generate(["1+1="] * 4, seed=3, **options)
    assert len(set(drawn)) > 1
    assert tiny.generate(["1+1="] * 4, seed=3, **options) == drawn
    assert tiny.generate(["1+1="] * 4, seed=4, **options) != drawn


def test_more_tokens_than_the_model_has_are_refused(tiny):
    with pytest.raises(BadInput, match=r"new tokens do not fit the model's .* positions; accepted"):
        tiny.generate(["1"], max_new_tokens=10**6)


def test_a_text_is_cut_before_the_first_of_several():
    assert cut("one two three", ["three", "two"]) == "one "
    assert cut("one", ["two"]) == "one"
    assert cut("two", ["two"]) == ""


def test_probabilities_of_the_next_token_sum_to_one(tiny):
    log_probs = tiny.next_log_probs(["", "1+1=", "a longer text"])
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, atol=1e-5)
