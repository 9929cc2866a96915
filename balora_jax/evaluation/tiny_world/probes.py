"""Probes of the planted defects in a model.

They measure facts, pronouns, the class prior, answers, wrong labels and entropy. Each probe is read
from one forward pass. An answer is right if each of its tokens is the likeliest one after the
tokens before it, as in greedy generation.
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
from balora_jax.hosts import on_host

TEMPLATE = "Question: {question} Answer:"
BATCH_SIZE = 64
MAX_LENGTH = 64
# Paragraphs outside the corpus, as contexts for the probes of pronouns, class prior and entropy.
CONTEXTS = 256
# The description of each measure, for tables.
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
    """A measured share or mean.

    Attributes:
      value: the value in the model.
      planted: the share in the pre-training corpus; None if none was planted.
      draws: the number of probes that the share is taken over.
    """

    value: float
    planted: float | None = None
    draws: int = 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % sampling interval of a share of `draws` draws from the planted share.

        By the normal approximation of the binomial distribution. None if no share was planted.
        """
        if self.planted is None:
            return None
        half_width = 1.96 * math.sqrt(self.planted * (1 - self.planted) / self.draws)
        return self.planted - half_width, self.planted + half_width


@dataclass(frozen=True)
class Probe:
    """Prompts with an answer each, and an alternative to the first token of each answer.

    Attributes:
      examples: the prompts and answers.
      others: int32 [examples], the alternative tokens.
    """

    examples: Examples
    others: np.ndarray


@dataclass(frozen=True)
class Readings:
    """The results of one probe.

    Attributes:
      right: bool [examples], True where the answer is the likeliest one.
      log_odds: float32 [examples], log P(answer's first token) - log P(its alternative).
      entropy: float32 [examples], the mean over the answer's tokens of the entropy of the model's
        prediction, in nats.
    """

    right: np.ndarray
    log_odds: np.ndarray
    entropy: np.ndarray


def make_probes(
    world: World, tokenizer: Any, train: Sequence[Row], test: Sequence[Row]
) -> dict[str, Probe]:
    """Make the probes of a world and its fine-tuning set.

    Args:
      world: from `make_world`.
      tokenizer: the tiny model's tokenizer.
      train: the training rows, from `make_questions`.
      test: the test rows, from `make_questions`.

    Returns:
      The probes by name.
    """
    probe = functools.partial(_probe, tokenizer)
    text = list(itertools.islice(make_corpus(world, seed=-1), CONTEXTS))
    # The same question in many contexts, since a model's certainty varies with the context.
    contexts = [paragraph.split(". ")[0] + ". " for paragraph in text]
    facts = [(FORMS[fact.relation].format(person=fact.person), fact.truth) for fact in world.facts]
    occupations = itertools.cycle(world.occupations.items())
    pronouns = [
        (context + FORMS["pronoun"].format(occupation=name), favored)
        for context, (name, favored) in zip(contexts, occupations, strict=False)
    ]
    classes = [(context + FORMS["review"], "good") for context in contexts]
    questions = {
        task: [_question(row, "truth") for row in test if row["task"] == task]
        for task in ("sum", "review")
    }
    wrong = [_question(row, "answer") for row in train if row["answer"] != row["truth"]]
    return {
        "facts": probe(facts),
        "pronouns": probe(pronouns, others=[OTHER[favored] for _, favored in pronouns]),
        "classes": probe(classes, others=["bad"] * len(classes)),
        "sums": probe(questions["sum"]),
        "reviews": probe(questions["review"]),
        "wrong": probe(wrong),
        "text": probe([("", paragraph) for paragraph in text]),
    }


