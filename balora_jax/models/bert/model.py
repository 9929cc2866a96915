"""BERT (Devlin et al., 1810.04805) and RoBERTa (Liu et al., 1907.11692), with their classification heads."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from transformers import PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.base import Classifier, TanhHead, counted
from balora_jax.models.bert.encoder import EncoderConfig, EncoderLayer, TokenEmbeddings
from balora_jax.models.layers.dense import Dense, check_activation
from balora_jax.models.layers.dropout import drop
from balora_jax.models.layers.options import Numerics
from balora_jax.models.layers.stack import stack


def encoder_config(hf: PretrainedConfig) -> EncoderConfig:
    """The encoder a Hugging Face configuration of BERT or RoBERTa describes.

    Raises:
        BadInput: something in it is not supported here.
    """
    if hf.is_decoder or hf.add_cross_attention:
        raise BadInput(f"config.json makes the {hf.model_type} model a decoder; accepted: encoders")
    if getattr(hf, "position_embedding_type", "absolute") != "absolute":
        raise BadInput(
            f"config.json's position_embedding_type is {hf.position_embedding_type!r}; accepted: absolute"
        )
    dropout = hf.hidden_dropout_prob if hf.classifier_dropout is None else hf.classifier_dropout
    return EncoderConfig(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        max_positions=hf.max_position_embeddings,
        segments=hf.type_vocab_size,
        activation=check_activation(hf.hidden_act),
        norm_eps=hf.layer_norm_eps,
        hidden_dropout=hf.hidden_dropout_prob,
        attention_dropout=hf.attention_probs_dropout_prob,
        classifier_dropout=dropout,
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


class Encoder(nn.Module):
    """The layers."""

    config: EncoderConfig
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, numerics: Numerics) -> jax.Array:
        layers = stack(EncoderLayer, self.config.layers, self.remat, (nn.broadcast, nn.broadcast))
        return layers(self.config, numerics, name="layer")(x, mask[:, None, :], None)[0]


class Pooler(nn.Module):
    """tanh(dense(first token))."""

    config: EncoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        return jnp.tanh(
            Dense(self.config.hidden_size, self.numerics, True, name="dense")(hidden[:, 0])
        )


class Backbone(nn.Module):
    """Embeddings, layers and, in BERT, the pooler."""

    config: EncoderConfig
    remat: str

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, mask: jax.Array, segments: jax.Array | None, numerics: Numerics
    ):
        """Returns: hidden states [batch, length, d] and, in BERT, the pooled ones [batch, d]."""
        cfg = self.config
        x = TokenEmbeddings(cfg, numerics, name="embeddings")(
            input_ids, self._positions(mask), segments
        )
        x = Encoder(cfg, self.remat, name="encoder")(x, mask, numerics)
        return x, Pooler(cfg, numerics, name="pooler")(x) if cfg.model_type == "bert" else None

    def _positions(self, mask: jax.Array) -> jax.Array:
        """BERT counts slots; RoBERTa counts tokens, from one past its pad token's id, which padding has."""
        if self.config.model_type == "bert":
            return jnp.arange(mask.shape[1])[None]
        return jnp.cumsum(mask, axis=-1) * mask + self.config.pad_token_id


class BertClassifier(Classifier):
    """BERT with a linear head on the pooled first token."""

    def setup(self) -> None:
        self.bert = Backbone(self.config, self.remat)

    def _run(self, input_ids, attention_mask, token_type_ids, deterministic: bool):
        mask = counted(input_ids, attention_mask)
        return self.bert(input_ids, mask, token_type_ids, self._numerics(deterministic))

    def hidden_states(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """[batch, length, d], after the last layer."""
        return self._run(input_ids, attention_mask, token_type_ids, deterministic)[0]

    def features(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """What the head reads: [batch, d], the pooled first token."""
        return self._run(input_ids, attention_mask, token_type_ids, deterministic)[1]

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        numerics = self._numerics(deterministic)
        features = drop(features, self.config.classifier_dropout, numerics)
        return Dense(self.labels, numerics, True, jnp.float32, name="classifier")(features)


class RobertaClassifier(Classifier):
    """RoBERTa with a head of two layers on the first token."""

    def setup(self) -> None:
        self.roberta = Backbone(self.config, self.remat)

    def hidden_states(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """[batch, length, d], after the last layer."""
        mask = counted(input_ids, attention_mask)
        return self.roberta(input_ids, mask, token_type_ids, self._numerics(deterministic))[0]

    def features(
        self, input_ids, attention_mask=None, token_type_ids=None, deterministic: bool = True
    ):
        """What the head reads: [batch, d], the first token's hidden state."""
        return self.hidden_states(input_ids, attention_mask, token_type_ids, deterministic)[:, 0]

    @nn.compact
    def classify(self, features: jax.Array, deterministic: bool = True) -> jax.Array:
        """[batch, d] -> [batch, labels] float32."""
        numerics = self._numerics(deterministic)
        return TanhHead(self.labels, self.config.classifier_dropout, numerics, name="classifier")(
            features
        )
