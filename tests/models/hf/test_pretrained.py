"""Hugging Face folders: loading, saving for transformers to read, and refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from decoder_cases import CASES
from pytorch_reference import relative, run, torch_logits
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from balora_jax.errors import BadInput
from balora_jax.models import init_params, load_model, load_pretrained, save_pretrained
from balora_jax.models.layers.rotary import Rope

IDS = np.random.default_rng(0).integers(3, 67, (2, 9))


@pytest.fixture
def llama(tiny, tmp_path):
    """A copy of the tiny Llama's folder, for tests that damage it."""
    return shutil.copytree(tiny("llama", CASES["llama"]).folder, tmp_path / "llama")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


SAVED = ["llama-biases", "gemma2", "qwen3", "phi4-mini", "mixtral", "gemma3", "gemma3_text"]


@pytest.mark.parametrize("name", SAVED)
def test_saved_folder_gives_the_same_logits_in_pytorch(name, tiny, tmp_path):
    reference = tiny(name, CASES[name])
    model, params = load_pretrained(reference.folder)
    changed = jax.tree.map(lambda leaf: leaf * 1.1, params)
    folder = save_pretrained(tmp_path / "saved", changed, source=reference.folder)
    theirs = torch_logits(
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), IDS
    )
    ours = run(model, {"params": changed}, IDS)
    assert relative(ours, theirs) < 1e-4
    assert relative(ours, reference.logits(IDS)) > 1e-2


def test_sharded_folders_are_read_and_written(tiny, tmp_path):
    sharded = tiny("llama-sharded", CASES["llama"], max_shard_size="20KB")
    assert (sharded.folder / "model.safetensors.index.json").is_file()
    model, params = load_pretrained(sharded.folder)
    assert relative(run(model, {"params": params}, IDS), sharded.logits(IDS)) < 1e-4

    again = save_pretrained(tmp_path / "again", params, source=sharded.folder, max_bytes=20_000)
    assert len(list(again.glob("*.safetensors"))) > 2
    loaded = load_pretrained(again)[1]
    assert jax.tree.all(
        jax.tree.map(lambda left, right: bool((left == right).all()), params, loaded)
    )
    AutoModelForCausalLM.from_pretrained(again)

    save_pretrained(again, params, source=sharded.folder)
    assert [path.name for path in again.glob("model*")] == ["model.safetensors"]


def test_bfloat16_weights_are_kept_to_the_bit(tiny, tmp_path):
    folder = tiny("llama", CASES["llama"]).folder
    half = load_pretrained(folder, dtype="bfloat16")[1]
    saved = save_pretrained(tmp_path / "half", half, source=folder)
    stored = load_file(saved / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((saved / "config.json").read_text())["dtype"] == "bfloat16"
    model, whole = load_pretrained(saved)
    for left, right in zip(jax.tree.leaves(half), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(left.astype(jnp.float32), right)
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32), IDS)
    assert relative(run(model, {"params": whole}, IDS), theirs) < 1e-4


def test_tokenizer_is_copied(real_model, tmp_path):
    source = real_model("stories260k")
    saved = save_pretrained(tmp_path / "saved", load_pretrained(source)[1], source=source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (saved / name).read_bytes() == (source / name).read_bytes()


def test_pytorch_reads_a_model_from_scratch(tiny, tmp_path):
    source = tmp_path / "config"
    CASES["llama-tied"].save_pretrained(source)
    model = load_model(source)
    params = init_params(model, jax.random.key(0))
    saved = save_pretrained(tmp_path / "saved", params, source=source)
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(saved), IDS)
    assert relative(run(model, {"params": params}, IDS), theirs) < 1e-4


def test_older_configurations_are_read(llama):
    config = json.loads((llama / "config.json").read_text())
    rope = config.pop("rope_parameters")
    scaling = {"type": "linear", "factor": 2.0}
    old = {
        **config,
        "rope_theta": 123.0,
        "rope_scaling": scaling,
        "torch_dtype": config.pop("dtype"),
    }
    (llama / "config.json").write_text(json.dumps(old))
    model = load_model(llama)
    assert rope["rope_theta"] == 10000.0
    assert model.config.ropes == (Rope(123.0, "linear", 2.0),) * 3


