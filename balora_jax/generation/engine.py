"""New tokens from a model: a batch of prompts in one program, or one step at a time."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.generation.prompts import bucket_length
from balora_jax.generation.sampling import Sampling, choose, make_sampling


class Generated(NamedTuple):
    """What was generated.

    Attributes:
        tokens: [batch, max_new_tokens] int32; 0 after a row's end.
        lengths: [batch] int32, tokens before the one that ended the row.
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
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
    use_cache: bool = True,
) -> Generated:
    """Continues a batch of prompts, in one program for each shape.

    Args:
        model: a language model of balora_jax.models.
        params: its parameters.
        lora: adapters, with their scale folded in; None for none.
        input_ids: [batch, length] int32, padded on the left (`pad_prompts`).
        attention_mask: [batch, length] bool.
        max_new_tokens: how many at most.
        temperature: 0 takes the likeliest token, anything else draws one.
        top_p: draw from the likeliest tokens that make up this share.
        key: a random key, needed to draw.
        eos_ids: tokens that end a row.
        use_cache: False reads the whole text again for every token; the same result, slowly.

    Returns:
        The new tokens of every row.
    """
    run = _generate_cached if use_cache else _generate_uncached
    sampling = make_sampling(temperature, top_p, key)
    eos = jnp.asarray(tuple(eos_ids), jnp.int32)
    mask = jnp.asarray(attention_mask, bool)
    return run(
        model, max_new_tokens, _variables(params, lora), jnp.asarray(input_ids), mask, sampling, eos
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
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
) -> Generated:
    """What an encoder-decoder writes for each text; arguments as for `generate`, padding on either side.

    The text is encoded once; the answer, meant to be short, is read again for every token.
    """
    sampling = make_sampling(temperature, top_p, key)
    eos = jnp.asarray(tuple(eos_ids), jnp.int32)
    mask = jnp.asarray(attention_mask, bool)
    return _answer(
        model, max_new_tokens, _variables(params, lora), jnp.asarray(input_ids), mask, sampling, eos
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
    key: jax.Array | None = None,
    eos_ids: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """The tokens of `generate`, one step at a time; for the same arguments the same tokens.

    Yields:
        [batch] int32, until every row has ended; a row that has ended goes on with 0, its ending token included.
    """
    variables, eos = _variables(params, lora), np.asarray(tuple(eos_ids), np.int32)
    sampling = make_sampling(temperature, top_p, key)
    batch, length = input_ids.shape
    slots = bucket_length(length + max_new_tokens)
    logits, cache = _prefill(
        model, slots, variables, jnp.asarray(input_ids), jnp.asarray(attention_mask, bool)
    )
    ended = np.zeros(batch, bool)
    for step in range(max_new_tokens):
        token, logits, cache = _step(model, variables, logits, cache, sampling, np.int32(step))
        ended = ended | np.isin(np.asarray(token), eos)
        if ended.all():
            return
        yield np.where(ended, 0, np.asarray(token))


def _variables(params: dict, lora: dict | None) -> dict:
    return {"params": params, "lora": lora or {}}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(model: Any, slots: int, variables: dict, ids: jax.Array, mask: jax.Array):
    return model.apply(variables, ids, mask, model.empty_cache(len(ids), slots), method="extend")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _step(
    model: Any, variables: dict, logits: jax.Array, cache: Any, sampling: Sampling, step: jax.Array
):
    token = choose(logits, sampling, step)
    return token, *model.apply(variables, token[:, None], None, cache, method="extend")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate_cached(model, count, variables, ids, mask, sampling, eos) -> Generated:
    def advance(token, step, cache):
        return model.apply(variables, token[:, None], None, cache, method="extend")

    cache = model.empty_cache(len(ids), ids.shape[1] + count)
    return _loop(
        count, sampling, eos, advance, *model.apply(variables, ids, mask, cache, method="extend")
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate_uncached(model, count, variables, ids, mask, sampling, eos) -> Generated:
    length = ids.shape[1]
    room = ((0, 0), (0, count))

    def advance(token, step, text):
        ids, mask = text
        if token is not None:
            ids, mask = ids.at[:, length + step].set(token), mask.at[:, length + step].set(True)
            step = step + 1
        logits = model.apply(variables, ids, mask)
        return jax.lax.dynamic_index_in_dim(logits, length + step - 1, axis=1, keepdims=False), (
            ids,
            mask,
        )

    return _loop(
        count, sampling, eos, advance, *advance(None, 0, (jnp.pad(ids, room), jnp.pad(mask, room)))
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer(model, count, variables, ids, mask, sampling, eos) -> Generated:
    encoded = model.apply(variables, ids, mask, method="encode")

    def read(step, tokens):
        logits = model.apply(variables, tokens, encoded, method="answer")
        return jax.lax.dynamic_index_in_dim(logits, step, axis=1, keepdims=False), tokens

    def advance(token, step, tokens):
        return read(step + 1, tokens.at[:, step + 1].set(token))

    tokens = jnp.full((len(ids), count + 1), model.config.start_token_id, jnp.int32)
    return _loop(count, sampling, eos, advance, *read(0, tokens))


def _loop(
    count: int, sampling: Sampling, eos: jax.Array, advance, logits: jax.Array, memory
) -> Generated:
    """Chooses and advances until every row has ended or `count` tokens are there."""

    def going(state):
        return (state[0] < count) & ~jnp.all(state[3])

    def body(state):
        step, tokens, lengths, ended, logits, memory = state
        token = choose(logits, sampling, step)
        ended = ended | jnp.isin(token, eos)
        tokens = tokens.at[:, step].set(jnp.where(ended, 0, token))
        return step + 1, tokens, lengths + ~ended, ended, *advance(token, step, memory)

    batch = len(logits)
    zeros = jnp.zeros(batch, jnp.int32)
    start = (jnp.int32(0), jnp.zeros((batch, count), jnp.int32), zeros, zeros > 0, logits, memory)
    _, tokens, lengths, *_ = jax.lax.while_loop(going, body, start)
    return Generated(tokens, lengths)
