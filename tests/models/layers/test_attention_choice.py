"""The implementation of attention that is chosen, and those that are refused."""

import functools

import jax
import jax.numpy as jnp
import pytest

from balora_jax.errors import BadInput
from balora_jax.models.layers import attention
from balora_jax.models.layers.attention import LONG, attention_on, check_attention, choose
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.options import LayerOptions

NOTHING = {"softcap": None, "biased": False, "dropping": False}


@pytest.fixture
def on(monkeypatch):
    """A function that makes a platform the device's."""

    def replace(platform):
        monkeypatch.setattr(attention, "platform", lambda mesh: platform)

    return replace


def chosen(name="auto", queries=LONG, keys=None, dtype=jnp.bfloat16, change=None, **features):
    keys = queries if keys is None else keys
    query = jax.ShapeDtypeStruct((1, queries, 4, 128), dtype)
    key = jax.ShapeDtypeStruct((1, keys, 2, 128), dtype)
    positions = jnp.arange(keys)[None]
    mask = AttentionMask.causal(
        positions[:, :queries], positions, positions >= 0, is_ordered=queries == keys
    )
    if change is not None:
        mask = change(mask)
    options = LayerOptions(attention=name)
    return choose(query, key, mask, options, **{**NOTHING, **features})


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", "chunked"), ("tpu", "splash"), ("gpu", "cudnn")]
)
def test_the_device_decides_for_long_texts(on, platform, expected):
    on(platform)
    assert chosen() == expected
    assert chosen(queries=LONG - 1) == "plain"
    assert chosen(dropping=True) == "plain"
    assert chosen(biased=True) == "plain"
    assert chosen(queries=1, keys=4 * LONG) == "plain"
    assert chosen(queries=LONG, keys=4 * LONG) == "chunked"


def test_what_a_kernel_lacks_is_computed_in_chunks(on):
    traced = functools.partial(AttentionMask.with_window, window=jnp.int32(4))
    segments = functools.partial(AttentionMask.with_segments, query_segment_ids=jnp.ones((1, LONG)))
    static = functools.partial(AttentionMask.with_window, window=4)
    on("tpu")
    assert chosen(softcap=50.0) == "splash"
    assert chosen(change=static) == "splash"
    assert chosen(change=segments) == "splash"
    assert chosen(change=traced) == "chunked"
    on("gpu")
    assert chosen(change=static) == "cudnn"
    assert chosen(softcap=50.0) == "chunked"
    assert chosen(dtype=jnp.float32) == "chunked"
    assert chosen(change=segments) == "chunked"
    assert chosen(change=traced) == "chunked"


def test_a_name_is_taken_at_any_length_of_a_text(on):
    on("tpu")
    for name in ("plain", "chunked", "splash"):
        assert chosen(name, queries=8) == name
        assert chosen(name, queries=4 * LONG) == name
        assert chosen(name, queries=1, keys=8) == "plain"


@pytest.mark.parametrize(
    ("name", "features", "sentence"),
    [
        ("chunked", {"dropping": True}, "dropout of attention weights"),
        ("cudnn", {"softcap": 50.0}, "soft cap of the scores"),
        ("cudnn", {"dtype": jnp.float32}, "float32"),
    ],
)
def test_a_name_that_the_model_rules_out_is_refused(on, name, features, sentence):
    on("gpu")
    with pytest.raises(BadInput, match=f"model.attention is {name}, which has no {sentence}") as e:
        chosen(name, **features)
    others = "auto, plain" if name == "chunked" else "auto, plain, chunked"
    assert str(e.value).endswith(f"accepted for it here: {others}")


def test_a_name_that_the_device_lacks_is_refused():
    for name in ("cudnn", "splash"):
        with pytest.raises(BadInput, match=rf"{name}.*\(cpu\).*here: auto, plain, chunked$"):
            check_attention(name, None)
        assert attention_on(None, name) == "auto"
    for name in ("auto", "plain", "chunked"):
        check_attention(name, None)
        assert attention_on(None, name) == name
