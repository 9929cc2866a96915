"""GPT-2 (Radford et al., 2019), as a language model and as a classifier."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from transformers import PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.base import CausalLM, LastTokenClassifier
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.cache import Cache, Reach, join, look_back, remember
from balora_jax.models.layers.dense import ACTIVATIONS, Dense, check_activation, embed, through
from balora_jax.models.layers.dropout import drop, dropping
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import Numerics
from balora_jax.models.layers.stack import stack, stack_beside_teacher


@dataclass(frozen=True)
class Gpt2Config:
    """The switches of a GPT-2; hashable, so that a model is a static argument of jit."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    activation: str
    norm_eps: float
    # Attention scores are divided by the root of head_dim.
    scaled: bool
    embedding_dropout: float
    attention_dropout: float
    hidden_dropout: float
    # The head is the transposed embedding.
    tied: bool
    init_std: float
    pad_token_id: int | None
    final_softcap: None = None

    @property
    def max_length(self) -> int:
        """Tokens a text may have."""
        return self.max_positions


def gpt2_config(hf: PretrainedConfig) -> Gpt2Config:
    """The GPT-2 a Hugging Face configuration describes.

    Raises:
        BadInput: something in it is not supported here.
    """
    for name in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        if getattr(hf, name):
            raise BadInput(f"config.json has {name}; accepted: GPT-2 without it")
    return Gpt2Config(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.n_embd,
        intermediate_size=hf.n_inner or 4 * hf.n_embd,
        layers=hf.n_layer,
        heads=hf.n_head,
        kv_heads=hf.n_head,
        head_dim=hf.n_embd // hf.n_head,
        max_positions=hf.n_positions,
        activation=check_activation(hf.activation_function),
        norm_eps=hf.layer_norm_epsilon,
        scaled=hf.scale_attn_weights,
        embedding_dropout=hf.embd_pdrop,
        attention_dropout=hf.attn_pdrop,
        hidden_dropout=hf.resid_pdrop,
        tied=bool(hf.tie_word_embeddings),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


class Attention(nn.Module):
    """Causal self-attention; one kernel makes queries, keys and values."""

    config: Gpt2Config
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, reach: Reach, past: tuple | None):
        """Returns: [batch, queries, d] and the new keys and values [batch, queries, heads, D]."""
        cfg, numerics = self.config, self.numerics
        joint = Dense(3 * cfg.hidden_size, numerics, True, name="c_attn")(x)
        query, key, value = (split_heads(part, cfg.heads) for part in jnp.split(joint, 3, axis=-1))
        keys, values = (key, value) if past is None else join(past, key, value, reach.length)
        scale = cfg.head_dim**-0.5 if cfg.scaled else 1.0
        dropped = dropping(cfg.attention_dropout, numerics)
        out = merge_heads(attend(query, keys, values, reach.mask, scale=scale, drop=dropped))
        out = Dense(cfg.hidden_size, numerics, True, name="c_proj")(out)
        return drop(out, cfg.hidden_dropout, numerics), (key, value)


class MLP(nn.Module):
    """drop(dense(act(dense(x))))."""

    config: Gpt2Config
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg = self.config
        wide = Dense(cfg.intermediate_size, self.numerics, True, name="c_fc")(x)
        narrow = Dense(cfg.hidden_size, self.numerics, True, name="c_proj")
        return drop(
            through(ACTIVATIONS[cfg.activation], narrow, wide), cfg.hidden_dropout, self.numerics
        )


class Block(nn.Module):
    """Attention and MLP, each with its norm before it and the residual around."""

    config: Gpt2Config
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, past: tuple | None, reach: Reach):
        cfg, numerics = self.config, self.numerics
        normed = LayerNorm(cfg.norm_eps, numerics, name="ln_1")(x)
        out, new = Attention(cfg, numerics, name="attn")(normed, reach, past)
        x = x + out
        x = x + MLP(cfg, numerics, name="mlp")(LayerNorm(cfg.norm_eps, numerics, name="ln_2")(x))
        return x, None if past is None else new


class Backbone(nn.Module):
    """Embeddings, blocks and final norm."""

    config: Gpt2Config
    numerics: Numerics
    remat: str

    def setup(self) -> None:
        self.wte = embed(self.config.vocab_size, self.config.hidden_size, self.numerics)
        self.wpe = embed(self.config.max_positions, self.config.hidden_size, self.numerics)

    @nn.compact
    def __call__(
        self,
        input_ids,
        mask,
        numerics: Numerics,
        cache: Cache | None = None,
        beside_teacher: bool = False,
    ):
        """Args: input_ids [batch, queries]; mask [batch, queries] bool; numerics: for this call's blocks.

        Returns: hidden states [batch, queries, d] (a pair of them beside the teacher) and the cache, with the queries
        in it if there is one.
        """
        cfg = self.config
        positions, reach, cache = look_back(mask, cache)
        embedded = self.wte(input_ids) + self.wpe(positions)
        x = drop(embedded, cfg.embedding_dropout, numerics)
        past = None if cache is None else (cache.keys, cache.values)
        stacked = stack_beside_teacher if beside_teacher else stack
        blocks = stacked(Block, cfg.layers, self.remat, (0, nn.broadcast))(cfg, numerics, name="h")
        x, new = blocks((x, embedded) if beside_teacher else x, past, reach)
        x = jax.tree.map(LayerNorm(cfg.norm_eps, numerics, name="ln_f"), x)
        return x, None if cache is None else remember(cache, *new)


class Gpt2(CausalLM):
    """GPT-2 as a language model."""

    embedding_path: ClassVar = ("transformer", "wte", "embedding")

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._numerics(True), self.remat)

    def _backbone(self, *args):
        return self.transformer(*args)

    def _embedding(self) -> jax.Array:
        return self.transformer.wte.embedding


class Gpt2Classifier(LastTokenClassifier):
    """GPT-2 as a classifier."""

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._numerics(True), self.remat)

    def _backbone(self, *args):
        return self.transformer(*args)
