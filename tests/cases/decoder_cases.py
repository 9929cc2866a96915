"""Configurations of small decoders that together use every switch."""

from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SmolLM3Config,
)

SIZES = dict(
    vocab_size=67,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def longrope(frequencies, original):
    """LongRoPE's factors for a number of frequencies."""
    return dict(
        rope_type="longrope",
        rope_theta=1e4,
        short_factor=[1.0 + 0.1 * i for i in range(frequencies)],
        long_factor=[1.5 + 0.7 * i for i in range(frequencies)],
        original_max_position_embeddings=original,
    )


GEMMA3 = dict(
    **SIZES,
    head_dim=12,
    sliding_window=5,
    query_pre_attn_scalar=7,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)
IMAGES = SiglipVisionConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
)

CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=12),
    "llama3-rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear-rope": LlamaConfig(
        **SIZES, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0)
    ),
    "llama-gelu": LlamaConfig(**SIZES, hidden_act="gelu"),
    "mistral": MistralConfig(**SIZES, sliding_window=5, head_dim=6),
    "mistral-no-window": MistralConfig(**SIZES, sliding_window=None),
    "gemma": GemmaConfig(**SIZES, head_dim=12),
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=12,
        sliding_window=5,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
    ),
    "gemma2-untied": Gemma2Config(
        **SIZES,
        head_dim=8,
        sliding_window=5,
        tie_word_embeddings=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-window": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=10),
    "qwen3-window": Qwen3Config(
        **SIZES,
        head_dim=8,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=4,
        tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "llama-longrope": LlamaConfig(**SIZES, rope_parameters=longrope(4, 8)),
    "gemma3_text": Gemma3TextConfig(**GEMMA3),
    "gemma3_text-untied": Gemma3TextConfig(
        **SIZES,
        head_dim=8,
        sliding_window=4,
        attention_bias=True,
        tie_word_embeddings=False,
        final_logit_softcapping=2.0,
        sliding_window_pattern=2,
        rope_parameters={
            "full_attention": dict(rope_type="linear", rope_theta=1e5, factor=4.0),
            "sliding_attention": dict(rope_type="default", rope_theta=50.0),
        },
    ),
    "gemma3": Gemma3Config(
        text_config=Gemma3TextConfig(**GEMMA3, tie_word_embeddings=False),
        vision_config=IMAGES,
        tie_word_embeddings=False,
        mm_tokens_per_image=4,
        image_token_index=66,
    ),
    "phi3": Phi3Config(**SIZES, sliding_window=6),
    "phi3-one-head": Phi3Config(**{**SIZES, "num_key_value_heads": None}, hidden_act="gelu"),
    # As Phi 4 mini: tied, a part of each head rotated, texts beyond the original length.
    "phi4-mini": Phi3Config(
        **SIZES,
        tie_word_embeddings=True,
        partial_rotary_factor=0.5,
        original_max_position_embeddings=10,
        rope_parameters=dict(longrope(2, 10), partial_rotary_factor=0.5),
    ),
    "phi3-short": Phi3Config(
        **SIZES, original_max_position_embeddings=32, rope_parameters=longrope(4, 32)
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "mixtral-window": MixtralConfig(
        **SIZES, num_local_experts=5, num_experts_per_tok=3, sliding_window=5, head_dim=6
    ),
    "olmo2": Olmo2Config(**SIZES),
    "olmo2-biases": Olmo2Config(**SIZES, attention_bias=True, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layer_interval=2),
    "smollm3-window": SmolLM3Config(
        **SIZES,
        no_rope_layers=[0, 1, 1],
        use_sliding_window=True,
        sliding_window=4,
        tie_word_embeddings=False,
        mlp_bias=True,
        attention_bias=True,
    ),
    "granite": GraniteConfig(
        **SIZES,
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=2.5,
    ),
    "granite-tied": GraniteConfig(
        **SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, logits_scaling=4.0
    ),
}
