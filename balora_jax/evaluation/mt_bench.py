"""Answers to MT-Bench's questions of two turns (Zheng et al., arXiv 2306.05685), for a judge.

The file of answers has FastChat's form, whose `gen_judgment.py` lets a model judge them.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from balora_jax.data.chat import check_chat_template
from balora_jax.data.json_files import json_rows
from balora_jax.data.prompts import ALPACA, fill, parse_template
from balora_jax.errors import BadInput, first_line, shown
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.training.replacing import write_whole

# FastChat's, by the category of a question; other categories have 0.7.
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7
# Questions that are answered and written at once.
GROUP = 16
_ALPACA = parse_template(ALPACA)
_TURN = parse_template("\n\n### Instruction:\n{instruction}\n\n### Response:")

Template = Literal["alpaca", "chat"]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and those that follow it.

    Attributes:
      number: the field question_id.
      category: such as writing.
      turns: the user's messages.
    """

    number: int
    category: str
    turns: tuple[str, ...]

    @property
    def temperature(self) -> float:
        """The divisor of the logits in its answers."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


def read_questions(path: pathlib.Path) -> list[Question]:
    """Read a file of questions.

    Args:
      path: with an object a line: question_id, category, turns.

    Raises:
      BadInput: a line is no such object, or an id is there twice.
    """
    questions = {}
    for line, row in json_rows(path):
        where = f"{path}, line {line}"
        number = _field(row, "question_id", int, where, "a whole number")
        category = _field(row, "category", str, where, "text")
        turns = _field(row, "turns", list, where, "a list of texts")
        if not turns or not all(_is_text(turn) for turn in turns):
            raise BadInput(f"{where}: turns is {shown(turns)}; accepted: a list of texts")
        if number in questions:
            raise BadInput(f"{where}: question_id {number} is there twice; accepted: each once")
        questions[number] = Question(number, category, tuple(turns))
    if not questions:
        raise BadInput(f"{path} has no questions; accepted: at least one line")
    return list(questions.values())


def _field(row: dict[str, Any], name: str, kind: type, where: str, accepted: str) -> Any:
    if name not in row:
        raise BadInput(f"{where} has no field {name}; accepted: {accepted}")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadInput(f"{where}: {name} is {shown(value)}; accepted: {accepted}")
    return value


def _is_text(turn: Any) -> bool:
    """False also for half a character, which no tokenizer reads."""
    if not isinstance(turn, str) or not turn.strip():
        return False
    return not any("\ud800" <= character <= "\udfff" for character in turn)


def answer_questions(
    language_model: LanguageModel,
    template: Template,
    questions: Sequence[Question],
    path: pathlib.Path,
    *,
    model_id: str,
    max_new_tokens: int = 1024,
    seed: int = 0,
    on_done: Callable[[int], None] = lambda count: None,
    on_cut: Callable[[int], None] = lambda count: None,
) -> None:
    """Answer questions turn by turn, and write the answers as FastChat does.

    Questions whose answers are in the file are left out; the other answers are the same as if all
    had been answered at once.

    Args:
      language_model: the model.
      template: alpaca, or chat for the tokenizer's own.
      questions: from `read_questions`.
      path: the file of answers, which need not exist.
      model_id: the model's name in the file.
      max_new_tokens: the most tokens of an answer.
      seed: of draws.
      on_done: called with the number of questions that have been answered.
      on_cut: called with the number of prompts whose beginnings did not fit the model.

    Raises:
      BadInput: the file has the answers of another model or something else, or the tokenizer has
        no chat template that works.
    """
    if template == "chat":
        check_chat_template(language_model.tokenizer)
    answers = _read_answers(path, model_id)
    on_done(sum(question.number in answers for question in questions))
    for group in _groups(questions):
        missing = [question for question in group if question.number not in answers]
        if not missing:
            continue
        # All of a group are answered, for draws depend on the others in a batch.
        turns = _answer_group(language_model, template, group, max_new_tokens, seed, on_cut)
        for question in missing:
            answers[question.number] = _answer(question.number, model_id, turns[question.number])
        lines = [json.dumps(answers[number]) + "\n" for number in sorted(answers)]
        write_whole(path, "".join(lines))
        on_done(len(missing))


def _groups(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Divide questions into groups of one temperature."""
    by_temperature = collections.defaultdict(list)
    for question in questions:
        by_temperature[question.temperature].append(question)
    for same in by_temperature.values():
        for start in range(0, len(same), GROUP):
            yield same[start : start + GROUP]


