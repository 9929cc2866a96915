"""Classifiers of every model type: parity with PyTorch in float32, heads, adapters and folders."""

import shutil
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from classifier_cases import CASES, TYPES
from flax.traverse_util import flatten_dict, unflatten_dict
from pytorch_reference import relative, run, torch_logits
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from balora_jax.adapters import merge
from balora_jax.adapters.linen import check_lora_paths
from balora_jax.errors import BadInput
from balora_jax.models import abstract_params, load_model, load_pretrained, save_pretrained
from balora_jax.models.hf.pretrained import load_checkpoint

TASK = "sequence-classification"


@pytest.fixture
def classifier(tiny):
    def make(name):
        return tiny(f"{name}-classifier", CASES[name], AutoModelForSequenceClassification)

    return make


def batch(config, length=29):
    """Texts of three lengths, padded on the right; T5's end with its end-of-text token, 1."""
    ids = np.random.default_rng(0).integers(3, 67, (3, length))
    mask = np.arange(length) < np.asarray([[length], [length - 6], [4]])
    ids = np.where(mask, ids, config.pad_token_id)
    ids[np.arange(3), mask.sum(1) - 1] = 1 if config.model_type == "t5" else ids[0, 0]
    return ids, mask


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_pytorch(name, classifier):
    reference = classifier(name)
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask = batch(model.config)
    ours = run(model, {"params": params}, ids, mask)
    assert relative(ours, reference.logits(ids, mask)) < 1e-4
    assert ours.dtype == jnp.float32


@pytest.mark.parametrize("name", ["bert", "bert-relu", "deberta-absolute"])
def test_token_types_take_part(name, classifier):
    reference = classifier(name)
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask = batch(model.config)
    token_type_ids = (np.arange(ids.shape[1]) > 2).astype(int) * np.ones_like(ids)
    ours = run(model, {"params": params}, ids, mask, token_type_ids)
    assert relative(ours, reference.logits(ids, mask, token_type_ids=token_type_ids)) < 1e-4
    assert relative(ours, reference.logits(ids, mask)) > 1e-3


@pytest.mark.parametrize("name", ["roberta", "deberta-v3", "gpt2", "t5"])
def test_padding_changes_nothing(name, classifier):
    model, params = load_pretrained(classifier(name).folder, task=TASK)
    ids, mask = batch(model.config)
    short = run(model, {"params": params}, ids[2:, :4], mask[2:, :4])
    np.testing.assert_allclose(run(model, {"params": params}, ids, mask)[2:], short, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "deberta-v3", "t5", "llama"])
def test_features_and_head_make_the_logits(name, classifier):
    model, params = load_pretrained(classifier(name).folder, task=TASK)
    ids, mask = batch(model.config)
    variables = {"params": params}
    features = jax.jit(partial(model.apply, method="features"))(variables, ids, mask)
    assert features.shape == (3, model.config.hidden_size)
    logits = model.apply(variables, features, method="classify")
    np.testing.assert_allclose(logits, run(model, variables, ids, mask), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "deberta-v3", "gpt2", "t5"])
def test_adapters_fit_every_kernel(name, classifier):
    model, params = load_pretrained(classifier(name).folder, task=TASK)
    ids, mask = batch(model.config)
    lora = {}
    for path, leaf in flatten_dict(params).items():
        if path[-1] == "kernel":
            key = jax.random.key(len(lora))
            lora[*path[:-1], "a"] = 0.2 * jax.random.normal(key, (*leaf.shape[:-1], 2))
            lora[*path[:-1], "b"] = 0.2 * jax.random.normal(
                key, (*leaf.shape[:-2], 2, leaf.shape[-1])
            )
    lora = unflatten_dict(lora)
    check_lora_paths(lora, params)
    merged = run(model, {"params": merge(params, lora)}, ids, mask)
    ours = run(model, {"params": params, "lora": lora}, ids, mask)
    np.testing.assert_allclose(ours, merged, atol=2e-4 * np.abs(merged).max())
    assert np.abs(ours - run(model, {"params": params}, ids, mask)).max() > 1e-2


@pytest.mark.parametrize("name", ["bert", "deberta-v3", "gpt2", "t5"])
def test_dropout_acts_in_training_and_gradients_are_finite_with_remat(name, classifier):
    model, params = load_pretrained(classifier(name).folder, task=TASK)
    ids, mask = batch(model.config)
    model = model.clone(remat="full")

    @jax.jit
    @jax.value_and_grad
    def loss(params, key):
        logits = model.apply(
            {"params": params}, ids, mask, deterministic=False, rngs={"dropout": key}
        )
        return jnp.square(logits).mean()

    (first, gradient), (again, _), (other, _) = (loss(params, jax.random.key(k)) for k in (0, 0, 1))
    assert first == again != other
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(
        np.abs(leaf).max() > 0
        for path, leaf in flatten_dict(gradient).items()
        if path[-1] == "kernel"
    )


@pytest.mark.parametrize("name", TYPES)
def test_saved_folder_gives_the_same_logits_in_pytorch(name, classifier, tmp_path):
    reference = classifier(name)
    model, params = load_pretrained(reference.folder, task=TASK)
    changed = jax.tree.map(lambda leaf: leaf * 1.1, params)
    folder = save_pretrained(tmp_path / "saved", changed, source=reference.folder, task=TASK)
    ids, mask = batch(model.config)
    again = AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    ours = run(model, {"params": changed}, ids, mask)
    assert relative(ours, torch_logits(again, ids, mask)) < 1e-4
    assert relative(ours, reference.logits(ids, mask)) > 1e-2


