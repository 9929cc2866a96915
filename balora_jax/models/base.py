"""The interface of all models, and the parts that language models and classifiers share."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.typing import DTypeLike

from balora_jax.models.head import Head, cap
from balora_jax.models.layers.cache import Cache, empty_cache
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.packing import Packing
from balora_jax.models.sharding import DEFAULT_RULES, ShardingRules


class Model(nn.Module):
    """The attributes of every model; change them by `model.clone(dtype=..., remat=...)`.

    Attributes:
      config: the family's configuration.
      dtype: element type of activations and matrix products.
      param_dtype: element type of fresh parameters.
      remat: recomputation in the backward pass: "none", "dots" (all but products with weights) or
        "full".
      lora_dropout: probability of dropping an input of an adapter.
      attention: implementation of attention: "auto", "plain", "chunked", "cudnn" or "splash"; see
        `layers.attention.choose`.
      mesh: the devices that activations are divided over; None for the default one.
      sharding_rules: ordered (regular expression, axes): the mesh axes of the last dimensions of
        the first leaf path that matches.
      is_part: True if Hugging Face's model has other parts beside this one.
    """

    sharding_rules: ClassVar[ShardingRules] = DEFAULT_RULES
    is_part: ClassVar[bool] = False

    config: Any
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"
    lora_dropout: float = 0.0
    attention: str = "auto"
    mesh: Mesh | None = None

    def _options(self, deterministic: bool) -> LayerOptions:
        return LayerOptions(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            lora_dropout=self.lora_dropout,
            training=not deterministic,
            init_std=self.config.init_std,
            attention=self.attention,
            mesh=self.mesh,
        )


class CausalLM(Model):
    """A causal language model.

    Call it as `apply({"params": base, "lora": adapters}, input_ids, attention_mask)`. A subclass
    defines `_backbone` and `_embedding`.

    Attributes:
      embedding_path: the path of the token embedding in the parameters.
    """

    embedding_path: ClassVar[tuple[str, ...]]

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        packing: Packing | None = None,
    ) -> jax.Array:
        """Compute the logits of each next token.

        Args:
          input_ids: [batch, length] int32.
          attention_mask: [batch, length], True at tokens, False at padding, which may be on either
            side; None if there is no padding.
          deterministic: False applies the dropout of the configuration and of the adapters, which
            needs the rng "dropout".
          packing: the texts of each row; None for one text a row.

        Returns:
          [batch, length, V] float32; finite but meaningless at padding.
        """
        hidden = self.hidden_states(input_ids, attention_mask, deterministic, packing)
        return self._logits(hidden, deterministic)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        packing: Packing | None = None,
    ) -> jax.Array:
        """Compute the input of the head; arguments as for `__call__`.

        Returns:
          [batch, length, d], after the final norm.
        """
        hidden, _ = self._run(input_ids, attention_mask, deterministic, None, packing=packing)
        return hidden

    def hidden_states_beside_teacher(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        deterministic: bool = True,
        packing: Packing | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Compute the hidden states of student and teacher, fetching each weight once.

        The two pass through each layer together. The teacher's adapters are in the collection
        `teacher`, the student's in `lora`; an empty collection means none.

        Args:
          input_ids: as for `__call__`.
          attention_mask: as for `__call__`.
          deterministic: as for `__call__`; the teacher has no dropout in any case.
          packing: as for `__call__`.

        Returns:
          The student's and the teacher's hidden states, each [batch, length, d].
        """
        pair, _ = self._run(
            input_ids, attention_mask, deterministic, None, beside_teacher=True, packing=packing
        )
        return pair

    def extend(
        self, input_ids: jax.Array, attention_mask: jax.Array | None, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Read tokens that follow those in the cache.

        Args:
          input_ids: [batch, length] int32; padding, if any, is on the left.
          attention_mask: [batch, length], True at tokens; None if there is no padding.
          cache: with room for `length` more tokens.

        Returns:
          The logits after the last token, [batch, V] float32, and the cache with the new tokens.
        """
        hidden, cache = self._run(input_ids, attention_mask, True, cache)
        logits = self._logits(hidden[:, -1:], True)
        return logits[:, 0], cache

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Create a cache of the model's element type; needs no parameters.

        Args:
          batch: rows.
          slots: tokens a row can hold, padding included.

        Returns:
          The cache without tokens.
        """
        cfg = self.config
        return empty_cache(cfg.layers, batch, slots, cfg.kv_heads, cfg.head_dim, self.dtype)

    def _run(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None,
        deterministic: bool,
        cache: Cache | None,
        beside_teacher: bool = False,
        packing: Packing | None = None,
    ):
        attention_mask = full_attention_mask(input_ids, attention_mask)
        options = self._options(deterministic)
        return self._backbone(input_ids, attention_mask, options, cache, beside_teacher, packing)

    @nn.compact
    def _logits(self, hidden: jax.Array, deterministic: bool) -> jax.Array:
        cfg = self.config
        if cfg.tied:
            return Head(self._embedding().T, None, cfg.final_softcap).logits(hidden)
        options = self._options(deterministic)
        lm_head = Dense(
            cfg.vocab_size, options, out_dtype=jnp.float32, gathers=False, name="lm_head"
        )
        return cap(lm_head(hidden), cfg.final_softcap)


class Classifier(Model):
    """A model with one output per label.

    Call it as `apply({"params": base, "lora": adapters}, input_ids, attention_mask)`. A subclass
    defines `features`, the pre-trained model's part, and `classify`, the head.

    Attributes:
      labels: number of outputs: the classes, or 1 for regression.
    """

    labels: int = 2

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the logits of the labels, or the predicted number.

        Args:
          input_ids: [batch, length] int32.
          attention_mask: [batch, length], True at tokens, False at padding; None if there is no
            padding.
          token_type_ids: [batch, length] int32, 0 in the first text and 1 in the second; None for
            one text. Models without such embeddings ignore it.
          deterministic: False applies the dropout of the configuration and of the adapters, which
            needs the rng "dropout".

        Returns:
          [batch, labels] float32.
        """
        features = self.features(input_ids, attention_mask, token_type_ids, deterministic)
        return self.classify(features, deterministic)


class LastTokenClassifier(Classifier):
    """A decoder with a linear head on each row's last token; a subclass defines `_backbone`."""

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the hidden states [batch, length, d] after the final norm."""
        attention_mask = full_attention_mask(input_ids, attention_mask)
        hidden, _ = self._backbone(input_ids, attention_mask, self._options(deterministic))
        return hidden

    def features(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Compute the input of the head: the last token's hidden state [batch, d]."""
        hidden = self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)
        return select_last(hidden, full_attention_mask(input_ids, attention_mask))

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """Map features [batch, d] to logits [batch, labels] float32."""
        options = self._options(deterministic)
        return Dense(self.labels, options, out_dtype=jnp.float32, name="score")(features)


