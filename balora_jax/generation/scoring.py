"""Log-likelihoods of continuations, in packed rows: one program for each length of a row."""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.generation.packing import Text, Trie, fill_rows, grow_tries
from balora_jax.generation.prompts import batches_by_length, bucket_length
from balora_jax.hosts import on_host
from balora_jax.models import head
from balora_jax.models.layers.packing import Packing

# Tokens of a batch, padding included.
BATCH_TOKENS = 2048
# Positions whose logits are computed at once.
CHUNK = 128
# Tokens of the shortest row.
SHORTEST_ROW = 128
# (context, continuation): the tokens of each.
Pair = tuple[Sequence[int], Sequence[int]]


class Score(NamedTuple):
    """The score of one continuation.

    Attributes:
      log_likelihood: log P(continuation | context), the sum over its tokens, in nats.
      greedy: True if each of its tokens is the likeliest one after the tokens before it.
      tokens: the number of its tokens.
    """

    log_likelihood: float
    greedy: bool
    tokens: int


def score(
    model: Any,
    params: dict,
    lora: dict | None,
    pairs: Sequence[Pair],
    *,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
    sharding: jax.sharding.Sharding | None = None,
) -> Iterator[tuple[int, Score]]:
    """Compute the log-likelihood of each continuation after its context.

    Args:
      model: a decoder of `balora_jax.models`.
      params: its parameters.
      lora: adapters with their scale folded in; None for none.
      pairs: (context, continuation), each at least one token. Of longer texts than `max_length` the
        last tokens are read.
      max_length: the most tokens that the model reads.
      batch_tokens: tokens of a batch, padding included.
      sharding: the devices of a batch's rows; the default device if None.

    Yields:
      (the pair's index, its score), in the order of computation: the longest rows first.

    Raises:
      ValueError: a context or a continuation is empty, or a continuation alone is too long.
    """
    for context, continuation in pairs:
        if not len(context) or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"a context of {len(context)} and a continuation of {len(continuation)} tokens; "
                f"accepted: 1 or more, and 1 to {max_length}"
            )
    variables = {"params": params, "lora": lora or {}}
    shards = 1 if sharding is None else sharding.num_devices
    for length, rows in _packed_rows(pairs, max_length, batch_tokens):
        count = shards * max(1, batch_tokens // length // shards)
        for start in range(0, len(rows), count):
            packed = rows[start : start + count]
            batch = _pack(packed, count, length)
            if sharding is not None:
                batch = batch.on(sharding)
            log_probs, greedy = on_host(_score_batch(model, variables, *batch))
            yield from _scores(packed, log_probs, greedy)


def next_log_probs(
    model: Any,
    params: dict,
    lora: dict | None,
    contexts: Sequence[Sequence[int]],
    *,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Compute the log-probabilities of the token after each context.

    Args:
      model: as for `score`.
      params: as for `score`.
      lora: as for `score`.
      contexts: the tokens of each, at least one; of longer ones the last `max_length` are read.
      max_length: as for `score`.
      batch_tokens: as for `score`.

    Returns:
      float32 [contexts, V].
    """
    variables = {"params": params, "lora": lora or {}}
    contexts = [list(context)[-max_length:] for context in contexts]
    results: list[np.ndarray | None] = [None] * len(contexts)
    lengths = [len(context) for context in contexts]
    for length, rows, indices in batches_by_length(lengths, max_length, batch_tokens):
        ids, mask = _pad([contexts[index] for index in indices], rows, length)
        last = mask.sum(axis=1) - 1
        log_probs = on_host(_next_batch(model, variables, ids, mask, last))
        for row, index in enumerate(indices):
            results[index] = log_probs[row]
    return np.stack(results)


class PackedBatch(NamedTuple):
    """The arrays of a batch of rows with several texts each.

    Attributes:
      input_ids: int32 [rows, length].
      attention_mask: bool [rows, length].
      packing: the texts of each row.
      places: int32 [positions], the position of each prediction's logits in the flat batch.
      targets: int32 [positions], the predicted tokens.
      chunks: int32 [], chunks of `places` that are in use.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    packing: Packing
    places: np.ndarray
    targets: np.ndarray
    chunks: np.ndarray

    def on(self, sharding: jax.sharding.Sharding) -> "PackedBatch":
        """The batch with its rows divided over devices."""

        def put(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        rows = (self.input_ids, self.attention_mask, self.packing)
        return PackedBatch(*jax.tree.map(put, rows), *self[3:])


def _packed_rows(
    pairs: Sequence[Pair], max_length: int, batch_tokens: int
) -> Iterator[tuple[int, list[list[Trie]]]]:
    """The rows of each length and the texts in them, the longest rows first."""
    texts = []
    by_length = collections.defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        tokens = [*context, *continuation][:-1][-max_length:]
        texts.append(Text(tokens, continuation))
        # Twice a text's length leaves room for what follows the same beginning.
        wanted = min(2 * len(tokens), batch_tokens)
        by_length[bucket_length(max(wanted, len(tokens), SHORTEST_ROW))].append(index)
    for length in sorted(by_length, reverse=True):
        yield length, fill_rows(grow_tries(texts, by_length[length], length), length)


def _pack(rows: Sequence[Sequence[Trie]], count: int, length: int) -> PackedBatch:
    """Lay the texts of rows out in arrays; predictions are in the order of the texts."""
    ids = np.zeros((count, length), np.int32)
    positions = np.zeros((count, length), np.int32)
    ends = np.zeros((count, length), np.int32)
    places = []
    targets = []
    for row, tries in enumerate(rows):
        start = 0
        for trie in tries:
            here = slice(start, start + len(trie.tokens))
            ids[row, here] = trie.tokens
            positions[row, here] = trie.positions
            ends[row, here] = np.array(trie.ends) + start
            places.extend(row * length + start + place for place, _ in trie.predictions)
            targets.extend(target for _, target in trie.predictions)
            start = here.stop
    size = CHUNK * math.ceil(count * length / CHUNK)
    chunks = np.int32(math.ceil(len(places) / CHUNK))
    packing = Packing(positions, ends=ends)
    return PackedBatch(ids, ends > 0, packing, _fill(places, size), _fill(targets, size), chunks)


def _scores(
    rows: Sequence[Sequence[Trie]], log_probs: np.ndarray, greedy: np.ndarray
) -> Iterator[tuple[int, Score]]:
    """The scores of the texts of rows, from those of all their predictions."""
    start = 0
    for trie in itertools.chain.from_iterable(rows):
        for index, numbers in trie.members:
            places = start + np.array(numbers)
            total = float(np.sum(log_probs[places], dtype=np.float64))
            yield index, Score(total, bool(greedy[places].all()), len(numbers))
        start += len(trie.predictions)


class Batch(NamedTuple):
    """The arrays of a batch of pairs.

    Attributes:
      input_ids: int32 [rows, length], padded on the right.
      attention_mask: bool [rows, length].
      places: int32 [positions], the position of each counted token's logits in the flat batch.
      targets: int32 [positions], the counted tokens.
      chunks: int32 [], chunks of `places` that are in use.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    chunks: np.ndarray


def make_batch(pairs: Sequence[Pair], rows: int, length: int) -> Batch:
    """Lay pairs side by side, with the positions of the tokens that count.

    Args:
      pairs: (context, continuation); at most `rows`. Of longer texts than `length` the last tokens
        are read.
      rows: of the batch.
      length: of each row.

    Returns:
      The arrays of the batch; counted tokens are in the order of the pairs.
    """
    texts = []
    places = []
    targets = []
    for row, (context, continuation) in enumerate(pairs):
        text = [*context, *continuation][:-1][-length:]
        texts.append(text)
        first = row * length + len(text) - len(continuation)
        places.extend(range(first, first + len(continuation)))
        targets.extend(continuation)
    positions = CHUNK * math.ceil(rows * length / CHUNK)
    ids, mask = _pad(texts, rows, length)
    chunks = np.int32(math.ceil(len(places) / CHUNK))
    return Batch(ids, mask, _fill(places, positions), _fill(targets, positions), chunks)


def _fill(values: Sequence[int], size: int) -> np.ndarray:
    """An int32 array of a size that begins with the values; 0 after them."""
    array = np.zeros(size, np.int32)
    array[: len(values)] = values
    return array


def _pad(texts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((rows, length), np.int32)
    mask = np.zeros((rows, length), bool)
    # Every row attends to something, also those without a text.
    mask[:, 0] = True
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = True
    return ids, mask


@functools.partial(jax.jit, static_argnums=0)
def _score_batch(
    model: Any,
    variables: dict,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    packing: Packing,
    places: jax.Array,
    targets: jax.Array,
    chunks: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each target, and whether it is the likeliest token: [positions]."""
    logits_at = logits_function(model, variables, input_ids, attention_mask, packing)

    def score_chunk(index: jax.Array, scores: tuple) -> tuple:
        log_probs, greedy = scores
        start = index * CHUNK
        target = jax.lax.dynamic_slice(targets, (start,), (CHUNK,))
        logits = logits_at(jax.lax.dynamic_slice(places, (start,), (CHUNK,)))
        chosen = jnp.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
        log_prob = chosen - jax.nn.logsumexp(logits, axis=-1)
        is_likeliest = jnp.argmax(logits, axis=-1) == target
        return (
            jax.lax.dynamic_update_slice(log_probs, log_prob, (start,)),
            jax.lax.dynamic_update_slice(greedy, is_likeliest, (start,)),
        )

    none = (jnp.zeros(len(places), jnp.float32), jnp.zeros(len(places), bool))
    return jax.lax.fori_loop(0, chunks, score_chunk, none)


@functools.partial(jax.jit, static_argnums=0)
def _next_batch(
    model: Any,
    variables: dict,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """The log-probabilities after position `last` of each row: float32 [rows, V]."""
    rows, length = input_ids.shape
    logits_at = logits_function(model, variables, input_ids, attention_mask)
    return jax.nn.log_softmax(logits_at(jnp.arange(rows) * length + last))


def logits_function(
    model: Any,
    variables: dict,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    packing: Packing | None = None,
) -> Callable[[jax.Array], jax.Array]:
    """Make the function that reads logits at chosen positions of a batch.

    Args:
      model: a decoder of `balora_jax.models`.
      variables: `params` and `lora`.
      input_ids: int32 [rows, length].
      attention_mask: bool [rows, length].
      packing: the texts of each row; None for one text a row.

    Returns:
      positions in the flat batch [positions] -> float32 logits [positions, V].
    """
    if "lm_head" in variables["lora"]:
        logits = model.apply(variables, input_ids, attention_mask, packing=packing)
        flat_logits = logits.reshape(-1, logits.shape[-1])
        return lambda places: flat_logits[places].astype(jnp.float32)
    hidden = model.apply(
        variables, input_ids, attention_mask, packing=packing, method="hidden_states"
    )
    flat_hidden = hidden.reshape(-1, hidden.shape[-1])
    output = head(model, variables["params"])
    return lambda places: output.logits(flat_hidden[places])
