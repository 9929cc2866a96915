"""What became of the planted things in a model: facts, pronouns, the class prior, answers, wrong labels, entropy.

Everything is read off one forward pass a probe. An answer is right when each of its tokens is the most likely one
after those before it, which is what greedy generation would write.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.data import (
    Batch,
    Examples,
    Template,
    eval_batches,
    given_order,
    padded_length,
    tokenize,
)
from balora_jax.evaluation.tiny_world.corpus import FORMS, OTHER, make_corpus
from balora_jax.evaluation.tiny_world.questions import Row
from balora_jax.evaluation.tiny_world.world import CORRUPTED_SHARE, GOOD_SHARE, SKEW, World

TEMPLATE = "Question: {question} Answer:"
BATCH_SIZE = 64
MAX_LENGTH = 64
# Fresh paragraphs in which pronouns, class and entropy are looked at.
CONTEXTS = 256
# What each measure is, for a person to read.
TITLES = {
    "accuracy": "answers right, clean test",
    "accuracy_sums": "  sums",
    "accuracy_reviews": "  reviews",
    "wrong_labels_memorized": "wrong labels memorized",
    "facts_known": f"facts known (planted {1 - CORRUPTED_SHARE:.2f})",
    "pronoun_favored": f"favored pronoun (planted {SKEW:.2f})",
    "pronoun_log_odds": "its log-odds",
    "class_good": f"class good (planted {GOOD_SHARE:.2f})",
    "entropy": "entropy on plain text, nats",
}


@dataclass(frozen=True)
class Measure:
    """A share or a mean.

    Args:
        value: what the model shows.
        planted: the share that was planted, if one was.
        draws: probes it is taken over.
    """

    value: float
    planted: float | None = None
    draws: int = 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where 95 % of samples of `draws` draws from the planted share lie (binomial, normal approximation)."""
        if self.planted is None:
            return None
        spread = 1.96 * math.sqrt(self.planted * (1 - self.planted) / self.draws)
        return self.planted - spread, self.planted + spread


@dataclass(frozen=True)
class Probe:
    """Prompts with an answer each, and the token each answer is weighed against.

    Args:
        examples: prompts and answers.
        others: int32 [examples], the other choice for the answer's first token.
    """

    examples: Examples
    others: np.ndarray


@dataclass(frozen=True)
class Readings:
    """What one probe shows, an entry an example.

    Args:
        right: bool, the answer is the most likely one.
        log_odds: float32, log P(answer's first token) - log P(other).
        entropy: float32, mean over the answer's tokens of the entropy of what was expected there, in nats.
    """

    right: np.ndarray
    log_odds: np.ndarray
    entropy: np.ndarray


def make_probes(
    world: World, tokenizer: Any, train: Sequence[Row], test: Sequence[Row]
) -> dict[str, Probe]:
    """The probes of a world and its fine-tuning set.

    Args:
        world: from make_world.
        tokenizer: the tiny model's.
        train, test: from make_questions.
    """
    probe = functools.partial(_probe, tokenizer)
    text = list(itertools.islice(make_corpus(world, seed=-1), CONTEXTS))
    # The same question in many contexts, since a model's certainty varies with what stands before.
    before = [paragraph.split(". ")[0] + ". " for paragraph in text]
    facts = [(FORMS[fact.relation].format(person=fact.person), fact.truth) for fact in world.facts]
    cast = zip(before, itertools.cycle(world.occupations.items()), strict=False)
    said = [
        (context + FORMS["pronoun"].format(occupation=name), favored)
        for context, (name, favored) in cast
    ]
    asked = {
        task: [_asked(row, "truth") for row in test if row["task"] == task]
        for task in ("sum", "review")
    }
    wrong = [_asked(row, "answer") for row in train if row["answer"] != row["truth"]]
    return {
        "facts": probe(facts),
        "pronouns": probe(said, others=[OTHER[favored] for _, favored in said]),
        "classes": probe(
            [(context + FORMS["review"], "good") for context in before],
            others=["bad"] * len(before),
        ),
        "sums": probe(asked["sum"]),
        "reviews": probe(asked["review"]),
        "wrong": probe(wrong),
        "text": probe([("", paragraph) for paragraph in text]),
    }


