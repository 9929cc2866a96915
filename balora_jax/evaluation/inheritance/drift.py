"""Knowledge drift: how a fine-tuned model reads general text, beside its base."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval, bootstrap
from balora_jax.generation.prompts import batches_by_length
from balora_jax.generation.scoring import CHUNK, logits_function, make_batch
from balora_jax.hosts import on_host
from balora_jax.training.processes import require_same

MOST_CHANGED = 10
# Characters of a passage that are shown.
SHOWN = 400


class TokenSums(NamedTuple):
    """Sums over the tokens of a passage.

    Attributes:
      forward: KL(base || tuned), nats.
      backward: KL(tuned || base), nats.
      agree: tokens whose likeliest prediction is the same in both.
      loss_before: -log P of the tokens in the base, nats.
      loss_after: in the fine-tuned model.
      entropy_before: of the base's predictions, nats.
      entropy_after: of the fine-tuned model's.
    """

    forward: np.ndarray
    backward: np.ndarray
    agree: np.ndarray
    loss_before: np.ndarray
    loss_after: np.ndarray
    entropy_before: np.ndarray
    entropy_after: np.ndarray


@dataclasses.dataclass(frozen=True)
class ChangedPassage:
    """A passage that the fine-tuned model reads differently.

    Attributes:
      text: its beginning.
      divergence: the mean KL(base || tuned) of its tokens, nats.
      loss_before: the mean loss of its tokens in the base, nats.
      loss_after: in the fine-tuned model.
    """

    text: str
    divergence: float
    loss_before: float
    loss_after: float


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift of a fine-tuned model from its base on general text; means over tokens.

    Intervals are over passages. The drift cannot say whether the change is a loss of knowledge or
    of style: read the passages, and the change of the loss.

    Attributes:
      forward: KL(base || tuned), nats, at least 0; 0 only if all predictions are the same.
      backward: KL(tuned || base), nats.
      agreement: the share of tokens whose likeliest prediction is the same, 0 to 1.
      loss_before: the base's loss, nats; exp of it is the perplexity.
      loss_after: the fine-tuned model's.
      forgetting: loss_after - loss_before, nats; above 0 the text is less expected than before.
      entropy_before: the mean entropy of the base's predictions, nats.
      entropy_after: the fine-tuned model's.
      tokens: the tokens.
      passages: the passages.
      most_changed: those with the largest divergence.
    """

    forward: Interval
    backward: Interval
    agreement: Interval
    loss_before: Interval
    loss_after: Interval
    forgetting: Interval
    entropy_before: Interval
    entropy_after: Interval
    tokens: int
    passages: int
    most_changed: tuple[ChangedPassage, ...]

    @property
    def perplexity_before(self) -> float:
        """The base's perplexity."""
        return math.exp(self.loss_before.value)

    @property
    def perplexity_after(self) -> float:
        """The fine-tuned model's perplexity."""
        return math.exp(self.loss_after.value)

    def to_json(self) -> dict[str, Any]:
        """The drift as an object."""
        perplexities = {"before": self.perplexity_before, "after": self.perplexity_after}
        return dataclasses.asdict(self) | {"perplexity": perplexities}


def measure_drift(base: LanguageModel, tuned: LanguageModel, passages: Sequence[str]) -> Drift:
    """Compare the predictions of two models at every token of passages.

    The forgetting is that of PEFT's benchmark of methods: the change of the loss on general text.

    Args:
      base: the model before fine-tuning.
      tuned: the same architecture and tokenizer with other weights or adapters.
      passages: general text, at least one passage; none may be empty.

    Returns:
      The drift.
    """
    encoded = [base.encode(passage, special=False) for passage in passages]
    sums, counts = token_sums(base, tuned, encoded)

    def mean(name: str) -> Interval:
        return bootstrap(_ratio, getattr(sums, name), counts)

    return Drift(
        forward=mean("forward"),
        backward=mean("backward"),
        agreement=mean("agree"),
        loss_before=mean("loss_before"),
        loss_after=mean("loss_after"),
        forgetting=bootstrap(_ratio, sums.loss_after - sums.loss_before, counts),
        entropy_before=mean("entropy_before"),
        entropy_after=mean("entropy_after"),
        tokens=int(counts.sum()),
        passages=len(passages),
        most_changed=_most_changed(passages, sums, counts),
    )


