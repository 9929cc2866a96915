"""Answers to MT-Bench in two turns: prompts, temperatures, FastChat's file, and resumption."""

import json

import pytest

from balora_jax.data.prompts import make_template
from balora_jax.errors import BadInput
from balora_jax.evaluation import mt_bench

CATEGORIES = ["writing", "math", "stem", "roleplay", "coding", "humanities", "riddles"]
ROWS = [
    {
        "question_id": 81 + number,
        "category": category,
        "turns": [f"{category}?", f"more {category}?"],
    }
    for number, category in enumerate(CATEGORIES)
]


class Tokenizer:
    """A tokenizer with a chat template as Hugging Face's apply_chat_template reads it."""

    eos_token_id = 0
    chat_template = "{{ messages }}"

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt=False):
        assert not tokenize
        text = "".join(f"<{message['role']}>{message['content']}</>" for message in messages)
        return text + "<assistant>" if add_generation_prompt else text


class Model:
    """A language model whose answers tell the temperature, the seed and the prompt's place."""

    def __init__(self, most_calls=None):
        self.tokenizer = Tokenizer()
        self.calls = []
        self.max_length = 4096
        self._most_calls = most_calls

    def encode(self, text):
        return list(text)

    def generate(self, prompts, *, max_new_tokens, temperature, seed):
        if len(self.calls) == self._most_calls:
            raise KeyboardInterrupt
        self.calls.append((list(prompts), max_new_tokens, temperature, seed))
        return [f" {number} {temperature} {seed}\n" for number in range(len(prompts))]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "question.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return mt_bench.read_questions(path)


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _answer(questions, path, template="alpaca", model_id="base", **options):
    model = Model()
    mt_bench.answer_questions(model, template, questions, path, model_id=model_id, **options)
    return model


def test_the_file_has_fastchats_form(questions, tmp_path):
    path = tmp_path / "base.jsonl"
    _answer(questions, path)
    lines = _lines(path)
    assert [line["question_id"] for line in lines] == [row["question_id"] for row in ROWS]
    for line in lines:
        assert list(line) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
        assert line["model_id"] == "base"
        [choice] = line["choices"]
        assert choice["index"] == 0 and len(choice["turns"]) == 2
        assert all(turn == turn.strip() for turn in choice["turns"])
    assert len({line["answer_id"] for line in lines}) == len(lines)


def test_temperatures_are_fastchats(questions, tmp_path):
    model = _answer(questions, tmp_path / "base.jsonl", max_new_tokens=7)
    used = {}
    for prompts, count, temperature, _ in model.calls:
        assert count == 7
        used |= {category: temperature for category in CATEGORIES if category in str(prompts)}
    expected = {"writing": 0.7, "math": 0.0, "stem": 0.1, "roleplay": 0.7, "coding": 0.0}
    assert used == expected | {"humanities": 0.1, "riddles": 0.7}


def test_the_first_prompt_of_alpaca_is_that_of_training():
    expected = make_template("alpaca", Tokenizer()).render({"instruction": "a?"})
    assert mt_bench.conversation(Tokenizer(), "alpaca", ["a?", "b?"], []) == expected


def test_the_second_prompt_has_the_first_answer():
    first = mt_bench.conversation(Tokenizer(), "alpaca", ["a?", "b?"], [])
    second = mt_bench.conversation(Tokenizer(), "alpaca", ["a?", "b?"], [" one"])
    assert second == first + " one\n\n### Instruction:\nb?\n\n### Response:"
    chat = mt_bench.conversation(Tokenizer(), "chat", ["a?", "b?"], ["one"])
    assert chat == "<user>a?</><assistant>one</><user>b?</><assistant>"


def test_questions_of_three_turns_and_of_one(tmp_path):
    questions = [
        mt_bench.Question(1, "math", ("a?",)),
        mt_bench.Question(2, "math", ("a?", "b?", "c?")),
    ]
    model = _answer(questions, tmp_path / "base.jsonl")
    assert [len(prompts) for prompts, *_ in model.calls] == [2, 1, 1]
    assert [len(line["choices"][0]["turns"]) for line in _lines(tmp_path / "base.jsonl")] == [1, 3]


