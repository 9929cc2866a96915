"""The configuration of a decoder, read from Hugging Face's."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from balora_jax.errors import BadInput, listed, shown
from balora_jax.models.layers.activations import check_activation
from balora_jax.models.layers.rotary import Rope
from balora_jax.models.sizes import require, require_divisor, require_token

ROPE_KINDS = ("default", "linear", "llama3", "longrope")
# The frequencies of a head's rotation are a constant of the compiled model.
LARGEST_HEAD = 2**16
LLAMA3_FIELDS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
QK_NORMS = {"qwen3": "head", "gemma3_text": "head", "olmo2": "projection"}
# Families of which each layer sees the same window.
ONE_WINDOW = ("mistral", "mixtral", "phi3")


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
      pre_norms: True for norms before attention and MLP (all but OLMo 2).
      post_norms: True for norms after them (Gemma 2 and 3, OLMo 2).
      embed_scale: factor of the embeddings.
      residual_scale: factor of what attention and MLP add (Granite).
      hidden_scale: factor of the hidden states before the head (Granite).
      fused: True if queries, keys and values are one projection, and gate and up one (Phi 3).
      qkv_bias: True if the projections to queries, keys and values have a bias.
      out_bias: True if the attention's output projection has a bias.
      mlp_bias: True if the MLP's layers have a bias.
      qk_norm: norms of queries and keys before the rotation: "head" for one of each head (Qwen 3,
        Gemma 3), "projection" for one of all heads together (OLMo 2), or None.
      experts: number of MLPs of which the router chooses (Mixtral); 0 for one MLP without a router.
      experts_per_token: number of those that the router chooses.
      tied: True if the head is the transposed embedding.
      rotary_dim: R, the dimensions of a head that are rotated.
      ropes: for each layer, the rotation of queries and keys; None for none.
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
    pre_norms: bool
    post_norms: bool
    embed_scale: float
    residual_scale: float
    hidden_scale: float
    fused: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: str | None
    experts: int
    experts_per_token: int
    tied: bool
    rotary_dim: int
    ropes: tuple[Rope | None, ...]
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
      hf: the configuration, of a model type that the registry gives to `Decoder`.

    Returns:
      The decoder's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    kind = hf.model_type
    is_gemma = kind in ("gemma", "gemma2", "gemma3_text")
    is_later_gemma = kind in ("gemma2", "gemma3_text")
    if getattr(hf, "use_bidirectional_attention", None):
        raise BadInput(
            "config.json has use_bidirectional_attention; accepted: causal attention only"
        )
    _check_sizes(hf)
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    fits = head_dim % 2 == 0 and head_dim <= LARGEST_HEAD
    accepted = f"an even number of at most {LARGEST_HEAD}, whose halves are rotated"
    require(fits, "head_dim", head_dim, accepted)
    rotary_dim = _rotary_dim(hf, head_dim)
    attention_bias = bool(getattr(hf, "attention_bias", False))
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
        activation=check_activation(hf.hidden_activation if is_later_gemma else hf.hidden_act),
        norm_eps=hf.rms_norm_eps,
        norm_offset=1.0 if is_gemma else 0.0,
        pre_norms=kind != "olmo2",
        post_norms=is_later_gemma or kind == "olmo2",
        embed_scale=_embed_scale(hf, is_gemma),
        residual_scale=float(getattr(hf, "residual_multiplier", 1.0)),
        hidden_scale=1 / getattr(hf, "logits_scaling", 1.0),
        fused=kind == "phi3",
        qkv_bias=attention_bias or kind == "qwen2",
        out_bias=attention_bias,
        mlp_bias=bool(getattr(hf, "mlp_bias", False)),
        qk_norm=QK_NORMS.get(kind),
        **_experts(hf),
        tied=bool(hf.tie_word_embeddings),
        rotary_dim=rotary_dim,
        ropes=_ropes(hf, rotary_dim),
        attention_scale=_attention_scale(hf, head_dim),
        # Hugging Face's Gemma 3 has the entry and does not use it.
        attention_softcap=hf.attn_logit_softcapping if kind == "gemma2" else None,
        final_softcap=hf.final_logit_softcapping if is_later_gemma else None,
        windows=_windows(hf),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


def text_part_config(hf: PretrainedConfig) -> DecoderConfig:
    """Translate the text part of a configuration of texts and images.

    Args:
      hf: the configuration, of type gemma3.

    Returns:
      The decoder's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    kind = hf.text_config.model_type
    require(kind == "gemma3_text", "text_config's model_type", shown(kind), "gemma3_text")
    text = decoder_config(hf.text_config)
    tied = bool(hf.tie_word_embeddings)
    return dataclasses.replace(text, model_type=hf.model_type, tied=tied)


def _embed_scale(hf: PretrainedConfig, is_gemma: bool) -> float:
    if is_gemma:
        return hf.hidden_size**0.5
    return float(getattr(hf, "embedding_multiplier", 1.0))


