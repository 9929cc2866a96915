"""Generation of tokens: a batch of prompts in one program, or one step at a time."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.generation.prompts import bucket_length
from balora_jax.generation.sampling import Sampling, choose, make_sampling
from balora_jax.hosts import on_host

# The text so far, as `advance` takes it: a cache, or the tokens themselves.
Memory = Any


class Generated(NamedTuple):
    """Generated tokens.

    Attributes:
      tokens: int32 [batch, max_new_tokens]; 0 after a row's end.
      lengths: int32 [batch], tokens before the one that ended the row.
    """

    tokens: jax.Array
    lengths: jax.Array


def generate(
    model: Any,
    params: dict,
    lora: dict | None,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
    use_cache: bool = True,
) -> Generated:
    """Continue a batch of prompts, in one program for each shape.

    Args:
      model: a decoder of `balora_jax.models`.
      params: parameters of the model.
      lora: adapters with their scale folded in; None for none.
      input_ids: int32 [batch, length], padded on the left, from `pad_prompts`.
      attention_mask: bool [batch, length].
      max_new_tokens: the upper bound on the tokens of a row.
      temperature: the divisor of the logits; 0 takes the likeliest token instead of drawing one.
      top_p: draws from the likeliest tokens that make up this share of the probability.
      top_k: draws from so many of the likeliest tokens; None for all.
      repetition_penalty: the divisor of positive logits of tokens that are in the text, and the
        factor of negative ones; 1 for none.
      key: a random key; needed to draw.
      eos_ids: the tokens that end a row.
      use_cache: False computes the whole text again for every token: the same tokens, slowly.

    Returns:
      The new tokens of every row.

    Raises:
      ValueError: drawing without a key.
    """
    run = _generate_cached if use_cache else _generate_uncached
    return run(
        model,
        max_new_tokens,
        _variables(params, lora),
        jnp.asarray(input_ids),
        jnp.asarray(attention_mask, bool),
        make_sampling(temperature, top_p, key, top_k, repetition_penalty),
        jnp.asarray(tuple(eos_ids), jnp.int32),
    )


def answer(
    model: Any,
    params: dict,
    lora: dict | None,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
) -> Generated:
    """Generate the answers of an encoder-decoder to a batch of texts.

    The texts are encoded once. Answers, which are short, are decoded as a whole for every token.

    Args:
      model: an encoder-decoder of `balora_jax.models`.
      params: as for `generate`.
      lora: as for `generate`.
      input_ids: int32 [batch, length], padded on either side.
      attention_mask: bool [batch, length].
      max_new_tokens: as for `generate`.
      temperature: as for `generate`.
      top_p: as for `generate`.
      top_k: as for `generate`.
      key: as for `generate`.
      eos_ids: as for `generate`.

    Returns:
      The answer to every text.

    Raises:
      ValueError: drawing without a key.
    """
    return _answer(
        model,
        max_new_tokens,
        _variables(params, lora),
        jnp.asarray(input_ids),
        jnp.asarray(attention_mask, bool),
        make_sampling(temperature, top_p, key, top_k),
        jnp.asarray(tuple(eos_ids), jnp.int32),
    )


def stream(
    model: Any,
    params: dict,
    lora: dict | None,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """Generate the tokens of `generate` one step at a time; equal arguments give equal tokens.

    Args:
      model: as for `generate`.
      params: as for `generate`.
      lora: as for `generate`.
      input_ids: as for `generate`.
      attention_mask: as for `generate`.
      max_new_tokens: as for `generate`.
      temperature: as for `generate`.
      top_p: as for `generate`.
      top_k: as for `generate`.
      repetition_penalty: as for `generate`.
      key: as for `generate`.
      eos_ids: as for `generate`.

    Yields:
      int32 [batch], until every row has ended; 0 from a row's ending token on.

    Raises:
      ValueError: drawing without a key.
    """
    variables = _variables(params, lora)
    eos = np.asarray(tuple(eos_ids), np.int32)
    sampling = make_sampling(temperature, top_p, key, top_k, repetition_penalty)
    batch, length = input_ids.shape
    slots = bucket_length(length + max_new_tokens)
    ids = jnp.asarray(input_ids)
    mask = jnp.asarray(attention_mask, bool)
    logits, cache = _prefill(model, slots, variables, ids, mask)
    seen = _tokens_of(ids, mask, logits, sampling)
    ended = np.zeros(batch, bool)
    for step in range(max_new_tokens):
        token, logits, cache, seen = _step(
            model, variables, logits, cache, sampling, np.int32(step), seen
        )
        tokens = on_host(token)
        ended = ended | np.isin(tokens, eos)
        if ended.all():
            return
        yield np.where(ended, 0, tokens)


def _variables(params: dict, lora: dict | None) -> dict:
    return {"params": params, "lora": lora or {}}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(
    model: Any, slots: int, variables: dict, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Any]:
    """Compute the logits after the prompts, and a cache with room for `slots` tokens."""
    cache = model.empty_cache(len(ids), slots)
    return model.apply(variables, ids, mask, cache, method="extend")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _step(
    model: Any,
    variables: dict,
    logits: jax.Array,
    cache: Any,
    sampling: Sampling,
    step: jax.Array,
    seen: jax.Array | None,
) -> tuple[jax.Array, jax.Array, Any, jax.Array | None]:
    """Choose a token, and compute the logits, the cache and the tokens of the text after it."""
    token = choose(logits, sampling, step, seen)
    logits, cache = model.apply(variables, token[:, None], None, cache, method="extend")
    return token, logits, cache, _with_token(seen, token)


def _tokens_of(
    ids: jax.Array, mask: jax.Array, logits: jax.Array, sampling: Sampling
) -> jax.Array | None:
    """The tokens that are in each prompt, bool [batch, V]; None where nothing asks for them."""
    if sampling.penalty is None:
        return None
    rows = jnp.arange(len(ids))[:, None]
    return jnp.zeros(logits.shape, bool).at[rows, ids].max(mask)


def _with_token(seen: jax.Array | None, token: jax.Array) -> jax.Array | None:
    return None if seen is None else seen.at[jnp.arange(len(token)), token].set(True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate_cached(
    model: Any,
    count: int,
    variables: dict,
    ids: jax.Array,
    mask: jax.Array,
    sampling: Sampling,
    eos: jax.Array,
) -> Generated:
    def advance(token: jax.Array, step: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        return model.apply(variables, token[:, None], None, cache, method="extend")

    cache = model.empty_cache(len(ids), ids.shape[1] + count)
    logits, cache = model.apply(variables, ids, mask, cache, method="extend")
    seen = _tokens_of(ids, mask, logits, sampling)
    return _loop(count, sampling, eos, advance, logits, cache, seen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate_uncached(
    model: Any,
    count: int,
    variables: dict,
    ids: jax.Array,
    mask: jax.Array,
    sampling: Sampling,
    eos: jax.Array,
) -> Generated:
    length = ids.shape[1]

    def read(ids: jax.Array, mask: jax.Array, last: jax.Array) -> jax.Array:
        logits = model.apply(variables, ids, mask)
        return jax.lax.dynamic_index_in_dim(logits, last, axis=1, keepdims=False)

    def advance(token: jax.Array, step: jax.Array, text: tuple) -> tuple[jax.Array, tuple]:
        ids, mask = text
        place = length + step
        ids = ids.at[:, place].set(token)
        mask = mask.at[:, place].set(True)
        return read(ids, mask, place), (ids, mask)

    room = ((0, 0), (0, count))
    padded = (jnp.pad(ids, room), jnp.pad(mask, room))
    logits = read(*padded, length - 1)
    seen = _tokens_of(ids, mask, logits, sampling)
    return _loop(count, sampling, eos, advance, logits, padded, seen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer(
    model: Any,
    count: int,
    variables: dict,
    ids: jax.Array,
    mask: jax.Array,
    sampling: Sampling,
    eos: jax.Array,
) -> Generated:
    encoded = model.apply(variables, ids, mask, method="encode")

    def read(tokens: jax.Array, last: jax.Array) -> jax.Array:
        logits = model.apply(variables, tokens, encoded, method="answer")
        return jax.lax.dynamic_index_in_dim(logits, last, axis=1, keepdims=False)

    def advance(token: jax.Array, step: jax.Array, tokens: jax.Array) -> tuple:
        tokens = tokens.at[:, step + 1].set(token)
        return read(tokens, step + 1), tokens

    tokens = jnp.full((len(ids), count + 1), model.config.start_token_id, jnp.int32)
    return _loop(count, sampling, eos, advance, read(tokens, 0), tokens)


class _State(NamedTuple):
    """The state of generation before a step.

    Attributes:
      step: int32, tokens chosen so far.
      tokens: int32 [batch, count], with 0 where there is none yet and after a row's end.
      lengths: int32 [batch], tokens before a row's end.
      ended: bool [batch].
      logits: float32 [batch, V], of the next token.
      memory: the text so far, as `advance` takes it.
      seen: bool [batch, V], the tokens of the text so far; None where nothing asks for them.
    """

    step: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    ended: jax.Array
    logits: jax.Array
    memory: Memory
    seen: jax.Array | None


def _loop(
    count: int,
    sampling: Sampling,
    eos: jax.Array,
    advance: Callable[[jax.Array, jax.Array, Memory], tuple[jax.Array, Memory]],
    logits: jax.Array,
    memory: Memory,
    seen: jax.Array | None = None,
) -> Generated:
    """Choose and advance until every row has ended or has `count` tokens.

    Args:
      count: the upper bound on the tokens of a row.
      sampling: the choice of tokens.
      eos: int32 [endings], the tokens that end a row.
      advance: (token [batch], step, memory) -> the logits after the token, and the memory with it.
      logits: float32 [batch, V], after the prompts.
      memory: after the prompts.
      seen: bool [batch, V], the tokens of the prompts; None where nothing asks for them.
    """

    def unfinished(state: _State) -> jax.Array:
        return (state.step < count) & ~jnp.all(state.ended)

    def body(state: _State) -> _State:
        token = choose(state.logits, sampling, state.step, state.seen)
        ended = state.ended | jnp.isin(token, eos)
        tokens = state.tokens.at[:, state.step].set(jnp.where(ended, 0, token))
        logits, memory = advance(token, state.step, state.memory)
        seen = _with_token(state.seen, token)
        return _State(state.step + 1, tokens, state.lengths + ~ended, ended, logits, memory, seen)

    batch = len(logits)
    start = _State(
        step=jnp.int32(0),
        tokens=jnp.zeros((batch, count), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        ended=jnp.zeros(batch, bool),
        logits=logits,
        memory=memory,
        seen=seen,
    )
    final = jax.lax.while_loop(unfinished, body, start)
    return Generated(final.tokens, final.lengths)
