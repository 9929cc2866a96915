"""The configuration of a T5, read from Hugging Face's."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.models.layers.activations import check_activation
from balora_jax.models.sizes import require, require_token


@dataclass(frozen=True)
class T5Config:
    """The sizes and switches of a T5; hashable, so a model can be a static argument of jit.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      vocab_size: V.
      hidden_size: d.
      intermediate_size: width of the feed-forward layers.
      layers: blocks of the encoder.
      decoder_layers: blocks of the decoder.
      heads: attention heads.
      head_dim: D, the size of a head.
      activation: the feed-forward layers' activation, a key of ACTIVATIONS.
      gated: True for gated feed-forward layers (T5 1.1).
      norm_eps: epsilon of the norms.
      dropout: dropout rate of the embeddings, residual branches and attention weights.
      classifier_dropout: dropout rate of the classification head.
      buckets: buckets of relative positions.
      max_distance: the distance from which on all share the last bucket.
      scaled: True if the decoder's output is divided by sqrt(d) before the head (T5 1.0).
      tied: True if the head is the transposed embedding.
      init_std: standard deviation of fresh kernels and embeddings.
      pad_token_id: the token of padding, or None.
      eos_token_id: the token that ends a text.
      start_token_id: the token the decoder starts from.
      final_softcap: None; T5 caps no logits.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    decoder_layers: int
    heads: int
    head_dim: int
    activation: str
    gated: bool
    norm_eps: float
    dropout: float
    classifier_dropout: float
    buckets: int
    max_distance: int
    scaled: bool
    tied: bool
    init_std: float
    pad_token_id: int | None
    eos_token_id: int
    start_token_id: int
    final_softcap: None = None

    @property
    def max_length(self) -> None:
        """None: positions are relative, so texts may have any length."""
        return None


def t5_config(hf: PretrainedConfig) -> T5Config:
    """Translate a Hugging Face configuration.

    Args:
      hf: the configuration, of type t5.

    Returns:
      The T5's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    scaled = bool(getattr(hf, "scale_decoder_outputs", hf.tie_word_embeddings))
    eos_token_id = hf.eos_token_id
    if isinstance(eos_token_id, list):
        eos_token_id = eos_token_id[0]
    start_token_id = getattr(hf, "decoder_start_token_id", None)
    if start_token_id is None:
        start_token_id = hf.pad_token_id or 0
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)
    accepted = f"a whole number from 0 to vocab_size - 1, which is {hf.vocab_size - 1}"
    has_end = eos_token_id is not None and 0 <= eos_token_id < hf.vocab_size
    require(has_end, "eos_token_id", eos_token_id, accepted)
    has_start = 0 <= start_token_id < hf.vocab_size
    require(has_start, "decoder_start_token_id", start_token_id, accepted)
    _check_buckets(hf)
    return T5Config(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.d_model,
        intermediate_size=hf.d_ff,
        layers=hf.num_layers,
        decoder_layers=hf.num_decoder_layers,
        heads=hf.num_heads,
        head_dim=hf.d_kv,
        activation=check_activation(hf.dense_act_fn),
        gated=hf.is_gated_act,
        norm_eps=hf.layer_norm_epsilon,
        dropout=hf.dropout_rate,
        classifier_dropout=hf.classifier_dropout,
        buckets=hf.relative_attention_num_buckets,
        max_distance=hf.relative_attention_max_distance,
        scaled=scaled,
        tied=scaled,
        init_std=hf.initializer_factor * hf.d_model**-0.5,
        pad_token_id=hf.pad_token_id,
        eos_token_id=eos_token_id,
        start_token_id=start_token_id,
    )


def _check_buckets(hf: PretrainedConfig) -> None:
    """Check that relative positions have near buckets and far ones in both directions."""
    buckets = hf.relative_attention_num_buckets
    accepted = "a multiple of 2 from 4 on"
    require(buckets >= 4 and buckets % 2 == 0, "relative_attention_num_buckets", buckets, accepted)
    max_distance = hf.relative_attention_max_distance
    accepted = f"more than half of relative_attention_num_buckets, which is {buckets}"
    fits = max_distance > buckets // 2
    require(fits, "relative_attention_max_distance", max_distance, accepted)
