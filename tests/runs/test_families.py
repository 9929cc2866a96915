"""Runs of the decoder families on the sums: adapter, merged model and PyTorch agree."""

import json

import numpy as np
import pytest
import torch
from decoder_cases import CASES
from peft import LoraConfig, PeftModel, get_peft_model
from pytorch_reference import Reference, relative, run, torch_logits
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from balora_jax import models
from balora_jax.adapters.peft_format import load_adapter
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune

IDS = np.random.default_rng(0).integers(3, 60, (2, 9))
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
SEVEN = sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"])
# The targets of a run that names none.
TARGETS = {
    "phi3": ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"],
    "mixtral": ATTENTION,
    "olmo2": SEVEN,
    "smollm3": SEVEN,
    "granite": SEVEN,
    "gemma3_text": SEVEN,
    "gemma3": SEVEN,
}


def _open(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def _save(name, tiny_llama, folder):
    """A random model of the family with the tiny Llama's vocabulary and tokenizer."""
    config = CASES[name].__class__(**CASES[name].to_dict())
    config.get_text_config().vocab_size = 259
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    folder.mkdir()
    Reference(model, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((tiny_llama / file).read_bytes())
    return folder


@pytest.mark.parametrize("name", TARGETS)
def test_a_run_its_adapter_and_its_merged_model(name, tiny_llama, run_arguments, tmp_path):
    source = _save(name, tiny_llama, tmp_path / "model")
    more = ["--model.source", str(source), "--training.steps", "2", "--output.merge", "true"]
    summary = finetune(read_config(run_arguments(tmp_path / "run", *more))).summary
    assert summary.steps == 2

    adapter = tmp_path / "run" / "adapter"
    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert sorted({target.split(".")[-1] for target in targets}) == TARGETS[name]
    base = _open(source)
    before = torch_logits(base, IDS)
    adapted = PeftModel.from_pretrained(base, adapter)
    assert not [key for key, _ in adapted.named_parameters() if "vision" in key and "lora" in key]
    in_peft = torch_logits(adapted, IDS)
    assert relative(in_peft, before) > 1e-3

    merged = tmp_path / "run" / "merged"
    assert relative(torch_logits(_open(merged), IDS), in_peft) < 1e-4
    model, params = models.load_pretrained(source)
    lora = load_adapter(adapter, params)
    assert relative(run(model, {"params": params, "lora": lora}, IDS), in_peft) < 1e-4
    stored = load_file(source / "model.safetensors")
    written = load_file(merged / "model.safetensors")
    assert written.keys() == stored.keys()
    for key, tensor in stored.items():
        if "vision" in key or "norm" in key or "experts" in key:
            np.testing.assert_array_equal(written[key], tensor)


@pytest.mark.parametrize("name", ["phi3", "mixtral", "gemma3"])
def test_an_adapter_of_peft_computes_the_same(name, tmp_path, tiny_llama):
    source = _save(name, tiny_llama, tmp_path / "model")
    names = [target for target in TARGETS[name] if target != "down_proj"]
    # Of Gemma 3 the layers of the text alone.
    targets = rf".*language_model.*\.({'|'.join(names)})" if name == "gemma3" else names
    options = LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets)
    adapted = get_peft_model(_open(source), options)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if ".lora_" in key:
                parameter += 0.1 * torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path / "adapter")
    theirs = torch_logits(adapted.eval(), IDS)
    model, params = models.load_pretrained(source)
    lora = load_adapter(tmp_path / "adapter", params)
    assert relative(run(model, {"params": params, "lora": lora}, IDS), theirs) < 1e-4
