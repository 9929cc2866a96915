"""What a decoder looks like, read from a Hugging Face configuration."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.layers.dense import check_activation
from balora_jax.models.layers.rotary import Rope

DECODERS = ("llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3")
ROPE_KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class DecoderConfig:
    """The switches of one decoder; hashable, so that a model is a static argument of jit."""

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
    # Added to a norm's scale: 1 in Gemma, 0 elsewhere.
    norm_offset: float
    # Norms after attention and MLP too (Gemma 2).
    post_norms: bool
    # The embeddings are multiplied by this.
    embed_scale: float
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    # The head is the transposed embedding.
    tied: bool
    rope: Rope
    attention_scale: float
    attention_softcap: float | None
    final_softcap: float | None
    # How many tokens back each layer sees, itself included; None: all.
    windows: tuple[int | None, ...]
    init_std: float
    pad_token_id: int | None

    @property
    def max_length(self) -> int:
        """Tokens a text may have."""
        return self.max_positions


def decoder_config(hf: PretrainedConfig) -> DecoderConfig:
    """The decoder a Hugging Face configuration describes.

    Args:
        hf: the configuration, of a model type in DECODERS.

    Returns:
        The switches.

    Raises:
        BadInput: something in it is not supported here.
    """
    kind = hf.model_type
    gemma = kind in ("gemma", "gemma2")
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    bias = bool(getattr(hf, "attention_bias", False))
    if getattr(hf, "use_bidirectional_attention", None):
        raise BadInput(
            "config.json has use_bidirectional_attention; accepted: causal attention only"
        )
    return DecoderConfig(
        model_type=kind,
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        kv_heads=hf.num_key_value_heads,
        head_dim=head_dim,
        max_positions=hf.max_position_embeddings,
        activation=check_activation(hf.hidden_activation if kind == "gemma2" else hf.hidden_act),
        norm_eps=hf.rms_norm_eps,
        norm_offset=1.0 if gemma else 0.0,
        post_norms=kind == "gemma2",
        embed_scale=hf.hidden_size**0.5 if gemma else 1.0,
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias,
        mlp_bias=bool(getattr(hf, "mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tied=bool(hf.tie_word_embeddings),
        rope=_rope(hf),
        attention_scale=float(hf.query_pre_attn_scalar if kind == "gemma2" else head_dim) ** -0.5,
        attention_softcap=hf.attn_logit_softcapping if kind == "gemma2" else None,
        final_softcap=hf.final_logit_softcapping if kind == "gemma2" else None,
        windows=_windows(hf),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


def _rope(hf: PretrainedConfig) -> Rope:
    given = hf.rope_parameters or {}
    if any(isinstance(part, dict) for part in given.values()):
        raise BadInput(
            "config.json's rope_parameters differ by layer; accepted: one rotation for all layers"
        )
    kind = given.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise BadInput(f"config.json's rope_type is {kind!r}; accepted: {', '.join(ROPE_KINDS)}")
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise BadInput(
            "config.json's partial_rotary_factor is not 1; accepted: rotation of whole heads only"
        )

    def value(name: str) -> float:
        if name not in given:
            raise BadInput(
                f"config.json's rope_parameters have no {name}, which rope_type {kind} needs"
            )
        return given[name]

    if kind == "default":
        return Rope(value("rope_theta"))
    if kind == "linear":
        return Rope(value("rope_theta"), kind, value("factor"))
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return Rope(value("rope_theta"), kind, *map(value, names))


def _windows(hf: PretrainedConfig) -> tuple[int | None, ...]:
    window = getattr(hf, "sliding_window", None)
    if hf.model_type == "mistral":
        return (window,) * hf.num_hidden_layers
    kinds = getattr(hf, "layer_types", None) or ["full_attention"] * hf.num_hidden_layers
    unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unknown:
        accepted = "full_attention, sliding_attention"
        raise BadInput(f"config.json's layer_types has {', '.join(unknown)}; accepted: {accepted}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
