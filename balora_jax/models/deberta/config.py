"""The configuration of a DeBERTa v2 or v3, read from Hugging Face's."""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from balora_jax.errors import BadInput, shown
from balora_jax.models.bert.config import EncoderConfig
from balora_jax.models.layers.activations import check_activation
from balora_jax.models.sizes import require, require_divisor, require_token


@dataclass(frozen=True)
class DebertaConfig(EncoderConfig):
    """The sizes and switches of a DeBERTa, beside those of every encoder.

    Attributes:
      head_dim: D, the size of a head.
      embedding_size: size of the embeddings, before a projection to hidden_size.
      absolute: True to add absolute positions to the embeddings.
      relative: True to use relative positions in attention.
      span: relative positions on either side that have embeddings of their own.
      buckets: buckets of relative positions on either side, of logarithmic width beyond half of
        them; 0 for one per position.
      max_distance: the relative position at which the last bucket starts.
      content_to_position: True for scores of the query's content and the key's position.
      position_to_content: True for scores of the query's position and the key's content.
      shared_kernels: True if positions are projected by the kernels of query and key.
      norm_positions: True for a norm of the position embeddings.
      conv_width: width of the convolution after the first layer; 0 for none.
      conv_groups: channel groups of the convolution.
      conv_activation: activation of the convolution, a key of ACTIVATIONS.
      pooler_activation: activation of the pooler, a key of ACTIVATIONS.
      pooler_dropout: dropout rate before the pooler.
    """

    head_dim: int
    embedding_size: int
    absolute: bool
    relative: bool
    span: int
    buckets: int
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    shared_kernels: bool
    norm_positions: bool
    conv_width: int
    conv_groups: int
    conv_activation: str
    pooler_activation: str
    pooler_dropout: float


def deberta_config(hf: PretrainedConfig) -> DebertaConfig:
    """Translate a Hugging Face configuration.

    Args:
      hf: the configuration, of type deberta-v2.

    Returns:
      The DeBERTa's configuration.

    Raises:
      BadInput: a setting is not supported.
    """

    def setting(name: str, default: Any) -> Any:
        value = getattr(hf, name, None)
        return default if value is None else value

    require_divisor("hidden_size", hf.hidden_size, "num_attention_heads", hf.num_attention_heads)
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)
    score_kinds = hf.pos_att_type or []
    if set(score_kinds) - {"c2p", "p2c"}:
        raise BadInput(
            f"config.json's pos_att_type is {shown(score_kinds)}; accepted: of c2p and p2c"
        )
    max_distance = setting("max_relative_positions", -1)
    if max_distance < 1:
        max_distance = hf.max_position_embeddings
    buckets = max(setting("position_buckets", -1), 0)
    fits = buckets != 1 and max_distance > buckets // 2 + 1
    accepted = "0, or from 2 on and below twice the number of relative positions"
    require(buckets == 0 or fits, "position_buckets", buckets, accepted)
    conv_width = max(setting("conv_kernel_size", 0), 0)
    conv_groups = setting("conv_groups", 1)
    if conv_width:
        require(conv_width % 2 == 1, "conv_kernel_size", conv_width, "0, or an odd number")
        require_divisor("hidden_size", hf.hidden_size, "conv_groups", conv_groups)
    return DebertaConfig(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        max_positions=hf.max_position_embeddings,
        token_types=hf.type_vocab_size,
        activation=check_activation(hf.hidden_act),
        norm_eps=hf.layer_norm_eps,
        hidden_dropout=hf.hidden_dropout_prob,
        attention_dropout=hf.attention_probs_dropout_prob,
        classifier_dropout=setting("cls_dropout", hf.hidden_dropout_prob),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
        head_dim=setting("attention_head_size", hf.hidden_size // hf.num_attention_heads),
        embedding_size=setting("embedding_size", hf.hidden_size),
        absolute=setting("position_biased_input", True),
        relative=setting("relative_attention", False),
        span=buckets or max_distance,
        buckets=buckets,
        max_distance=max_distance,
        content_to_position="c2p" in score_kinds,
        position_to_content="p2c" in score_kinds,
        shared_kernels=setting("share_att_key", False),
        norm_positions="layer_norm" in setting("norm_rel_ebd", "none").lower(),
        conv_width=conv_width,
        conv_groups=conv_groups,
        conv_activation=check_activation(setting("conv_act", "tanh")),
        pooler_activation=check_activation(hf.pooler_hidden_act),
        pooler_dropout=hf.pooler_dropout,
    )