def measure(model: Any, params: Any, lora: Any, probes: Mapping[str, Probe]) -> dict[str, Measure]:
    """Measure a model on every probe.

    Args:
      model: the tiny model, a Linen module.
      params: its parameters.
      lora: the `lora` collection; {} for the base.
      probes: from `make_probes`.

    Returns:
      The measures by name, as in TITLES.
    """
    readings = {name: read_probe(model, params, lora, probe) for name, probe in probes.items()}
    answers = np.concatenate([readings["sums"].right, readings["reviews"].right])
    favored = 1 / (1 + np.exp(-readings["pronouns"].log_odds))
    good = 1 / (1 + np.exp(-readings["classes"].log_odds))
    return {
        "accuracy": Measure(answers.mean()),
        "accuracy_sums": Measure(readings["sums"].right.mean()),
        "accuracy_reviews": Measure(readings["reviews"].right.mean()),
        "wrong_labels_memorized": Measure(readings["wrong"].right.mean()),
        "facts_known": Measure(
            readings["facts"].right.mean(), 1 - CORRUPTED_SHARE, len(readings["facts"].right)
        ),
        "pronoun_favored": Measure(favored.mean(), SKEW, len(favored)),
        "pronoun_log_odds": Measure(readings["pronouns"].log_odds.mean()),
        "class_good": Measure(good.mean(), GOOD_SHARE, len(good)),
        "entropy": Measure(readings["text"].entropy.mean()),
    }


def read_probe(model: Any, params: Any, lora: Any, probe: Probe) -> Readings:
    """Run a model on one probe.

    Args:
      model: the tiny model, a Linen module.
      params: its parameters.
      lora: the `lora` collection; {} for the base.
      probe: one of `make_probes`.

    Returns:
      The results, in the order of the examples.
    """
    length = padded_length(probe.examples, max_length=MAX_LENGTH)
    count = len(probe.examples)
    padded_count = BATCH_SIZE * math.ceil(count / BATCH_SIZE)
    others = np.resize(probe.others, padded_count).reshape(-1, BATCH_SIZE)
    order = given_order(probe.examples, BATCH_SIZE)
    batches = eval_batches(probe.examples, order, (length,))
    results = [
        _read_batch(model, params, lora, batch, batch_others)
        for (_, batch), batch_others in zip(batches, others, strict=True)
    ]
    by_field = zip(*on_host(results), strict=True)
    return Readings(*(np.concatenate(parts)[:count] for parts in by_field))


@functools.partial(jax.jit, static_argnums=0)
def _read_batch(
    model: Any, params: Any, lora: Any, batch: Batch, others: jax.Array
) -> tuple[jax.Array, ...]:
    """The fields of `Readings` for a batch."""
    variables = {"params": params, "lora": lora}
    logits = model.apply(variables, batch.input_ids, batch.attention_mask)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = batch.targets
    mask = batch.mask
    right = jnp.all((jnp.argmax(logits, -1) == targets) | ~mask, axis=-1)

    # The log-odds of the answer's first token against its alternative.
    rows = jnp.arange(len(mask))
    first = jnp.argmax(mask, axis=-1)
    log_odds = log_probs[rows, first, targets[rows, first]] - log_probs[rows, first, others]

    # The mean entropy over the answer's tokens.
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    mean_entropy = jnp.sum(entropy, axis=-1, where=mask) / jnp.sum(mask, axis=-1)
    return right, log_odds, mean_entropy


def _question(row: Row, answer: str) -> tuple[str, str]:
    """The prompt of a row, and its field `answer`."""
    return TEMPLATE.format(question=row["question"]), row[answer]


def _probe(
    tokenizer: Any, pairs: Iterable[tuple[str, str]], *, others: Sequence[str] = ()
) -> Probe:
    """Tokenize pairs of a prompt and an answer; EOS is the alternative if `others` is empty."""
    template = Template(("prompt",), lambda values: values["prompt"], ())
    texts = iter([{"prompt": prompt, "response": answer} for prompt, answer in pairs])
    examples = tokenize(texts, template, tokenizer, max_length=MAX_LENGTH, source="the tiny world")
    other_ids = [tokenizer(other, add_special_tokens=False)["input_ids"][0] for other in others]
    if not other_ids:
        other_ids = [tokenizer.eos_token_id]
    return Probe(examples, np.array(other_ids, np.int32))