class TanhHead(nn.Module):
    """A classification head of two layers, out(tanh(dense(x))), with dropout before each.

    Attributes:
      labels: number of outputs.
      dropout: probability of dropping an input of either layer.
      options: the model's layer options.
    """

    labels: int
    dropout: float
    options: LayerOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map features [batch, d] to logits [batch, labels] float32."""
        x = dropout(x, self.dropout, self.options)
        x = jnp.tanh(Dense(x.shape[-1], self.options, True, name="dense")(x))
        x = dropout(x, self.dropout, self.options)
        return Dense(self.labels, self.options, True, jnp.float32, name="out_proj")(x)


def full_attention_mask(input_ids: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """Return the attention mask as bool, all True if there is none.

    Args:
      input_ids: [batch, length].
      attention_mask: [batch, length], bool or integer; or None.

    Returns:
      [batch, length] bool.
    """
    if attention_mask is None:
        return jnp.ones(input_ids.shape, bool)
    return attention_mask.astype(bool)


def select_last(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Select the hidden state at each row's last True of the mask.

    Args:
      hidden: [batch, length, d].
      mask: [batch, length] bool.

    Returns:
      [batch, d]; the first position's where a row has no True.
    """
    positions = jnp.arange(mask.shape[1])
    last = jnp.max(jnp.where(mask, positions, 0), axis=-1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
