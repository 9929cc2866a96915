"""Classifiers that continue from a PEFT folder: adapters and head start from it."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from classification_cases import TARGETS, letter_rows, save_model, write_rows
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

from balora_jax import data
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.objective import classification
from balora_jax.runs.finetune import finetune
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import load_model, materialize
from balora_jax.runs.whole_modules import trained_modules
from balora_jax.training.sharding import make_mesh

WEIGHTS = "adapter_model.safetensors"
CLASSIFIER = "base_model.model.classifier.weight"


def _arguments(folder, model, output, *more, kind="bert"):
    settings = {
        "model.source": model,
        "model.task": "sequence-classification",
        "model.dtype": "float32",
        "adapter.rank": 4,
        "adapter.targets": TARGETS[kind],
        "data.train": folder / "train.jsonl",
        "data.eval": folder / "eval.jsonl",
        "data.labels": 2,
        "data.max_length": 32,
        "optimizer.learning_rate": 1e-2,
        "training.steps": 6,
        "training.batch_size": 16,
        "training.precision": "float32",
        "mesh.data": 1,
        "output.dir": output,
    }
    kept = {f"--{key}": str(value) for key, value in settings.items() if f"--{key}" not in more}
    return [text for pair in kept.items() for text in pair] + [str(text) for text in more]


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A folder with sets of letters and a tiny BERT without a head, also one without a pooler."""
    folder = tmp_path_factory.mktemp("letters")
    for name, (number, seed) in {"train": (80, 0), "eval": (40, 1)}.items():
        write_rows(folder / f"{name}.jsonl", letter_rows(number, seed))
    save_model("bert", folder / "bert")
    bare = shutil.copytree(folder / "bert", folder / "bare")
    tensors = load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(kept, bare / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def finished(letters, tmp_path_factory):
    """The folders of two finished runs, of the model with a pooler and of that without, by name."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("bert", "bare"):
        finetune(read_config(_arguments(letters, letters / name, folder / name)))
    return folder


def _held_out(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if "eval_loss" in record]


@pytest.mark.parametrize("name", ["bert", "bare"])
def test_a_run_continues_where_the_adapter_ended(finished, letters, tmp_path, capsys, name):
    """The held-out loss of step 0 is the first run's last, also with a pooler trained afresh."""
    more = ["--adapter.init", finished / name / "adapter", "--training.steps", "2"]
    main(["train", *_arguments(letters, letters / name, tmp_path / "run", *more)])
    first = _held_out(tmp_path / "run")[0]
    last = _held_out(finished / name)[-1]
    assert first["step"] == 0
    np.testing.assert_allclose(first["eval_loss"], last["eval_loss"], rtol=1e-5)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the head starts from" in printed and "starting fresh" not in printed


def _spoiled(finished, tmp_path, change, name="bert"):
    """A copy of a run's adapter with changed tensors."""
    folder = shutil.copytree(finished / name / "adapter", tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)
    return folder


def _without(*ends):
    return lambda tensors: {
        name: tensor for name, tensor in tensors.items() if not name.endswith(ends)
    }


def _with(name, tensor):
    return lambda tensors: tensors | {name: tensor}


MODULE = "base_model.model.classifier.modules_to_save.default.weight"


def test_an_embedding_of_a_classifier_is_not_adapted(letters, tmp_path):
    more = ["--adapter.targets", '["word_embeddings"]']
    config = read_config(_arguments(letters, letters / "bert", tmp_path, *more))
    loaded = load_model(config, make_mesh(config.mesh))
    match = "the adapters have the embedding bert.embeddings.word_embeddings under model.task seq"
    with pytest.raises(BadInput, match=match):
        build_setup(config, loaded.model, make_mesh(config.mesh), steps=1)


HEADS = {
    "half a head": (_without("classifier.bias"), r"adapter lacks classifier\.bias of a head"),
    "a head of another width": (
        _with(CLASSIFIER, np.ones((2, 9), "f")), r"weight is of shape \[2, 9\]; accepted: \[2, 32\]"
    ),
    "a head of one axis": (
        _with(CLASSIFIER, np.ones(64, "f")), r"weight is of shape \[64\]; accepted: \[2, 32\]"
    ),
    "a head of no axis": (
        _with(CLASSIFIER, np.ones((), "f")), r"weight is of shape \[\]; accepted: \[2, 32\]"
    ),
    "nan": (_with(CLASSIFIER, np.full((2, 32), np.nan, "f")), "numbers that are not finite"),
    "a pooler that is not trained": (
        _with("base_model.model.bert.pooler.dense.bias", np.ones(32, "f")),
        r"holds 'bert\.pooler\.dense\.bias', trained whole, where this run trains classifier whole",
    ),
    "the name of a module in memory": (_with(MODULE, np.ones((2, 32), "f")), "trained whole"),
    "embeddings": (
        _with("base_model.model.bert.embeddings.word_embeddings.weight", np.ones((9, 32), "f")),
        "word_embeddings.weight', trained whole, where",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, match", HEADS.values(), ids=HEADS)
def test_a_head_that_does_not_fit_is_refused(finished, letters, tmp_path, change, match):
    folder = _spoiled(finished, tmp_path, change)
    arguments = _arguments(
        letters, letters / "bert", tmp_path / "run", "--adapter.init", str(folder)
    )
    config = read_config(arguments)
    with pytest.raises(BadInput, match="accepted: ") as refused:
        load_model(config, make_mesh(config.mesh))
    assert re.search(match, str(refused.value)) and not (tmp_path / "run").exists()


def test_a_fresh_pooler_that_the_adapter_lacks_is_refused(finished, letters, tmp_path):
    """PEFT did not save it, so that nobody can compute what the adapter computed."""
    folder = _spoiled(finished, tmp_path, _without("pooler.dense.weight", "pooler.dense.bias"))
    arguments = _arguments(letters, letters / "bare", tmp_path / "run", "--adapter.init", folder)
    config = read_config(arguments)
    with pytest.raises(BadInput, match=r"lacks bert\.pooler\.dense\.\w+, .* of a head that it hol"):
        load_model(config, make_mesh(config.mesh))


def test_a_head_for_other_labels_is_refused_or_replaced(finished, letters, tmp_path):
    more = ["--adapter.init", finished / "bert" / "adapter", "--data.labels", "3"]
    arguments = _arguments(letters, letters / "bert", tmp_path / "run", *more)
    config = read_config(arguments)
    mesh = make_mesh(config.mesh)
    sentence = "adapter has a head for 2 labels and the data has 3; accepted: data with 2, or model"
    with pytest.raises(BadInput, match=sentence):
        load_model(config, mesh)
    loaded = load_model(read_config([*arguments, "--model.replace_head", "true"]), mesh)
    assert loaded.params["classifier"]["kernel"].shape == (32, 3)


def test_an_adapter_without_a_head_keeps_the_models(finished, letters, tmp_path):
    folder = _spoiled(finished, tmp_path, _without("classifier.weight", "classifier.bias"))
    more = ["--adapter.init", folder]
    arguments = _arguments(letters, letters / "bert", tmp_path / "run", *more)
    config = read_config(arguments)
    loaded = load_model(config, make_mesh(config.mesh))
    assert any("starting fresh: classifier" in note for note in loaded.notes)


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_pefts_own_classifier_computes_the_same(letters, tmp_path, kind):
    """PEFT saves the head by itself for SEQ_CLS, under the names classifier and score."""
    save_model(kind, tmp_path / "model", with_head=True, num_labels=2)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", num_labels=2, attn_implementation="eager", pad_token_id=0
    )
    targets = TARGETS[kind].strip("[]").split(", ")
    more = {"modules_to_save": ["classification_head"]} if kind == "t5" else {}
    peft = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=targets, **more))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    peft.save_pretrained(tmp_path / "adapter")
    rows = write_rows(tmp_path / "rows.jsonl", letter_rows(4, 5))
    more = ["--adapter.init", tmp_path / "adapter", "--data.train", rows]
    arguments = _arguments(letters, tmp_path / "model", tmp_path / "run", *more, kind=kind)
    config = read_config(arguments)
    mesh = make_mesh(config.mesh)
    loaded = load_model(config, mesh)
    setup = build_setup(config, loaded.model, mesh, steps=1, head=trained_modules(config, loaded))
    student, state = materialize(config, setup, loaded.params)
    mask = np.arange(9) < np.array([[9], [6]])
    ids = np.where(mask, np.random.default_rng(0).integers(3, 11, (2, 9)), 0)
    ids[[0, 1], [8, 5]] = 2
    batch = data.Batch(ids, mask, targets=None, mask=None, token_type_ids=np.zeros_like(ids))
    ours = classification.make_logits(student.model, setup.spec)(student.params(state), batch)
    with torch.no_grad():
        theirs = peft.eval()(
            input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long()
        ).logits
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)
