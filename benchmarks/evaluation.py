"""Scores and speed of `balora evaluate` beside lm-eval's own model in PyTorch (extra eval, torch).

    python -m benchmarks.evaluation --model DIR --crows_pairs FILE.csv --gsm8k FILE.jsonl
    python -m benchmarks.evaluation --model DIR --crows_pairs FILE.csv --gsm8k FILE.jsonl --parity

Without --parity: the time for the log-likelihoods of CrowS-Pairs sentences, and of answers to
choose from after shared examples, in turn, at several batch sizes of lm-eval's model. With
--parity: the largest difference of 200 log-likelihoods, and how many of 20 greedy answers are
equal.
"""

import argparse
import csv
import json
import time

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from balora_jax import data
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained
from benchmarks.measure import write

STOP = ["Question:"]


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def sentences(path: str, count: int) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [row[name] for row in rows for name in ("sent_more", "sent_less")]
    return [("", text) for text in texts[:count]]


def ours(folder: str) -> LanguageModel:
    model, params = load_pretrained(folder)
    return LanguageModel("ours", model, params, None, data.load_tokenizer(folder))


def theirs(folder: str, batch_size: int) -> HFLM:
    return HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=batch_size)


def parity(options: argparse.Namespace) -> dict:
    pairs = sentences(options.crows_pairs, 200)
    with open(options.gsm8k, encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line, _ in zip(file, range(20), strict=False)]
    prompts = [f"Question: {question}\nAnswer:" for question in questions]
    reference = theirs(options.model, 8)
    expected = reference.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    settings = {"until": STOP, "max_gen_toks": options.tokens, "do_sample": False}
    requests = instances("generate_until", [(prompt, settings) for prompt in prompts])
    answers = reference.generate_until(requests, disable_tqdm=True)
    model = ours(options.model)
    scores = model.log_likelihoods(pairs)
    differences = [
        abs(score.log_likelihood - value)
        for score, (value, _) in zip(scores, expected, strict=True)
    ]
    found = model.generate(prompts, max_new_tokens=options.tokens, stop=STOP)
    equal = sum(left == right for left, right in zip(found, answers, strict=True))
    return {
        "sentences": len(pairs),
        "largest_difference_nats": max(differences),
        "answers": len(prompts),
        "equal_answers": equal,
        "new_tokens": options.tokens,
    }


def choices(path: str, count: int) -> list[tuple[str, str]]:
    """Questions after the same three examples, each with four answers to choose from."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(count + 3), strict=False)]
    written = [f"Question: {row['question']}\nAnswer:" for row in rows]
    answers = [row["answer"].rpartition("#### ")[2] for row in rows]
    examples = "".join(f"{written[index]} {answers[index]}\n\n" for index in range(3))
    pairs = []
    for index in range(3, len(rows)):
        others = [answers[(index + step) % len(rows)] for step in range(4)]
        pairs += [(examples + written[index], f" {answer}") for answer in others]
    return pairs


def speed(options: argparse.Namespace) -> dict:
    """The seconds of each model, in turn, for two sets of requests."""
    sets = {
        "sentences": sentences(options.crows_pairs, options.count),
        "choices": choices(options.gsm8k, options.count // 16),
    }
    model = ours(options.model)
    references = {size: theirs(options.model, size) for size in options.batch_sizes}
    results = {"threads": torch.get_num_threads()}
    for name, pairs in sets.items():
        requests = instances("loglikelihood", pairs)
        seconds: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            start = time.perf_counter()
            model.log_likelihoods(pairs)
            seconds.setdefault("ours", []).append(time.perf_counter() - start)
            for size, reference in references.items():
                start = time.perf_counter()
                reference.loglikelihood(requests, disable_tqdm=True)
                seconds.setdefault(f"hf, batches of {size}", []).append(time.perf_counter() - start)
        results[name] = {"requests": len(pairs), "seconds": seconds}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--crows_pairs", required=True, help="crows_pairs.csv")
    parser.add_argument("--gsm8k", required=True, help="test.jsonl")
    parser.add_argument("--parity", action="store_true", help="compare the numbers, not the time")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument(
        "--count", type=int, default=400, help="sentences to time, and 16 for each question"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    name = "evaluation_parity" if options.parity else "evaluation_speed"
    result = parity(options) if options.parity else speed(options)
    print(json.dumps(result, indent=2))
    write(name, result)


if __name__ == "__main__":
    main()