def _attention_scale(hf: PretrainedConfig, head_dim: int) -> float:
    if hf.model_type == "granite":
        return float(hf.attention_multiplier)
    divisor = getattr(hf, "query_pre_attn_scalar", head_dim)
    return float(divisor) ** -0.5


def _experts(hf: PretrainedConfig) -> dict[str, int]:
    if hf.model_type != "mixtral":
        return {"experts": 0, "experts_per_token": 0}
    experts = hf.num_local_experts
    chosen = hf.num_experts_per_tok
    accepted = f"at most num_local_experts, which is {experts}"
    require(chosen <= experts, "num_experts_per_tok", chosen, accepted)
    noise = hf.router_jitter_noise
    require(noise == 0, "router_jitter_noise", noise, "0")
    return {"experts": experts, "experts_per_token": chosen}


def _check_sizes(hf: PretrainedConfig) -> None:
    heads = hf.num_attention_heads
    if getattr(hf, "head_dim", None) is None:
        require_divisor("hidden_size", hf.hidden_size, "num_attention_heads", heads)
    require_divisor("num_attention_heads", heads, "num_key_value_heads", hf.num_key_value_heads)
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)


def _rotary_dim(hf: PretrainedConfig, head_dim: int) -> int:
    """The dimensions of a head that are rotated: in Phi 3 a part of them."""
    if hf.model_type != "phi3":
        return head_dim
    share = hf.rope_parameters.get("partial_rotary_factor", 1.0)
    rotary_dim = int(head_dim * share)
    accepted = f"a number that makes an even number of the {head_dim} dimensions of a head"
    fits = rotary_dim % 2 == 0 and rotary_dim > 0
    require(fits, "partial_rotary_factor", share, accepted)
    return rotary_dim


def _ropes(hf: PretrainedConfig, rotary_dim: int) -> tuple[Rope | None, ...]:
    """The rotation of each layer: one for all, by its type (Gemma 3), or none (SmolLM 3)."""
    parameters = hf.rope_parameters or {}
    if hf.model_type == "gemma3_text":
        kinds = {kind: _rope(hf, parameters[kind], rotary_dim) for kind in set(hf.layer_types)}
        return tuple(kinds[kind] for kind in hf.layer_types)
    if any(isinstance(value, dict) for value in parameters.values()):
        raise BadInput(
            "config.json's rope_parameters differ by layer; accepted: one rotation for all layers"
        )
    rope = _rope(hf, parameters, rotary_dim)
    if hf.model_type != "smollm3":
        return (rope,) * hf.num_hidden_layers
    rotated = hf.no_rope_layers
    accepted = f"one number for each of the {hf.num_hidden_layers} layers"
    fits = len(rotated) == hf.num_hidden_layers
    require(fits, "no_rope_layers", f"a list of {len(rotated)}", accepted)
    return tuple(rope if is_rotated else None for is_rotated in rotated)


def _rope(hf: PretrainedConfig, parameters: dict[str, Any], rotary_dim: int) -> Rope:
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise BadInput(
            f"config.json's rope_type is {shown(kind)}; accepted: {', '.join(ROPE_KINDS)}"
        )
    if hf.model_type != "phi3" and parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise BadInput(
            "config.json's partial_rotary_factor is not 1; accepted: rotation of whole heads only"
        )

    def required(name: str) -> Any:
        if parameters.get(name) is None:
            raise BadInput(
                f"config.json's rope_parameters have no {name}; accepted: a value, which "
                f"rope_type {kind} needs"
            )
        return parameters[name]

    theta = required("rope_theta")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, required("factor"))
    if kind == "longrope":
        original = required("original_max_position_embeddings")
        return Rope(
            theta,
            kind,
            original_max_positions=original,
            short_factors=_factors("short_factor", required("short_factor"), rotary_dim),
            long_factors=_factors("long_factor", required("long_factor"), rotary_dim),
            attention_factor=_attention_factor(hf, parameters, original),
        )
    rope = Rope(theta, kind, *(required(name) for name in LLAMA3_FIELDS))
    accepted = f"more than low_freq_factor, which is {rope.low_freq_factor}"
    is_above = rope.high_freq_factor > rope.low_freq_factor
    require(is_above, "high_freq_factor", rope.high_freq_factor, accepted)
    return rope


def _factors(entry: str, factors: list[float], rotary_dim: int) -> tuple[float, ...]:
    accepted = f"one for each of the {rotary_dim // 2} frequencies"
    fits = len(factors) == rotary_dim // 2
    require(fits, entry, f"a list of {len(factors)}", accepted)
    return tuple(factors)


def _attention_factor(hf: PretrainedConfig, parameters: dict[str, Any], original: int) -> float:
    """Longrope's factor of queries and keys, by default of how much the length grows."""
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    growth = parameters.get("factor") or hf.max_position_embeddings / original
    if growth <= 1:
        return 1.0
    require(original > 1, "original_max_position_embeddings", original, "at least 2")
    return math.sqrt(1 + math.log(growth) / math.log(original))


def _windows(hf: PretrainedConfig) -> tuple[int | None, ...]:
    window = getattr(hf, "sliding_window", None)
    if hf.model_type in ONE_WINDOW:
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
