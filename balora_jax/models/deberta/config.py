"""What a DeBERTa v2 or v3 looks like, read from a Hugging Face configuration."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.bert.encoder import EncoderConfig
from balora_jax.models.layers.dense import check_activation


@dataclass(frozen=True)
class DebertaConfig(EncoderConfig):
    """The switches of a DeBERTa; see EncoderConfig."""

    head_dim: int
    embedding_size: int
    # Absolute positions are added to the embeddings.
    absolute: bool
    # Relative positions take part in attention.
    relative: bool
    # Positions on either side that are told apart.
    span: int
    # Buckets on either side, of logarithmic width beyond half of them; 0: one for each position.
    buckets: int
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    # Positions are projected by the query's and key's own kernels.
    shared_kernels: bool
    norm_positions: bool
    # The convolution after the first layer; 0: none.
    conv_width: int
    conv_groups: int
    conv_activation: str
    pooler_activation: str
    pooler_dropout: float


def deberta_config(hf: PretrainedConfig) -> DebertaConfig:
    """The DeBERTa a Hugging Face configuration describes.

    Raises:
        BadInput: something in it is not supported here.
    """

    def given(name, default):
        value = getattr(hf, name, None)
        return default if value is None else value

    kinds = hf.pos_att_type or []
    if set(kinds) - {"c2p", "p2c"}:
        raise BadInput(f"config.json's pos_att_type is {kinds}; accepted: of c2p and p2c")
    farthest = given("max_relative_positions", -1)
    farthest = farthest if farthest >= 1 else hf.max_position_embeddings
    buckets = max(given("position_buckets", -1), 0)
    return DebertaConfig(
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
        classifier_dropout=given("cls_dropout", hf.hidden_dropout_prob),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
        head_dim=given("attention_head_size", hf.hidden_size // hf.num_attention_heads),
        embedding_size=given("embedding_size", hf.hidden_size),
        absolute=given("position_biased_input", True),
        relative=given("relative_attention", False),
        span=buckets or farthest,
        buckets=buckets,
        max_distance=farthest,
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        shared_kernels=given("share_att_key", False),
        norm_positions="layer_norm" in given("norm_rel_ebd", "none").lower(),
        conv_width=max(given("conv_kernel_size", 0), 0),
        conv_groups=given("conv_groups", 1),
        conv_activation=check_activation(given("conv_act", "tanh")),
        pooler_activation=check_activation(hf.pooler_hidden_act),
        pooler_dropout=hf.pooler_dropout,
    )
