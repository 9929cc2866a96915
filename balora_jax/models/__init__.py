"""Models in Flax Linen, and their Hugging Face folders."""

from balora_jax.models.base import CausalLM
from balora_jax.models.head import Head, embedding_of, head, untied
from balora_jax.models.hf import pickled
from balora_jax.models.hf.checkpoint import write_checkpoint
from balora_jax.models.hf.classifier_head import (
    head_modules,
    head_params,
    head_shapes,
    head_tensors,
)
from balora_jax.models.hf.config_file import CONFIG_FILE
from balora_jax.models.hf.files import copied_files, is_model_file, read_json, regular_file
from balora_jax.models.hf.fingerprint import fingerprint, hash_files
from balora_jax.models.hf.pretrained import (
    Loaded,
    abstract_params,
    check_attention_of,
    copy_tokenizer,
    end_ids,
    gather_tensors,
    init_params,
    load_checkpoint,
    load_model,
    load_pretrained,
    save_pretrained,
    tasks_of,
)
from balora_jax.models.hf.registry import CAUSAL_LM, CLASSIFICATION, SEQ2SEQ_LM
from balora_jax.models.layers.attention import attention_on, check_attention
from balora_jax.models.t5.model import shift_right

__all__ = [
    "CAUSAL_LM",
    "CLASSIFICATION",
    "CONFIG_FILE",
    "SEQ2SEQ_LM",
    "CausalLM",
    "Head",
    "Loaded",
    "abstract_params",
    "attention_on",
    "check_attention",
    "check_attention_of",
    "copied_files",
    "copy_tokenizer",
    "embedding_of",
    "end_ids",
    "fingerprint",
    "gather_tensors",
    "hash_files",
    "head",
    "head_modules",
    "head_params",
    "head_shapes",
    "head_tensors",
    "init_params",
    "is_model_file",
    "load_checkpoint",
    "load_model",
    "load_pretrained",
    "pickled",
    "read_json",
    "regular_file",
    "save_pretrained",
    "shift_right",
    "tasks_of",
    "untied",
    "write_checkpoint",
]