def mean_divergence(base: LanguageModel, tuned: LanguageModel, passages: Sequence[str]) -> float:
    """Compute KL(base || tuned) alone, the mean over tokens, nats.

    Args:
      base: as for `measure_drift`.
      tuned: as for `measure_drift`.
      passages: as for `measure_drift`.
    """
    encoded = [base.encode(passage, special=False) for passage in passages]
    sums, counts = token_sums(base, tuned, encoded)
    return _ratio(sums.forward, counts)


def token_sums(
    base: LanguageModel, tuned: LanguageModel, encoded: Sequence[Sequence[int]]
) -> tuple[TokenSums, np.ndarray]:
    """Sum the differences of two models' predictions over the tokens of each text.

    Args:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      encoded: the tokens of each text.

    Returns:
      The sums, float64 [texts] each, and the numbers of tokens, [texts].
    """
    windows = []
    owners = []
    for number, ids in enumerate(encoded):
        for window in base.windows(ids):
            windows.append(window)
            owners.append(number)
    require_same({"texts": windows})
    totals = np.zeros((len(TokenSums._fields), len(encoded)))
    counts = np.zeros(len(encoded), np.int64)
    before = {"params": base.params, "lora": base.lora or {}}
    after = {"params": tuned.params, "lora": tuned.lora or {}}
    lengths = [len(context) + len(continuation) - 1 for context, continuation in windows]
    for length, rows, indices in batches_by_length(lengths, base.max_length, base.batch_tokens):
        batch = make_batch([windows[index] for index in indices], rows, length)
        found = _compare_batch(base.model, tuned.model, before, after, *batch)
        parts = np.asarray(on_host(found), np.float64)
        start = 0
        for index in indices:
            count = len(windows[index][1])
            totals[:, owners[index]] += parts[:, start : start + count].sum(axis=1)
            counts[owners[index]] += count
            start += count
    return TokenSums(*totals), counts


def _ratio(sums: np.ndarray, counts: np.ndarray) -> float:
    return float(sums.sum() / counts.sum())


def _most_changed(
    passages: Sequence[str], sums: TokenSums, counts: np.ndarray
) -> tuple[ChangedPassage, ...]:
    means = sums.forward / counts
    chosen = np.argsort(-means, kind="stable")[:MOST_CHANGED]
    return tuple(
        ChangedPassage(
            passages[index][:SHOWN],
            float(means[index]),
            float(sums.loss_before[index] / counts[index]),
            float(sums.loss_after[index] / counts[index]),
        )
        for index in chosen
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compare_batch(
    base: Any,
    tuned: Any,
    before: dict,
    after: dict,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    places: jax.Array,
    targets: jax.Array,
    chunks: jax.Array,
) -> jax.Array:
    """The fields of TokenSums for each counted token: float32 [7, positions]."""
    logits_before = logits_function(base, before, input_ids, attention_mask)
    logits_after = logits_function(tuned, after, input_ids, attention_mask)

    def compare_chunk(index: jax.Array, found: jax.Array) -> jax.Array:
        start = index * CHUNK
        place = jax.lax.dynamic_slice(places, (start,), (CHUNK,))
        target = jax.lax.dynamic_slice(targets, (start,), (CHUNK,))[:, None]
        left = jax.nn.log_softmax(logits_before(place))
        right = jax.nn.log_softmax(logits_after(place))
        left_probs = jnp.exp(left)
        right_probs = jnp.exp(right)
        change = left - right
        same = jnp.argmax(left, axis=-1) == jnp.argmax(right, axis=-1)
        rows = (
            jnp.sum(left_probs * change, axis=-1),
            -jnp.sum(right_probs * change, axis=-1),
            same.astype(jnp.float32),
            -jnp.take_along_axis(left, target, axis=-1)[:, 0],
            -jnp.take_along_axis(right, target, axis=-1)[:, 0],
            -jnp.sum(left_probs * left, axis=-1),
            -jnp.sum(right_probs * right, axis=-1),
        )
        return jax.lax.dynamic_update_slice(found, jnp.stack(rows), (0, start))

    none = jnp.zeros((len(TokenSums._fields), len(places)), jnp.float32)
    return jax.lax.fori_loop(0, chunks, compare_chunk, none)