@pytest.mark.parametrize("name", ["deberta-v3", "t5"])
def test_sharded_folders_are_read(name, tiny):
    reference = tiny(
        f"{name}-sharded", CASES[name], AutoModelForSequenceClassification, max_shard_size="20KB"
    )
    assert len(list(reference.folder.glob("*.safetensors"))) > 1
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask = batch(model.config)
    assert relative(run(model, {"params": params}, ids, mask), reference.logits(ids, mask)) < 1e-4


@pytest.mark.parametrize("name", TYPES)
def test_a_bare_checkpoint_gets_a_fresh_head(name, classifier, tmp_path):
    reference = classifier(name)
    bare = tmp_path / "bare"
    getattr(reference.model, reference.model.base_model_prefix).save_pretrained(bare)
    loaded = load_checkpoint(bare, task=TASK, num_labels=5)
    assert loaded.model.labels == 5
    (note,) = loaded.notes
    assert "has no such head for 5 labels; starting fresh: " in note
    with pytest.warns(UserWarning, match="starting fresh"):
        _, params = load_pretrained(bare, task=TASK, num_labels=5)
    again = load_checkpoint(bare, task=TASK, num_labels=5, key=jax.random.key(1)).params
    same = jax.tree.map(lambda left, right: bool((left == right).all()), params, again)
    different = {path[:-1] for path, equal in flatten_dict(same).items() if not equal}
    assert {path[0] for path in different} <= {
        "classifier",
        "pooler",
        "score",
        "classification_head",
    }
    assert different
    ids, mask = batch(loaded.model.config)
    assert run(loaded.model, {"params": params}, ids, mask).shape == (3, 5)
    saved = save_pretrained(tmp_path / "saved", params, source=bare, task=TASK, num_labels=5)
    theirs = AutoModelForSequenceClassification.from_pretrained(
        saved, attn_implementation="eager"
    ).eval()
    ours = run(loaded.model, {"params": params}, ids, mask)
    assert relative(ours, torch_logits(theirs, ids, mask)) < 1e-4


def test_other_labels_start_a_fresh_head_but_keep_the_rest(classifier):
    reference = classifier("deberta-v3")
    loaded = load_checkpoint(reference.folder, task=TASK, num_labels=2)
    assert "starting fresh: classifier.bias, classifier.weight" in loaded.notes[0]
    kept = reference.model.pooler.dense.weight.detach().numpy().T
    np.testing.assert_array_equal(loaded.params["pooler"]["dense"]["kernel"], kept)


def test_a_complete_checkpoint_gives_no_warning(classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(classifier("bert").folder, task=TASK)


def test_older_names_of_norms_and_pretraining_heads_are_read(classifier, tmp_path):
    reference = classifier("bert")
    folder = shutil.copytree(reference.folder, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    old["cls.predictions.bias"] = np.zeros(67, np.float32)
    old["bert.embeddings.position_ids"] = np.arange(64)[None]
    save_file(old, folder / "model.safetensors")
    model, params = load_pretrained(folder, task=TASK)
    ids, mask = batch(model.config)
    assert relative(run(model, {"params": params}, ids, mask), reference.logits(ids, mask)) < 1e-4


def test_a_missing_layer_is_still_an_error(classifier, tmp_path):
    folder = shutil.copytree(classifier("bert").folder, tmp_path / "less")
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        BadInput, match=r"missing: bert\.encoder\.layer\.1\.output\.dense\.weight; accepted"
    ):
        load_pretrained(folder, task=TASK)


def test_regression_has_one_output(tiny):
    config = type(CASES["bert"])(**{**CASES["bert"].to_dict(), "num_labels": 1})
    config.num_labels = 1
    reference = tiny("bert-regression", config, AutoModelForSequenceClassification)
    model, params = load_pretrained(reference.folder, task=TASK)
    ids, mask = batch(model.config)
    assert model.labels == 1
    assert relative(run(model, {"params": params}, ids, mask), reference.logits(ids, mask)) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_model_without_weights_has_the_loaded_shapes(name, classifier):
    folder = classifier(name).folder
    shapes = jax.tree.map(jnp.shape, load_pretrained(folder, task=TASK)[1])
    assert (
        jax.tree.map(lambda leaf: leaf.shape, abstract_params(load_model(folder, task=TASK)))
        == shapes
    )


@pytest.mark.parametrize(
    ("name", "task", "accepted"),
    [
        ("bert", "causal-lm", "sequence-classification"),
        ("t5", "causal-lm", "seq2seq-lm, sequence-classification"),
        ("llama", "seq2seq-lm", "causal-lm, sequence-classification"),
    ],
)
def test_unsupported_tasks_are_refused(name, task, accepted, classifier):
    with pytest.raises(
        BadInput,
        match=f"task is '{task}', which {name} models do not do here; accepted: {accepted}",
    ):
        load_pretrained(classifier(name).folder, task=task)


def test_minilm_on_real_text_equals_pytorch(real_model, shared):
    folder = real_model("minilm")
    lines = (shared / "data" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    tokens = AutoTokenizer.from_pretrained(folder)(
        lines, truncation=True, max_length=96, padding=True
    )
    loaded = load_checkpoint(folder, task=TASK, num_labels=2)
    torch.manual_seed(0)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs.classifier.weight.copy_(
            torch.tensor(np.array(loaded.params["classifier"]["kernel"].T))
        )
        theirs.classifier.bias.zero_()
    arrays = {name: np.asarray(value) for name, value in tokens.items()}
    mask = arrays["attention_mask"]
    expected = torch_logits(
        theirs, arrays["input_ids"], mask, token_type_ids=arrays["token_type_ids"]
    )
    ours = run(
        loaded.model, {"params": loaded.params}, arrays["input_ids"], mask, arrays["token_type_ids"]
    )
    assert relative(ours, expected) < 1e-4
