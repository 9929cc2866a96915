"""The configuration of a decoder, read from Hugging Face's."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.errors import BadInput, listed, shown
from balora_jax.models.layers.activations import check_activation
from balora_jax.models.layers.rotary import Rope
from balora_jax.models.sizes import require, require_divisor, require_token

ROPE_KINDS = ("default", "linear", "llama3")
# The frequencies of a head's rotation are a constant of the compiled model.
LARGEST_HEAD = 2**16
LLAMA3_FIELDS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes and switches of a decoder; hashable, so a model can be a static argument of jit.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      vocab_size: V.
      hidden_size: d.
      intermediate_size: width of the MLP.
      layers: number of layers.
      heads: query heads.
      kv_heads: key and value heads; divides `heads`.
      head_dim: D, the size of a head.
      max_positions: tokens the model was trained on at once.
      activation: the MLP's activation, a key of ACTIVATIONS.
      norm_eps: epsilon of the norms.
      norm_offset: added to a norm's scale: 1 in Gemma, 0 elsewhere.
      post_norms: True for norms after attention and MLP, too (Gemma 2).
      embed_scale: factor of the embeddings.
      qkv_bias: True if the projections to queries, keys and values have a bias.
      out_bias: True if the attention's output projection has a bias.
      mlp_bias: True if the MLP's layers have a bias.
      qk_norm: True for a norm of each query and key before the rotation (Qwen 3).
      tied: True if the head is the transposed embedding.
      rope: the rotation of queries and keys.
      attention_scale: factor of the attention scores.
      attention_softcap: soft cap of the attention scores (Gemma 2), or None.
      final_softcap: soft cap of the logits (Gemma 2), or None.
      windows: for each layer, the positions a token sees, its own included; None for all.
      init_std: standard deviation of fresh kernels and embeddings.
      pad_token_id: the token of padding, or None.
    """

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
    norm_offset: float
    post_norms: bool
    embed_scale: float
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    rope: Rope
    attention_scale: float
    attention_softcap: float | None
    final_softcap: float | None
    windows: tuple[int | None, ...]
    init_std: float
    pad_token_id: int | None

    @property
    def max_length(self) -> int:
        """The longest text the model accepts, in tokens."""
        return self.max_positions


def decoder_config(hf: PretrainedConfig) -> DecoderConfig:
    """Translate a Hugging Face configuration.

    Args:
      hf: the configuration, of type llama, mistral, gemma, gemma2, qwen2 or qwen3.

    Returns:
      The decoder's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    kind = hf.model_type
    is_gemma = kind in ("gemma", "gemma2")
    is_gemma2 = kind == "gemma2"
    if getattr(hf, "use_bidirectional_attention", None):
        raise BadInput(
            "config.json has use_bidirectional_attention; accepted: causal attention only"
        )
    _check_sizes(hf)
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    fits = head_dim % 2 == 0 and head_dim <= LARGEST_HEAD
    accepted = f"an even number of at most {LARGEST_HEAD}, whose halves are rotated"
    require(fits, "head_dim", head_dim, accepted)
    attention_bias = bool(getattr(hf, "attention_bias", False))
    activation = hf.hidden_activation if is_gemma2 else hf.hidden_act
    scores_divisor = hf.query_pre_attn_scalar if is_gemma2 else head_dim
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
        activation=check_activation(activation),
        norm_eps=hf.rms_norm_eps,
        norm_offset=1.0 if is_gemma else 0.0,
        post_norms=is_gemma2,
        embed_scale=hf.hidden_size**0.5 if is_gemma else 1.0,
        qkv_bias=attention_bias or kind == "qwen2",
        out_bias=attention_bias,
        mlp_bias=bool(getattr(hf, "mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tied=bool(hf.tie_word_embeddings),
        rope=_rope(hf),
        attention_scale=float(scores_divisor) ** -0.5,
        attention_softcap=hf.attn_logit_softcapping if is_gemma2 else None,
        final_softcap=hf.final_logit_softcapping if is_gemma2 else None,
        windows=_windows(hf),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


def _check_sizes(hf: PretrainedConfig) -> None:
    heads = hf.num_attention_heads
    if getattr(hf, "head_dim", None) is None:
        require_divisor("hidden_size", hf.hidden_size, "num_attention_heads", heads)
    require_divisor("num_attention_heads", heads, "num_key_value_heads", hf.num_key_value_heads)
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)


def _rope(hf: PretrainedConfig) -> Rope:
    parameters = hf.rope_parameters or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        raise BadInput(
            "config.json's rope_parameters differ by layer; accepted: one rotation for all layers"
        )
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise BadInput(
            f"config.json's rope_type is {shown(kind)}; accepted: {', '.join(ROPE_KINDS)}"
        )
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise BadInput(
            "config.json's partial_rotary_factor is not 1; accepted: rotation of whole heads only"
        )

    def required(name: str) -> float:
        if parameters.get(name) is None:
            raise BadInput(
                f"config.json's rope_parameters have no {name}; accepted: a number, which "
                f"rope_type {kind} needs"
            )
        return parameters[name]

    theta = required("rope_theta")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, required("factor"))
    rope = Rope(theta, kind, *(required(name) for name in LLAMA3_FIELDS))
    accepted = f"more than low_freq_factor, which is {rope.low_freq_factor}"
    is_above = rope.high_freq_factor > rope.low_freq_factor
    require(is_above, "high_freq_factor", rope.high_freq_factor, accepted)
    return rope


def _windows(hf: PretrainedConfig) -> tuple[int | None, ...]:
    window = getattr(hf, "sliding_window", None)
    if hf.model_type == "mistral":
        return (window,) * hf.num_hidden_layers
    layer_types = getattr(hf, "layer_types", None) or ["full_attention"] * hf.num_hidden_layers
    unknown = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if unknown:
        accepted = "full_attention, sliding_attention"
        raise BadInput(f"config.json's layer_types has {listed(unknown)}; accepted: {accepted}")
    accepted = f"one for each of the {hf.num_hidden_layers} layers"
    fits = len(layer_types) == hf.num_hidden_layers
    require(fits, "layer_types", f"a list of {len(layer_types)}", accepted)
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)
