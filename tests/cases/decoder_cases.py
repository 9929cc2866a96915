"""Small decoders that together use every option."""

from transformers import (
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZES = dict(
    vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    pad_token_id=0,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip

CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=12),
    "llama3-rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear-rope": LlamaConfig(
        **SIZES, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0),
    ),
    "llama-gelu": LlamaConfig(**SIZES, hidden_act="gelu"),
    "mistral": MistralConfig(**SIZES, sliding_window=5, head_dim=6),
    "mistral-no-window": MistralConfig(**SIZES, sliding_window=None),
    "gemma": GemmaConfig(**SIZES, head_dim=12),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=12, sliding_window=5, query_pre_attn_scalar=7, attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
    ),
    "gemma2-untied": Gemma2Config(
        **SIZES, head_dim=8, sliding_window=5, tie_word_embeddings=False,
        attn_logit_softcapping=None, final_logit_softcapping=None,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-window": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=10),
    "qwen3-window": Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=4,
        tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}  # fmt: skip
