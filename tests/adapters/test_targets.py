"""Patterns that select the layers to adapt, and the check of the rank."""

import jax.numpy as jnp
import pytest

from balora_jax.adapters import check_rank, match_targets
from balora_jax.adapters.targets import dotted
from balora_jax.config import PAPER_TARGETS
from balora_jax.errors import BadInput


@pytest.fixture
def params():
    kernel = {"kernel": jnp.zeros((2, 8, 6))}
    return {
        "model": {
            "embed_tokens": {"embedding": jnp.zeros((10, 8))},
            "layers": {
                "self_attn": {"q_proj": kernel, "o_proj": kernel},
                "mlp": {"o_proj": kernel},
                "norm": {"scale": jnp.ones((2, 8))},
            },
        },
        "lm_head": {"kernel": jnp.zeros((8, 10))},
    }


@pytest.mark.parametrize(
    "patterns, expected",
    [
        ("q_proj", ["model.layers.self_attn.q_proj"]),
        (["q_proj", "mlp.o_proj"], ["model.layers.mlp.o_proj", "model.layers.self_attn.q_proj"]),
        (r".*self_attn\..*", ["model.layers.self_attn.o_proj", "model.layers.self_attn.q_proj"]),
        (
            "all-linear",
            [
                "model.layers.mlp.o_proj",
                "model.layers.self_attn.o_proj",
                "model.layers.self_attn.q_proj",
            ],
        ),
        (["all-linear", "lm_head"], None),
        ("lm_head", ["lm_head"]),
        # By its name alone.
        ("embed_tokens", ["model.embed_tokens"]),
        (
            ".*",
            [
                "lm_head",
                "model.layers.mlp.o_proj",
                "model.layers.self_attn.o_proj",
                "model.layers.self_attn.q_proj",
            ],
        ),
    ],
)
def test_patterns(params, patterns, expected):
    matched = [dotted(path) for path in match_targets(patterns, params)]
    assert matched == (expected or sorted(matched))
    assert ("lm_head" in matched) == ("lm_head" in patterns or patterns == ".*")


@pytest.mark.parametrize("pattern", ["proj", "k_proj", ".*embed.*", "norm", "q_proj.kernel"])
def test_a_pattern_without_match_lists_the_linear_layers(params, pattern):
    with pytest.raises(
        BadInput, match=rf"{pattern}.*model\.layers\.mlp\.o_proj.*self_attn\.q_proj"
    ):
        match_targets(["q_proj", pattern], params)


@pytest.mark.parametrize(
    "layers, expected",
    [
        (("q_proj", "o_proj", "router"), ["o_proj", "q_proj"]),
        (("qkv_proj", "o_proj", "gate_up_proj"), ["gate_up_proj", "o_proj", "qkv_proj"]),
    ],
)
def test_the_default_is_what_the_model_has_of_it(layers, expected):
    params = {name: {"kernel": jnp.zeros((2, 8, 6))} for name in layers}
    assert [dotted(path) for path in match_targets(PAPER_TARGETS, params)] == expected
    with pytest.raises(BadInput, match="'v_proj' matches no linear layer"):
        match_targets(["o_proj", "v_proj"], params)
    with pytest.raises(BadInput, match="'q_proj' matches no linear layer"):
        match_targets(PAPER_TARGETS, {"c_attn": {"kernel": jnp.zeros((2, 8, 6))}})


def test_a_broken_regular_expression_is_refused(params):
    with pytest.raises(BadInput, match="no regular expression"):
        match_targets("q_proj(", params)


def test_rank_above_the_smaller_side_names_the_layer(params):
    paths = match_targets("all-linear", params)
    check_rank(6, paths, params)
    with pytest.raises(BadInput, match=r"adapter\.rank is 7.*mlp\.o_proj \(8 x 6\).*at most 6"):
        check_rank(7, paths, params)