def test_a_resumed_run_asks_what_is_missing_and_has_the_same_answers(
    questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(mt_bench, "GROUP", 2)
    whole = tmp_path / "whole.jsonl"
    model = _answer(questions, whole)
    resumed = tmp_path / "resumed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        mt_bench.answer_questions(Model(3), "alpaca", questions, resumed, model_id="base")
    # The second group was in its second turn.
    assert len(_lines(resumed)) == 2
    done = []
    second = _answer(questions, resumed, on_done=done.append)
    assert len(second.calls) == len(model.calls) - 2
    assert done[0] == 2 and sum(done) == len(ROWS)
    for before, after in zip(_lines(whole), _lines(resumed), strict=True):
        assert {**before, "tstamp": 0} == {**after, "tstamp": 0}
    assert not _answer(questions, resumed).calls


def test_another_seed_draws_other_answers(questions, tmp_path):
    _answer(questions, tmp_path / "a.jsonl")
    _answer(questions, tmp_path / "b.jsonl", seed=1)
    assert _lines(tmp_path / "a.jsonl")[0]["choices"] != _lines(tmp_path / "b.jsonl")[0]["choices"]


def test_the_answers_of_another_model_are_kept(questions, tmp_path):
    path = tmp_path / "base.jsonl"
    _answer(questions, path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="line 1: model_id is 'base'; accepted: 'adapter', or"):
        _answer(questions, path, model_id="adapter")
    assert path.read_bytes() == before


def test_a_tokenizer_without_a_chat_template_is_refused(questions, tmp_path):
    model = Model()
    model.tokenizer.chat_template = None
    with pytest.raises(BadInput, match="no chat template"):
        mt_bench.answer_questions(model, "chat", questions, tmp_path / "a.jsonl", model_id="a")
    assert not (tmp_path / "a.jsonl").exists()


def test_a_template_for_one_message_only_is_refused():
    tokenizer = Tokenizer()
    tokenizer.apply_chat_template = lambda *_, **__: 1 / 0
    with pytest.raises(BadInput, match="accepted: a template for several messages, or alpaca"):
        mt_bench.conversation(tokenizer, "chat", ["a?", "b?"], ["one"])


BAD = {
    '{"category": "math", "turns": ["a"]}': "line 1 has no field question_id",
    '{"question_id": 1, "turns": ["a"]}': "line 1 has no field category",
    '{"question_id": 1, "category": "math"}': "line 1 has no field turns",
    '{"question_id": "1", "category": "math", "turns": ["a"]}': "line 1: question_id is '1'",
    '{"question_id": true, "category": "math", "turns": ["a"]}': "line 1: question_id is True",
    '{"question_id": 1, "category": 2, "turns": ["a"]}': "line 1: category is 2",
    '{"question_id": 1, "category": "math", "turns": []}': "line 1: turns is ",
    '{"question_id": 1, "category": "math", "turns": ["a \\ud83d"]}': "line 1: turns is ",
    '{"question_id": 1, "category": "math", "turns": ["a", 2]}': "line 1: turns is ",
    '{"question_id": 1, "category": "math", "turns": [" "]}': "line 1: turns is ",
    '{"question_id": 1,': "line 1, column",
    '{"question_id": 1, "category": "x", "turns": ["a"]}\n' * 2: "line 2: question_id 1 is there",
    "": "has no questions",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_of_questions_is_refused(tmp_path, text):
    path = tmp_path / "question.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        mt_bench.read_questions(path)
    assert BAD[text] in str(error.value)
    assert str(path) in str(error.value) and "accepted: " in str(error.value)


def test_the_real_questions(shared):
    questions = mt_bench.read_questions(shared / "data" / "mt_bench" / "question.jsonl")
    assert len(questions) == 80
    assert {question.category for question in questions} == set(mt_bench.TEMPERATURES)
    assert all(len(question.turns) == 2 for question in questions)


def test_prompts_that_do_not_fit_are_counted(tmp_path, questions):
    model = Model()
    model.max_length = 1024 + 200
    cut = []
    path = tmp_path / "answers.jsonl"
    mt_bench.answer_questions(model, "alpaca", questions, path, model_id="m", on_cut=cut.append)
    prompts = [prompt for prompts, *_ in model.calls for prompt in prompts]
    expected = sum(len(prompt) > 200 for prompt in prompts)
    assert sum(cut) == expected and 0 < expected < len(prompts)


@pytest.mark.parametrize("choices", [[], [5], [{"turns": "a"}], [{"turns": [1]}], [{}]])
def test_answers_without_content_are_refused(tmp_path, questions, choices):
    path = tmp_path / "answers.jsonl"
    row = {"question_id": questions[0].number, "model_id": "m", "choices": choices}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=r"line 1: choices .*; accepted"):
        mt_bench.answer_questions(Model(), "alpaca", questions, path, model_id="m")