@pytest.mark.parametrize("newer", [False, True])
def test_a_model_with_images_is_read_and_saved_under_its_names(newer, tiny, tmp_path):
    """Of Gemma 3, whose checkpoints have other names than the modules of transformers 5."""
    reference = tiny("gemma3", CASES["gemma3"])
    folder = shutil.copytree(reference.folder, tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {
        "language_model", "vision_tower", "multi_modal_projector"
    }  # fmt: skip
    if newer:
        names = {name: f"model.{name}".replace("_model.model.", "_model.") for name in tensors}
        names["language_model.lm_head.weight"] = "lm_head.weight"
        tensors = {names[name]: tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, params = load_pretrained(folder)
    assert relative(run(model, {"params": params}, IDS), reference.logits(IDS)) < 1e-4
    saved = save_pretrained(tmp_path / "saved", params, source=folder)
    again = load_file(saved / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_harmless_extra_tensors_are_ignored(tiny, tmp_path):
    folder = shutil.copytree(tiny("llama-tied", CASES["llama-tied"]).folder, tmp_path / "tied")

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    edit_tensors(folder, add)
    load_pretrained(folder)


def test_every_misfit_is_named_at_once(llama):
    def damage(tensors):
        tensors["model.layers.1.mlp.extra.weight"] = np.ones(3, np.float32)
        tensors["model.norm.weight"] = np.ones(31, np.float32)
        del tensors["model.layers.2.self_attn.q_proj.weight"], tensors["lm_head.weight"]
        for layer in range(3):
            del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]

    edit_tensors(llama, damage)
    with pytest.raises(BadInput) as caught:
        load_pretrained(llama)
    message = str(caught.value)
    assert (
        "missing: lm_head.weight, model.layers.{0,1,2}.mlp.up_proj.weight, "
        "model.layers.2.self_attn.q_proj" in message
    )
    assert "unexpected: model.layers.1.mlp.extra.weight" in message
    assert "misshapen: model.norm.weight [31] instead of [32]" in message


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_bin(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of(folder, **files):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def no_map(folder):
    index_of(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


BAD_FOLDERS = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json is not valid JSON",
    ),
    "config a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "does not hold a JSON object",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "only pickle": (
        only_bin,
        r"pytorch_model.bin.*pickled weights are refused because loading them can run any code",
    ),
    "truncated": (truncate, "model.safetensors is not a whole safetensors file"),
    "garbage": (
        lambda f: (f / "model.safetensors").write_bytes(b"PK"),
        "is not a whole safetensors file",
    ),
    "missing shard": (
        lambda f: index_of(f, x="b.safetensors"),
        "names b.safetensors, which the folder does not have",
    ),
    "outside": (
        lambda f: index_of(f, x="../../x.safetensors"),
        r"names \.\./\.\./x.safetensors; accepted",
    ),
    "absolute": (
        lambda f: index_of(f, x="/etc/x.safetensors"),
        "accepted: .safetensors files in the same folder",
    ),
    "pickle in index": (
        lambda f: index_of(f, x="x.bin"),
        "accepted: .safetensors files in the same folder",
    ),
    "index misplaces": (
        lambda f: index_of(f, x="a.safetensors"),
        "places x in files that do not hold them",
    ),
    "index not a map": (no_map, "has no weight_map"),
    "integers": (
        lambda f: edit_tensors(f, lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)})),
        "model.norm.weight in .* is stored as I8; accepted: F64, F32, F16, BF16",
    ),
    "model type": (
        lambda f: edit_config(f, model_type="mamba"),
        "model_type is 'mamba'; accepted: llama, mistral, gemma, gemma2, gemma3_text, gemma3, "
        "qwen2, qwen3, phi3, mixtral, olmo2, smollm3, granite, gpt2, t5, bert, roberta",
    ),
    "no model type": (lambda f: edit_config(f, model_type=None), "model_type is None; accepted"),
    "quantized": (
        lambda f: edit_config(f, quantization_config={"bits": 4}),
        "has a quantization_config",
    ),
    "activation": (
        lambda f: edit_config(f, hidden_act="mish"),
        "activation is 'mish'; accepted: silu",
    ),
    "rope": (
        lambda f: edit_config(
            f, rope_parameters={"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}
        ),
        "rope_type is 'yarn'; accepted: default, linear, llama3",
    ),
    "rope by layer": (
        lambda f: edit_config(
            f, rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1.0}}
        ),
        "rope_parameters differ by layer; accepted: one rotation for all layers|"
        "not a valid llama configuration",
    ),
    "field type": (
        lambda f: edit_config(f, hidden_size="big"),
        "config.json's hidden_size is 'big'; accepted: a whole number from 1",
    ),
    "missing field": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "llama3", "rope_theta": 1.0}),
        "config.json is not a valid llama configuration",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders_get_one_sentence(name, llama):
    damage, message = BAD_FOLDERS[name]
    damage(llama)
    with pytest.raises(BadInput, match=message) as caught:
        load_pretrained(llama)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no/such-model", "/no/such/folder", "not a name!"])
def test_neither_folder_nor_hub(source):
    with pytest.raises(
        BadInput, match=f"{source} is neither a folder nor a model the hub could give"
    ):
        load_pretrained(source)


def test_saving_over_the_source_is_refused(llama):
    params = load_pretrained(llama)[1]
    with pytest.raises(BadInput, match="is the folder the model comes from"):
        save_pretrained(llama, params, source=llama)


def test_saving_other_parameters_is_refused(llama, tmp_path):
    params = load_pretrained(llama)[1]
    del params["model"]["norm"]
    params["extra"] = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(BadInput, match=r"extra\.kernel, model\.norm\.scale"):
        save_pretrained(tmp_path / "saved", params, source=llama)
    assert not (tmp_path / "saved").exists()
