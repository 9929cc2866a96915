"""Tiny model folders of every model type, written without PyTorch."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import save_file

from balora_jax.models import abstract_params, load_model
from balora_jax.models.hf.names import tensors_of
from balora_jax.models.hf.registry import MODEL_TYPES

DECODER = {
    "vocab_size": 19,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "rope_theta": 500.0,
}
WITHOUT_ACTIVATION = {name: value for name, value in DECODER.items() if name != "hidden_act"}
WINDOWS = {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}
ENCODER = {
    "vocab_size": 19,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "id2label": {"0": "no", "1": "yes"},
}
CONFIGS = {
    "llama": {**DECODER, "mlp_bias": False},
    "mistral": {**DECODER, "sliding_window": 4},
    "gemma": DECODER,
    "gemma2": {
        **WITHOUT_ACTIVATION,
        **WINDOWS,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 4,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **WITHOUT_ACTIVATION,
        **WINDOWS,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 4,
        "rope_local_base_freq": 100.0,
    },
    "phi3": {
        **{name: value for name, value in DECODER.items() if name != "head_dim"},
        "sliding_window": 4,
        "original_max_position_embeddings": 8,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1], "long_factor": [1.0, 2.0]},
    },
    "mixtral": {**DECODER, "num_local_experts": 3, "num_experts_per_tok": 2},
    "olmo2": {name: value for name, value in DECODER.items() if name != "head_dim"},
    "smollm3": {
        **DECODER,
        "no_rope_layers": [1, 0],
        "use_sliding_window": False,
        "mlp_bias": False,
    },
    "granite": {
        **DECODER,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.5,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "qwen2": {**DECODER, **WINDOWS, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {**DECODER, **WINDOWS, "use_sliding_window": True, "max_window_layers": 1},
    "gpt2": {
        "vocab_size": 19,
        "n_embd": 8,
        "n_inner": 12,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "scale_attn_weights": True,
        "add_cross_attention": False,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    },
    "t5": {
        "vocab_size": 19,
        "d_model": 8,
        "d_ff": 12,
        "d_kv": 4,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "relu",
        "dropout_rate": 0.1,
        "classifier_dropout": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": True,
    },
    "bert": {**ENCODER, "classifier_dropout": 0.1, "is_decoder": False},
    "roberta": {**ENCODER, "classifier_dropout": 0.1, "pad_token_id": 1},
    "deberta-v2": {
        **ENCODER,
        "relative_attention": True,
        "position_biased_input": False,
        "position_buckets": 4,
        "max_relative_positions": -1,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "conv_groups": 2,
        "conv_act": "gelu",
        "pooler_dropout": 0.0,
        "pooler_hidden_act": "gelu",
        "cls_dropout": 0.1,
        "attention_head_size": 4,
        "embedding_size": 6,
    },
}


def first_task(model_type: str) -> str:
    """The first task of a model type."""
    return next(iter(MODEL_TYPES[model_type].tasks))


def write_config(folder: pathlib.Path, config: dict) -> pathlib.Path:
    """Write config.json into a folder, which is created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: pathlib.Path, model_type: str) -> pathlib.Path:
    """Write a tiny model of a type, whose weights are all 0.01."""
    write_config(folder, {"model_type": model_type, **CONFIGS[model_type]})
    model = load_model(folder, task=first_task(model_type))
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.01, np.float32), abstract_params(model)
    )
    tensors = tensors_of(MODEL_TYPES[model_type].naming, params)
    save_file({tensor.name: tensor.make() for tensor in tensors}, folder / "model.safetensors")
    return folder
