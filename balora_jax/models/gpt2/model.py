"""GPT-2 (Radford et al., 2019), as a language model and as a classifier."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from balora_jax.models.base import CausalLM, LastTokenClassifier
from balora_jax.models.gpt2.config import Gpt2Config
from balora_jax.models.gpt2.sharding import GPT2_RULES
from balora_jax.models.layers.activations import ACTIVATIONS
from balora_jax.models.layers.attention import attend, merge_heads, split_heads
from balora_jax.models.layers.cache import Cache, insert, place_tokens, store
from balora_jax.models.layers.dense import Dense, activate_and_project, embed
from balora_jax.models.layers.dropout import dropout, dropout_function
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.norms import LayerNorm
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.packing import Packing
from balora_jax.models.layers.stack import stack, stack_beside_teacher


class Attention(nn.Module):
    """Causal self-attention; one kernel projects to queries, keys and values."""

    config: Gpt2Config
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past_key_values: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array | None,
        mask: AttentionMask,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attend from each position to those its mask allows.

        Args:
          x: [batch, queries, d].
          past_key_values: the block's cached keys and values, each [batch, slots, heads, D]; or
            None.
          slot: int32 scalar, the cache's slot of the first query; None without a cache.
          mask: the keys each query may attend to.

        Returns:
          [batch, queries, d], and the new keys and values, each [batch, queries, heads, D].
        """
        cfg = self.config
        joint = Dense(3 * cfg.hidden_size, self.options, True, name="c_attn")(x)
        parts = jnp.split(joint, 3, axis=-1)
        query, key, value = [split_heads(part, cfg.heads) for part in parts]

        keys = key
        values = value
        if past_key_values is not None:
            keys, values = insert(past_key_values, key, value, slot)
        output = attend(
            query,
            keys,
            values,
            mask,
            self.options,
            scale=cfg.head_dim**-0.5 if cfg.scaled else 1.0,
            dropout=dropout_function(cfg.attention_dropout, self.options),
        )
        output = Dense(cfg.hidden_size, self.options, True, name="c_proj")(merge_heads(output))
        return dropout(output, cfg.hidden_dropout, self.options), (key, value)


class MLP(nn.Module):
    """dropout(dense(act(dense(x))))."""

    config: Gpt2Config
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, length, d] to the same shape."""
        cfg = self.config
        wide = Dense(cfg.intermediate_size, self.options, True, name="c_fc")(x)
        c_proj = Dense(cfg.hidden_size, self.options, True, name="c_proj")
        output = activate_and_project(ACTIVATIONS[cfg.activation], c_proj, wide)
        return dropout(output, cfg.hidden_dropout, self.options)


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual."""

    config: Gpt2Config
    options: LayerOptions

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past_key_values: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array | None,
        mask: AttentionMask,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Apply one block; arguments as for `Attention`.

        Returns:
          [batch, queries, d], and the new keys and values if there is a cache.
        """
        cfg = self.config
        normed = LayerNorm(cfg.norm_eps, self.options, name="ln_1")(x)
        attention = Attention(cfg, self.options, name="attn")
        attended, new_key_values = attention(normed, past_key_values, slot, mask)
        x = x + attended
        normed = LayerNorm(cfg.norm_eps, self.options, name="ln_2")(x)
        x = x + MLP(cfg, self.options, name="mlp")(normed)
        return x, None if past_key_values is None else new_key_values


class Backbone(nn.Module):
    """Embeddings, blocks and final norm."""

    config: Gpt2Config
    options: LayerOptions
    remat: str

    def setup(self) -> None:
        self.wte = embed(self.config.vocab_size, self.config.hidden_size, self.options)
        self.wpe = embed(self.config.max_positions, self.config.hidden_size, self.options)

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        options: LayerOptions,
        cache: Cache | None = None,
        beside_teacher: bool = False,
        packing: Packing | None = None,
    ):
        """Compute the hidden states after the final norm.

        Args:
          input_ids: [batch, queries] int32.
          attention_mask: [batch, queries] bool, True at tokens.
          options: this call's layer options.
          cache: the tokens before these, or None.
          beside_teacher: True to compute the teacher's hidden states, too.
          packing: the texts of each row; None for one text a row.

        Returns:
          Hidden states [batch, queries, d], or the student's and the teacher's as a pair; and the
          cache with the new tokens, or None.
        """
        cfg = self.config
        positions, mask, cache = place_tokens(attention_mask, cache, packing)
        embedded = self.wte(input_ids) + self.wpe(positions)
        x = dropout(embedded, cfg.embedding_dropout, options)
        past_key_values = None if cache is None else (cache.keys, cache.values)
        slot = None if cache is None else cache.length

        stack_layers = stack_beside_teacher if beside_teacher else stack
        in_axes = (0, nn.broadcast, nn.broadcast)
        blocks = stack_layers(Block, cfg.layers, self.remat, in_axes)(cfg, options, name="h")
        if beside_teacher:
            x = (x, embedded)
        x, new_key_values = blocks(x, past_key_values, slot, mask)
        x = jax.tree.map(LayerNorm(cfg.norm_eps, options, name="ln_f"), x)
        if cache is None:
            return x, None
        return x, store(cache, *new_key_values)


class Gpt2(CausalLM):
    """GPT-2 as a language model."""

    embedding_path: ClassVar = ("transformer", "wte", "embedding")
    sharding_rules: ClassVar = GPT2_RULES

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._options(deterministic=True), self.remat)

    def _backbone(self, *args):
        return self.transformer(*args)

    def _embedding(self) -> jax.Array:
        return self.transformer.wte.embedding


class Gpt2Classifier(LastTokenClassifier):
    """GPT-2 as a classifier."""

    sharding_rules: ClassVar = GPT2_RULES

    def setup(self) -> None:
        self.transformer = Backbone(self.config, self._options(deterministic=True), self.remat)

    def _backbone(self, *args):
        return self.transformer(*args)
