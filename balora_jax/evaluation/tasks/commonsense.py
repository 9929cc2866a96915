"""The eight commonsense sets in the questions and answers of LLM-Adapters (arXiv 2304.01933)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from balora_jax.errors import BadInput, shown
from balora_jax.evaluation.tasks.prompts import alpaca

Doc = Mapping[str, Any]


def extract_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the first choice that an answer names, as the paper's code does.

    Args:
      text: a model's answer.
      choices: such as solution1 and solution2, with capital letters as they are.

    Returns:
      The choice; None if the answer names none.
    """
    match = re.search("|".join(map(re.escape, choices)), text)
    return match[0] if match else None


def _score(answers: Sequence[str], target: str, names: Sequence[str]) -> dict[str, float]:
    found = extract_choice(answers[0], names)
    return {"acc": float(found == target), "answered": float(found is not None)}


def _names(name: str, count: int) -> list[str]:
    return [f"{name}{number}" for number in range(1, count + 1)]


def _ask(question: str, name: str, options: Sequence[str], separator: str = " ") -> str:
    """Write a question with numbered options."""
    listed = separator.join(
        f"{name}{number}: {option}" for number, option in enumerate(options, start=1)
    )
    numbers = range(1, len(options) + 1)
    answers = "/".join(f"{name.lower()}{number}" for number in numbers)
    return alpaca(f"{question}\n\n{listed}\n\nAnswer format: {answers}")


def _numbered(doc: Doc, field: str, name: str, first: int, count: int) -> str:
    """The right choice of a row whose label is a number."""
    label = str(doc[field]).strip()
    accepted = [str(number) for number in range(first, first + count)]
    if label not in accepted:
        raise BadInput(
            f"the field {field} of a row is {shown(doc[field])}; "
            f"accepted: a labeled split, with {', '.join(accepted)}"
        )
    return f"{name}{accepted.index(label) + 1}"


def boolq_prompt(doc: Doc) -> str:
    """Write the prompt of a row of BoolQ, whose passage is left out as in LLM-Adapters."""
    question = doc["question"].strip().removesuffix("?")
    return alpaca(
        f"Please answer the following question with true or false, question: {question}?\n\n"
        "Answer format: true/false"
    )


def boolq_target(doc: Doc) -> str:
    """Return true or false."""
    if not isinstance(doc["answer"], bool):
        raise BadInput(
            f"the field answer of a row of BoolQ is {shown(doc['answer'])}; accepted: true or false"
        )
    return "true" if doc["answer"] else "false"


def boolq_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    return _score(answers, boolq_target(doc), ("true", "false"))


def piqa_prompt(doc: Doc) -> str:
    """Write the prompt of a row of PIQA."""
    question = f"Please choose the correct solution to the question: {doc['goal']}"
    return _ask(question, "Solution", [doc["sol1"], doc["sol2"]], "\n\n")


def piqa_target(doc: Doc) -> str:
    """Return solution1 or solution2."""
    return _numbered(doc, "label", "solution", 0, 2)


def piqa_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    return _score(answers, piqa_target(doc), _names("solution", 2))


def siqa_prompt(doc: Doc) -> str:
    """Write the prompt of a row of Social IQa."""
    question = f"{doc['context']} {doc['question']}"
    options = [doc["answerA"], doc["answerB"], doc["answerC"]]
    return _ask(f"Please choose the correct answer to the question: {question}", "Answer", options)


def siqa_target(doc: Doc) -> str:
    """Return answer1, answer2 or answer3."""
    return _numbered(doc, "label", "answer", 1, 3)


def siqa_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    return _score(answers, siqa_target(doc), _names("answer", 5))


def hellaswag_prompt(doc: Doc) -> str:
    """Write the prompt of a row of HellaSwag."""
    sentence = f"{doc['activity_label']}: {doc['ctx']}"
    question = f"Please choose the correct ending to complete the given sentence: {sentence}"
    return _ask(question, "Ending", doc["endings"])


def hellaswag_target(doc: Doc) -> str:
    """Return ending1, ending2, ending3 or ending4."""
    return _numbered(doc, "label", "ending", 0, 4)


def hellaswag_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    return _score(answers, hellaswag_target(doc), _names("ending", 4))


def winogrande_prompt(doc: Doc) -> str:
    """Write the prompt of a row of WinoGrande."""
    return alpaca(
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{doc['sentence']}\n\nOption1: {doc['option1']} Option2: {doc['option2']} "
        "Answer format: option1/option2"
    )


def winogrande_target(doc: Doc) -> str:
    """Return option1 or option2."""
    return _numbered(doc, "answer", "option", 1, 2)


def winogrande_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    return _score(answers, winogrande_target(doc), _names("option", 2))


def arc_prompt(doc: Doc) -> str:
    """Write the prompt of a row of ARC."""
    question = f"Please choose the correct answer to the question: {doc['question']}"
    return _ask(question, "Answer", doc["choices"]["text"])


def openbookqa_prompt(doc: Doc) -> str:
    """Write the prompt of a row of OpenBookQA."""
    question = f"Please choose the correct answer to the question: {doc['question_stem']}"
    return _ask(question, "Answer", doc["choices"]["text"])


def key_target(doc: Doc) -> str:
    """Return the choice of a row of ARC or OpenBookQA, whose key is a letter or a number."""
    labels = doc["choices"]["label"]
    key = doc["answerKey"].strip()
    if key not in labels:
        raise BadInput(
            f"the field answerKey of a row is {shown(doc['answerKey'])}; "
            f"accepted: one of its labels, {', '.join(labels)}"
        )
    return f"answer{labels.index(key) + 1}"


def key_score(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    """Score the answer to a row: acc, and answered, which is 1 if it names a choice."""
    # ARC has questions of three and of five choices.
    return _score(answers, key_target(doc), _names("answer", 5))
