"""Adapters that PEFT started and trained in PyTorch compute the same here."""

import copy

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from balora_jax import models
from balora_jax.adapters.peft_format import adapter_shapes, conversion_note, load_adapter
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import load_model, materialize
from balora_jax.training.sharding import make_mesh

IDS = np.random.default_rng(0).integers(3, 250, (2, 9))
TARGETS = ["q_proj", "v_proj", "down_proj"]


def _trained(llama, **options):
    """A PEFT model after updates of its factors, on the base that PEFT made for it."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    options = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | options
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter += 0.05 * torch.randn(parameter.shape)
    return model


def _logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


def _our_logits(llama, folder):
    model, params = models.load_pretrained(llama)
    lora = load_adapter(folder, params)
    shapes = adapter_shapes(folder, models.abstract_params(model))
    assert shapes == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), lora)
    return jax.jit(model.apply)({"params": params, "lora": lora}, IDS)


# The first pattern that matches counts, in the order of the alphabet, in which PEFT saves them.
RANKS = {"1.self_attn.v_proj": 7, "down_proj": 3, r"model\.layers\.0\..*": 2, "v_proj": 5}
ALPHAS = {"attn.(q|v)_proj": 3, "k_proj": 9, "layers.1.mlp.down_proj": 0.5, "q_proj": 100}
STARTS = {
    "LoRA": {},
    "rank-stabilized": {"use_rslora": True},
    "Gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "MiCA": {"init_lora_weights": "mica"},
    "PiSSA": {"init_lora_weights": "pissa"},
    "PiSSA, rank-stabilized": {"init_lora_weights": "pissa", "use_rslora": True},
    "OLoRA": {"init_lora_weights": "olora"},
    "OLoRA, every linear layer": {"init_lora_weights": "olora", "target_modules": "all-linear"},
    "ranks": {"rank_pattern": RANKS},
    "alphas": {"alpha_pattern": ALPHAS},
    "ranks and alphas, rank-stabilized": {
        "rank_pattern": RANKS, "alpha_pattern": ALPHAS, "use_rslora": True
    },
    "one layer": {"layers_to_transform": 1},
    "layers of a stack": {"layers_to_transform": [0, 7], "layers_pattern": ["h", "lay[a-z]*s"]},
    "an expression": {"target_modules": r".*layers\.(0\..*q_proj|1\.mlp\.(up|down)_proj)"},
    "all but some": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "without some": {"exclude_modules": ["layers.0.self_attn.q_proj", "mlp"]},
    "without an expression": {"exclude_modules": r"model\.layers\.0\..*attn.*"},
    "full names": {"target_modules": ["model.layers.0.mlp.up_proj", "layers.1.mlp.down_proj"]},
    "PiSSA, ranks and one layer": {
        "init_lora_weights": "pissa", "rank_pattern": RANKS, "alpha_pattern": ALPHAS,
        "layers_to_transform": [1],
    },
    "OLoRA, ranks": {
        "init_lora_weights": "olora", "rank_pattern": RANKS, "alpha_pattern": ALPHAS,
        "use_rslora": True, "exclude_modules": ".*0.*v_proj",
    },
}  # fmt: skip


@pytest.mark.parametrize("options", STARTS.values(), ids=STARTS)
def test_an_adapter_saved_by_peft_computes_the_same(tiny_llama, tmp_path, options):
    """The logits are the trained model's, and those of PEFT on the folder and the original base."""
    model = _trained(tiny_llama, **options)
    model.save_pretrained(tmp_path / "adapter")
    trained = _logits(model)
    ours = _our_logits(tiny_llama, tmp_path / "adapter")
    np.testing.assert_allclose(ours, trained, rtol=1e-4, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert np.abs(_logits(base) - trained).max() > 0.01, "the adapter changes the model"
    reopened = PeftModel.from_pretrained(base, tmp_path / "adapter")
    np.testing.assert_allclose(ours, _logits(reopened), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_peft_converts_an_adapter_when_it_saves(tiny_llama, tmp_path, start):
    """Converted, every start is a LoRA of twice the rank on the original base."""
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=start
    )
    model = get_peft_model(base, config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter += 0.05 * torch.randn(parameter.shape)
    trained = _logits(model)
    model.save_pretrained(
        tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "initial")
    )
    assert conversion_note(tmp_path / "adapter") is None
    ours = _our_logits(tiny_llama, tmp_path / "adapter")
    np.testing.assert_allclose(ours, trained, rtol=1e-4, atol=1e-4)


def test_a_conversion_is_told(tiny_llama, tmp_path):
    _trained(tiny_llama, init_lora_weights="pissa").save_pretrained(tmp_path)
    note = conversion_note(tmp_path)
    assert "started by PEFT's pissa" in note and "LoRA of rank 8 on the original base" in note


def test_an_untrained_adapter_is_exactly_zero(tiny_llama, tmp_path):
    """The converted factors are differences, so that small updates survive a bfloat16 product."""
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa")
    get_peft_model(base, config).save_pretrained(tmp_path)
    _, params = models.load_pretrained(tiny_llama)
    lora = load_adapter(tmp_path, params)["model"]["layers"]["self_attn"]["q_proj"]
    assert np.abs(lora["a"][..., :4]).max() < 1e-4 and np.abs(lora["b"][..., 4:, :]).max() < 1e-4


def test_a_base_in_bfloat16_is_refused(tiny_llama, tmp_path):
    _trained(tiny_llama, init_lora_weights="pissa").save_pretrained(tmp_path)
    _, params = models.load_pretrained(tiny_llama, dtype="bfloat16")
    with pytest.raises(BadInput, match=r"down_proj is bfloat16; accepted: model\.dtype float32"):
        load_adapter(tmp_path, params)


KERNELS = {"pissa": "equal singular values", "olora": "dependent columns"}


@pytest.mark.parametrize("start", KERNELS, ids=KERNELS.values())
def test_initial_factors_that_are_not_determined_are_refused(tiny_llama, tmp_path, start):
    _trained(tiny_llama, init_lora_weights=start).save_pretrained(tmp_path)
    _, params = models.load_pretrained(tiny_llama)
    params = copy.deepcopy(jax.device_get(params))
    kernel = np.array(params["model"]["layers"]["self_attn"]["q_proj"]["kernel"])
    if start == "pissa":
        kernel[1] = np.eye(32)
    else:
        kernel[1, 1] = 2 * kernel[1, 0]
    params["model"]["layers"]["self_attn"]["q_proj"]["kernel"] = kernel
    adapter_shapes(tmp_path, params)
    with pytest.raises(BadInput, match=r"factors of .*q_proj are not determined.*accepted"):
        load_adapter(tmp_path, params)


def test_a_rank_beyond_the_kernels_is_refused(tiny_llama, tmp_path):
    _trained(tiny_llama, init_lora_weights="pissa").save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    longer = {}
    for name, tensor in load_file(path).items():
        axis = 0 if "lora_A" in name else 1
        longer[name] = np.concatenate([tensor] * 9, axis)
    save_file(longer, path)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 36'))
    _, params = models.load_pretrained(tiny_llama)
    with pytest.raises(BadInput, match="'pissa' and r is 36; accepted: at most 32, the smaller"):
        adapter_shapes(tmp_path, params)


def test_a_run_starts_from_the_trained_model(tiny_llama, run_arguments, tmp_path):
    """The state of step 0 computes what PEFT trained, also with kernels divided over devices."""
    peft = _trained(tiny_llama, init_lora_weights="pissa")
    peft.save_pretrained(tmp_path / "adapter")
    divided = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    more = ["--method", "lora", "--adapter.init", str(tmp_path / "adapter"), *divided]
    config = read_config(run_arguments(tmp_path / "run", *more))
    mesh = make_mesh(config.mesh)
    loaded = load_model(config, mesh)
    assert any("started by PEFT's pissa" in note for note in loaded.notes)
    setup = build_setup(config, loaded.model, mesh, steps=1)
    student, state = materialize(config, setup, loaded.params)
    variables = {"params": student.params(state).base, "lora": student.lora(state)}
    ours = jax.jit(student.model.apply)(variables, IDS)
    np.testing.assert_allclose(ours, _logits(peft), rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_with_ranks_and_layers_of_their_own(tiny_llama, run_arguments, tmp_path):
    """The zeros that fill up the factors stay zero: the run trains what PEFT would train."""
    options = {"rank_pattern": RANKS, "alpha_pattern": ALPHAS, "exclude_modules": ".*0.*v_proj"}
    _trained(tiny_llama, **options).save_pretrained(tmp_path / "adapter")
    init = ["--adapter.init", str(tmp_path / "adapter"), "--optimizer.weight_decay", "0.1"]
    main(["train", *run_arguments(tmp_path / "run", *init)])
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    after = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    changes = 0
    for name, tensor in after.items():
        rank = 0
        if name in before:
            rank = before[name].shape["lora_B" in name]
            changes += not np.array_equal(tensor[: before[name].shape[0], :rank], before[name])
        trained = tensor[:rank] if "lora_A" in name else tensor[:, :rank]
        rest = tensor[rank:] if "lora_A" in name else tensor[:, rank:]
        assert rest.shape["lora_B" in name] == 7 - rank and not rest.any(), name
        assert trained.all() or rank == 0
    assert changes > len(before) / 2
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    theirs = _logits(PeftModel.from_pretrained(base, tmp_path / "run" / "adapter"))
    np.testing.assert_allclose(
        _our_logits(tiny_llama, tmp_path / "run" / "adapter"), theirs, rtol=1e-4, atol=1e-4
    )
