"""Model folders that a stranger hands over: loaded as they are meant, or refused in a sentence."""

import json
import os
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from model_folders import CONFIGS, first_task, write_config, write_model
from safetensors.numpy import load_file, save_file

from balora_jax.errors import BadInput
from balora_jax.models import init_params, load_checkpoint, load_model, save_pretrained

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MISSING = object()
NAN = float("nan")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """model type -> a tiny folder, written once; tests link to its weights' copy."""
    written = {}

    def folder(model_type):
        if model_type not in written:
            written[model_type] = write_model(
                tmp_path_factory.mktemp("models") / model_type, model_type
            )
        return written[model_type]

    return folder


@pytest.fixture
def llama(folders, tmp_path):
    """A copy of the tiny Llama's folder, for tests that damage it."""
    return shutil.copytree(folders("llama"), tmp_path / "llama")


def _sentence(folder, task):
    """The sentence with which a folder is refused; None if it loads."""
    try:
        load_checkpoint(folder, task=task)
    except BadInput as error:
        sentence = str(error)
        assert str(folder) in sentence and "accepted: " in sentence, sentence
        assert "\n" not in sentence and len(sentence) < 1500, sentence
        return sentence
    return None


VALUES = [None, "x", [], {}, -1, 0, 1.5, True, 10**9, 10**40, NAN, float("inf")]

# Values of VALUES with which a field may load, beside its own; True is no number in this table.
RATES = [None, 0]
LOADS = {
    "head_dim": [None],
    "num_key_value_heads": [None],
    "max_position_embeddings": [10**9],
    "initializer_range": [0],
    "initializer_factor": [0, 1.5],
    "pad_token_id": [None, -1, 0],
    "attention_bias": [True],
    "tie_word_embeddings": [True],
    "rope_theta": [None, 1.5, 10**9],
    "sliding_window": [None, 10**9],
    "layer_types": [None],
    "use_sliding_window": [True],
    "max_window_layers": [0, 10**9],
    "hidden_activation": [None],
    "hidden_act": [None],
    "query_pre_attn_scalar": [1.5, 10**9],
    "attn_logit_softcapping": [None, 1.5, 10**9],
    "final_logit_softcapping": [None, 1.5, 10**9],
    "scale_attn_weights": [True],
    "attn_pdrop": RATES,
    "embd_pdrop": RATES,
    "resid_pdrop": RATES,
    "dropout_rate": RATES,
    "classifier_dropout": RATES,
    "cls_dropout": RATES,
    "pooler_dropout": RATES,
    "hidden_dropout_prob": RATES,
    "attention_probs_dropout_prob": RATES,
    "num_decoder_layers": [None],
    "relative_attention_max_distance": [10**9],
    "decoder_start_token_id": [None, 0],
    "eos_token_id": [0],
    "id2label": [None],
    "relative_attention": [True],
    "max_relative_positions": [None, -1, 0, 10**9],
    "share_att_key": [True],
    "attention_head_size": [None],
    "conv_act": [None],
    "pos_att_type": [None, []],
}
FIELDS = [(kind, field) for kind, config in CONFIGS.items() for field in config]


@pytest.mark.parametrize("kind, field", FIELDS, ids=[f"{kind}-{field}" for kind, field in FIELDS])
def test_a_value_is_refused_or_loads(folders, tmp_path, kind, field):
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder)
    for value in VALUES:
        write_config(folder, {"model_type": kind, **CONFIGS[kind], field: value})
        sentence = _sentence(folder, first_task(kind))
        loads = any(value is other or value == other for other in LOADS.get(field, ()))
        assert sentence is not None or loads, (value, "loads")


@pytest.mark.parametrize("kind, field", FIELDS, ids=[f"{kind}-{field}" for kind, field in FIELDS])
def test_a_missing_value_is_transformers_default(folders, tmp_path, kind, field):
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder)
    config = {"model_type": kind, **CONFIGS[kind]}
    del config[field]
    write_config(folder, config)
    sentence = _sentence(folder, first_task(kind))
    assert sentence is None or "config.json" in sentence


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tiny_models_load(folders, kind):
    assert _sentence(folders(kind), first_task(kind)) is None