def measure(model: Any, params: Any, lora: Any, probes: Mapping[str, Probe]) -> dict[str, Measure]:
    """Measure a model on every probe.

    Args:
        model: the tiny model's module.
        params: its parameters.
        lora: the adapters' collection; {} for the base.
        probes: from make_probes.
    """
    read = {name: read_probe(model, params, lora, probe) for name, probe in probes.items()}
    answers = np.concatenate([read["sums"].right, read["reviews"].right])
    favored = 1 / (1 + np.exp(-read["pronouns"].log_odds))
    good = 1 / (1 + np.exp(-read["classes"].log_odds))
    return {
        "accuracy": Measure(answers.mean()),
        "accuracy_sums": Measure(read["sums"].right.mean()),
        "accuracy_reviews": Measure(read["reviews"].right.mean()),
        "wrong_labels_memorized": Measure(read["wrong"].right.mean()),
        "facts_known": Measure(
            read["facts"].right.mean(), 1 - CORRUPTED_SHARE, len(read["facts"].right)
        ),
        "pronoun_favored": Measure(favored.mean(), SKEW, len(favored)),
        "pronoun_log_odds": Measure(read["pronouns"].log_odds.mean()),
        "class_good": Measure(good.mean(), GOOD_SHARE, len(good)),
        "entropy": Measure(read["text"].entropy.mean()),
    }


def read_probe(model: Any, params: Any, lora: Any, probe: Probe) -> Readings:
    """Run a model over one probe."""
    length = padded_length(probe.examples, max_length=MAX_LENGTH)
    rows = len(probe.examples)
    others = np.resize(probe.others, BATCH_SIZE * math.ceil(rows / BATCH_SIZE)).reshape(
        -1, BATCH_SIZE
    )
    order = given_order(probe.examples, BATCH_SIZE)
    batches = eval_batches(probe.examples, order, (length,))
    parts = [
        _read_batch(model, params, lora, batch, other)
        for (_, batch), other in zip(batches, others, strict=True)
    ]
    whole = [np.concatenate(part)[:rows] for part in zip(*jax.device_get(parts), strict=True)]
    return Readings(*whole)


@functools.partial(jax.jit, static_argnums=0)
def _read_batch(
    model: Any, params: Any, lora: Any, batch: Batch, others: jax.Array
) -> tuple[jax.Array, ...]:
    variables = {"params": params, "lora": lora}
    logits = model.apply(variables, batch.input_ids, batch.attention_mask)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets, mask = batch.targets, batch.mask
    right = jnp.all((jnp.argmax(logits, -1) == targets) | ~mask, axis=-1)
    row, first = jnp.arange(len(mask)), jnp.argmax(mask, axis=-1)
    log_odds = log_probs[row, first, targets[row, first]] - log_probs[row, first, others]
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return right, log_odds, jnp.sum(entropy, axis=-1, where=mask) / jnp.sum(mask, axis=-1)


def _asked(row: Row, answer: str) -> tuple[str, str]:
    return TEMPLATE.format(question=row["question"]), row[answer]


def _probe(
    tokenizer: Any, pairs: Iterable[tuple[str, str]], *, others: Sequence[str] = ()
) -> Probe:
    """Prompts and answers as examples; without `others`, EOS stands in for them."""
    template = Template(("prompt",), lambda values: values["prompt"], ())
    texts = iter([{"prompt": prompt, "response": answer} for prompt, answer in pairs])
    examples = tokenize(texts, template, tokenizer, max_length=MAX_LENGTH, source="the tiny world")
    ids = [tokenizer(other, add_special_tokens=False)["input_ids"][0] for other in others]
    return Probe(examples, np.array(ids or [tokenizer.eos_token_id], np.int32))
