"""What all models share: how they compute, and the interface of those that write and those that classify."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from balora_jax.models.head import Head, cap
from balora_jax.models.layers.cache import Cache, empty_cache
from balora_jax.models.layers.dense import Dense
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.options import Numerics


class Model(nn.Module):
    """The attributes that `clone` changes: `model.clone(dtype=..., remat=..., lora_dropout=...)`."""

    config: Any
    # What activations and matrix products are in.
    dtype: DTypeLike = jnp.float32
    # What fresh parameters are stored in.
    param_dtype: DTypeLike = jnp.float32
    # What the backward pass recomputes: none, dots (all but products with weights) or full.
    remat: str = "none"
    # Probability of dropping an input of the adapters.
    lora_dropout: float = 0.0

    def _numerics(self, deterministic: bool) -> Numerics:
        return Numerics(
            self.dtype, self.param_dtype, self.lora_dropout, not deterministic, self.config.init_std
        )


class CausalLM(Model):
    """A causal language model; `apply({"params": base, "lora": adapters}, input_ids, attention_mask)`."""

    # Where the embedding is in the parameters.
    embedding_path: ClassVar[tuple[str, ...]]

    def __call__(self, input_ids, attention_mask=None, deterministic: bool = True) -> jax.Array:
        """Logits of the next token.

        Args:
            input_ids: [batch, length] int32.
            attention_mask: [batch, length], True where a token counts; all when not given. Padding may be on
                either side.
            deterministic: False drops, at the configuration's and the adapters' rates; needs the rng "dropout" then.

        Returns:
            [batch, length, V] float32; finite, but without meaning, where the mask is False.
        """
        return self._logits(
            self.hidden_states(input_ids, attention_mask, deterministic), deterministic
        )

    def hidden_states(
        self, input_ids, attention_mask=None, deterministic: bool = True
    ) -> jax.Array:
        """What the head reads: [batch, length, d], after the final norm; arguments as for `__call__`."""
        return self._run(input_ids, attention_mask, deterministic, None)[0]

    def hidden_states_beside_teacher(
        self, input_ids, attention_mask=None, deterministic: bool = True
    ) -> tuple:
        """`hidden_states` of the student and of the teacher, layer by layer together: each weight is fetched once.

        Args:
            input_ids, attention_mask, deterministic: as for `__call__`; the teacher drops nothing. Its adapters are in
                the collection `teacher`, as the student's in `lora`; none where that is empty.

        Returns:
            (student's, teacher's), each [batch, length, d].
        """
        return self._run(input_ids, attention_mask, deterministic, None, True)[0]

    def extend(self, input_ids, attention_mask, cache: Cache) -> tuple[jax.Array, Cache]:
        """The last token's logits when tokens go on from those in the cache.

        Args:
            input_ids: [batch, length] int32; padding, if any, is on the left.
            attention_mask: [batch, length], True where a token counts; all when None.
            cache: with room for them.

        Returns:
            [batch, V] float32, and the cache with the tokens in it.
        """
        hidden, cache = self._run(input_ids, attention_mask, True, cache)
        return self._logits(hidden[:, -1:], True)[:, 0], cache

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache in the computing type; needs no parameters."""
        cfg = self.config
        return empty_cache(cfg.layers, batch, slots, cfg.kv_heads, cfg.head_dim, self.dtype)

    def _run(
        self,
        input_ids,
        attention_mask,
        deterministic: bool,
        cache: Cache | None,
        beside_teacher: bool = False,
    ):
        mask, numerics = counted(input_ids, attention_mask), self._numerics(deterministic)
        return self._backbone(input_ids, mask, numerics, cache, beside_teacher)

    @nn.compact
    def _logits(self, hidden: jax.Array, deterministic: bool) -> jax.Array:
        cfg = self.config
        if cfg.tied:
            return Head(self._embedding().T, None, cfg.final_softcap).logits(hidden)
        lm_head = Dense(
            cfg.vocab_size, self._numerics(deterministic), out_dtype=jnp.float32, name="lm_head"
        )
        return cap(lm_head(hidden), cfg.final_softcap)


class Classifier(Model):
    """A model with one output a label; `apply({"params": base, "lora": adapters}, input_ids, attention_mask)`.

    `features` and `classify` are its two halves: what the pre-trained model gives, and the head.
    """

    # Outputs: classes, or 1 for regression.
    labels: int = 2

    def __call__(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ) -> jax.Array:
        """Logits of the labels, or the predicted number.

        Args:
            input_ids: [batch, length] int32.
            attention_mask: [batch, length], True where a token counts; all when not given.
            token_type_ids: [batch, length] int32, which of two sentences a token is of; 0 when not given. Models
                without such embeddings leave it aside.
            deterministic: False drops, at the configuration's and the adapters' rates; needs the rng "dropout" then.

        Returns:
            [batch, labels] float32.
        """
        features = self.features(input_ids, attention_mask, token_type_ids, deterministic)
        return self.classify(features, deterministic)


class LastTokenClassifier(Classifier):
    """A decoder with a linear head on the last counted token."""

    def hidden_states(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """[batch, length, d], after the final norm."""
        return self._backbone(
            input_ids, counted(input_ids, attention_mask), self._numerics(deterministic)
        )[0]

    def features(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """What the head reads: [batch, d], the last counted token's hidden state."""
        hidden = self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)
        return at_last(hidden, counted(input_ids, attention_mask))

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        return Dense(
            self.labels, self._numerics(deterministic), out_dtype=jnp.float32, name="score"
        )(features)


class TanhHead(nn.Module):
    """out(tanh(dense(x))), with dropout before each."""

    labels: int
    dropout: float
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        x = drop(x, self.dropout, self.numerics)
        x = jnp.tanh(Dense(x.shape[-1], self.numerics, True, name="dense")(x))
        x = drop(x, self.dropout, self.numerics)
        return Dense(self.labels, self.numerics, True, jnp.float32, name="out_proj")(x)


def counted(input_ids: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """The attention mask as bool, all True when there is none."""
    return (
        jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    )


def at_last(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch, length, d] -> [batch, d] at each row's last True of mask [batch, length]."""
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=-1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