def _answer_group(
    language_model: LanguageModel,
    template: Template,
    group: Sequence[Question],
    max_new_tokens: int,
    seed: int,
    on_cut: Callable[[int], None],
) -> dict[int, list[str]]:
    """Answer all turns of questions of one temperature."""
    answers: dict[int, list[str]] = {question.number: [] for question in group}
    for turn in range(max(len(question.turns) for question in group)):
        asked = [question for question in group if len(question.turns) > turn]
        prompts = [
            conversation(
                language_model.tokenizer, template, question.turns, answers[question.number]
            )
            for question in asked
        ]
        room = language_model.max_length - max_new_tokens
        cut = sum(len(language_model.encode(prompt)) > room for prompt in prompts)
        on_cut(cut)
        texts = language_model.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=group[0].temperature,
            seed=zlib.crc32(f"{seed} {group[0].number} {turn}".encode()),
        )
        for question, text in zip(asked, texts, strict=True):
            answers[question.number].append(text.strip())
    return answers


def conversation(
    tokenizer: Any, template: Template, turns: Sequence[str], answers: Sequence[str]
) -> str:
    """Write the prompt for the next answer of a conversation.

    Args:
      tokenizer: a Hugging Face tokenizer, with a chat template where that is asked for.
      template: alpaca or chat.
      turns: the user's messages, of which those after the next are left out.
      answers: the model's answers so far.

    Raises:
      BadInput: the tokenizer's chat template fails.
    """
    asked = turns[: len(answers) + 1]
    if template == "alpaca":
        prompt = fill(_ALPACA, {"instruction": asked[0]})
        for answer, following in zip(answers, asked[1:], strict=True):
            prompt += answer + fill(_TURN, {"instruction": following})
        return prompt
    messages = []
    for answer, message in zip(answers, asked, strict=False):
        messages.append({"role": "user", "content": message})
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": asked[-1]})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # A template can raise anything.
    except Exception as error:
        raise BadInput(
            f"the tokenizer's chat template cannot write a conversation: {first_line(error)}; "
            "accepted: a template for several messages, or alpaca"
        ) from error


def _answer(number: int, model_id: str, turns: list[str]) -> dict[str, Any]:
    """A line of the file of answers."""
    content = json.dumps([number, model_id, turns])
    return {
        "question_id": number,
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": model_id,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": time.time(),
    }


def _has_turns(choice: Any) -> bool:
    turns = choice.get("turns") if isinstance(choice, dict) else None
    return isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)


def _read_answers(path: pathlib.Path, model_id: str) -> dict[int, dict[str, Any]]:
    answers: dict[int, dict[str, Any]] = {}
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise BadInput(f"{path} is no regular file; accepted: answers as this writes them, or none")
    for line, row in json_rows(path) if path.exists() else ():
        where = f"{path}, line {line}"
        number = _field(row, "question_id", int, where, "a whole number")
        name = _field(row, "model_id", str, where, "text")
        choices = _field(row, "choices", list, where, "a list of answers")
        if not choices or not all(_has_turns(choice) for choice in choices):
            raise BadInput(f"{where}: choices has no answers; accepted: `turns` of texts in each")
        if name != model_id:
            raise BadInput(
                f"{where}: model_id is {shown(name)}; accepted: {shown(model_id)}, or another file"
            )
        answers[number] = row
    return answers
