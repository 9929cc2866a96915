"""Whole classification runs of tiny models: outputs, resuming, early stopping, bad input."""

import csv
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from classification_cases import TARGETS, letter_arguments, letter_rows, save_model, write_rows
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, BertModel

from balora_jax import data
from balora_jax.cli import main
from balora_jax.config import MeshConfig
from balora_jax.config.parse import read_config
from balora_jax.objective import classification
from balora_jax.runs import export
from balora_jax.runs.classification import Classification
from balora_jax.runs.finetune import finetune
from balora_jax.runs.setup import build_setup
from balora_jax.runs.weights import load_model, materialize
from balora_jax.runs.whole_modules import trained_modules
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.sharding import make_mesh


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A folder with sets of letters, and a tiny BERT without a head."""
    folder = tmp_path_factory.mktemp("letters")
    for name, (number, seed) in {"train": (200, 0), "eval": (60, 1), "other": (40, 2)}.items():
        write_rows(folder / f"{name}.jsonl", letter_rows(number, seed))
    write_rows(folder / "test.jsonl", [{"text": row["text"]} for row in letter_rows(30, 3)])
    save_model("bert", folder / "bert")
    return folder


@pytest.fixture(scope="session")
def arguments(letters):
    """(output folder, *more) -> the command-line arguments of a short run."""

    def make(output, *more):
        schedule = {"regularizers__diversity__schedule": "constant"}
        return letter_arguments(letters, output, *more, **schedule)

    return make


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _losses(folder):
    return [record["loss"] for record in _records(folder) if "loss" in record]


@pytest.fixture(scope="module")
def finished(arguments, letters, tmp_path_factory):
    """A finished BA-LoRA run, with predictions of an unlabeled and of the held-out set."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    more = [
        "--data.eval_ood", str(letters / "other.jsonl"),
        "--data.predict", f"[{letters / 'test.jsonl'}, {letters / 'eval.jsonl'}]",
        "--training.eval_every", "10", "--output.save_every", "10", "--output.merge", "true",
    ]  # fmt: skip
    return folder, finetune(read_config(arguments(folder, *more))).summary


def _read_predictions(path):
    """The predicted class of every text, in the file's order."""
    with path.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["index"] for row in rows] == [str(index) for index in range(len(rows))]
    return np.array([int(row["prediction"]) for row in rows])


def test_run_folder_is_complete(finished, letters):
    folder, summary = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "adapter", "merged", "plots",
        "predictions",
    }  # fmt: skip
    assert {path.name for path in (folder / "plots").iterdir()} >= {
        "metrics.png",
        "regularizers.png",
    }
    assert summary.to_json() == json.loads((folder / "summary.json").read_text())
    evaluated = [record["step"] for record in _records(folder) if "eval_accuracy" in record]
    assert evaluated == [0, 10, 20]
    assert {"task", "consistency", "diversity", "svd", "tokens_per_second"} <= set(
        _records(folder)[1]
    )
    assert set(summary.metrics) == {"accuracy", "f1"}
    assert set(summary.metrics_ood) == {
        f"{letters.name}/other/{name}" for name in ("accuracy", "f1")
    }
    assert summary.metrics["accuracy"] > 0.8 and summary.eval_loss_last < summary.eval_loss_first
    card = (folder / "adapter" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "num_labels=2" in card


def test_the_student_starts_as_the_teacher(finished):
    assert abs(_records(finished[0])[1]["consistency"]) < 1e-6


def test_written_predictions_are_the_scored_ones(finished, letters):
    folder, summary = finished
    labels = [
        json.loads(line)["label"] for line in (letters / "eval.jsonl").read_text().splitlines()
    ]
    predicted = _read_predictions(folder / "predictions" / "eval.tsv")
    np.testing.assert_allclose(np.mean(predicted == labels), summary.metrics["accuracy"])
    assert len(_read_predictions(folder / "predictions" / "test.tsv")) == 30


def test_one_compilation_for_each_length(finished, letters, arguments, tmp_path, monkeypatch):
    """Texts of two lengths compile the step twice, for any number of updates."""
    assert finished[1].lengths_compiled == [16]
    rows = letter_rows(60, 0) + letter_rows(20, 1, longest=21)
    longer = write_rows(tmp_path / "longer.jsonl", rows)
    more = ["--data.train", str(longer), "--data.max_length", "64", "--method", "lora"]
    compiled = []
    compile_one = CompiledStep._compile

    def counting(self, batch):
        compiled.append(batch.input_ids.shape[-1])
        return compile_one(self, batch)

    monkeypatch.setattr(CompiledStep, "_compile", counting)
    summary = finetune(read_config(arguments(tmp_path / "run", *more))).summary
    assert summary.lengths_compiled == sorted(compiled) == [16, 24]


def test_every_set_is_counted_and_a_class_without_examples_is_noted(arguments, letters, tmp_path):
    """Two sets with the same name are both counted."""
    more = [
        "--data.labels",
        "3",
        "--data.eval",
        str(letters / "train.jsonl"),
        "--data.predict",
        str(letters / "test.jsonl"),
    ]
    task = Classification(
        read_config(arguments(tmp_path, *more)), data.load_tokenizer(str(letters / "bert"))
    )
    assert [line.partition(":")[0] for line in task.counts] == [
        "train",
        "train",
        "test.tsv",
        "note",
    ]
    assert task.counts[-1] == "note: no training example is of class 2: it will not be learned"


def _texts(folder, letters):
    """The held-out texts of a run as one batch."""
    tokenizer = data.load_tokenizer(str(letters / "bert"))
    config = read_config(["--config", str(folder / "config.yaml")])
    texts = data.read_text_sets(config.data, tokenizer).held_out["eval"]
    return data.collate(texts, np.arange(len(texts)), [32])


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_pytorch_predicts_the_same(finished, letters, kind):
    folder, _ = finished
    if kind == "merged":
        model = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    else:
        base = AutoModelForSequenceClassification.from_pretrained(letters / "bert", num_labels=2)
        model = PeftModel.from_pretrained(base, folder / "adapter")
    predicted = _torch_logits(model, _texts(folder, letters)).argmax(-1)
    np.testing.assert_array_equal(predicted, _read_predictions(folder / "predictions" / "eval.tsv"))


def _torch_logits(model, batch):
    named = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        return model.eval()(
            **{name: torch.tensor(array).long() for name, array in named.items()}
        ).logits.numpy()


def test_a_resumed_run_ends_in_the_same_bits(finished, arguments, letters, tmp_path):
    """The run resumes after its last checkpoint and its final outputs are removed."""
    folder, _ = finished
    cut = shutil.copytree(folder, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "20")
    shutil.rmtree(cut / "adapter")
    (cut / "summary.json").unlink()
    assert (cut / "checkpoints" / "10").exists()
    main(
        ["train", "--config", str(cut / "config.yaml"), "--output.dir", str(cut), "--output.resume"]
    )
    whole = load_file(folder / "adapter" / "adapter_model.safetensors")
    resumed = load_file(cut / "adapter" / "adapter_model.safetensors")
    assert whole.keys() == resumed.keys() and any("classifier" in name for name in whole)
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert _losses(folder) == _losses(cut)


@pytest.mark.parametrize("head", ["student", "probe"])
def test_every_teacher_head_starts_with_no_divergence(finished, arguments, tmp_path, head):
    more = ["--regularizers.consistency.teacher_head", head, "--training.steps", "3"]
    finetune(read_config(arguments(tmp_path / "run", *more)))
    start, first = _records(tmp_path / "run")[:2]
    assert abs(first["consistency"]) < 1e-6, (
        "the student starts as the teacher under every teacher head"
    )
    fresh = _records(finished[0])[0]
    assert (start["eval_loss"] < fresh["eval_loss"] - 0.05) == (head == "probe")


def test_full_writes_the_whole_model(arguments, tmp_path, letters):
    folder = tmp_path / "run"
    more = [
        "--method",
        "full",
        "--data.predict",
        str(letters / "eval.jsonl"),
        "--optimizer.learning_rate",
        "1e-3",
    ]
    finetune(read_config(arguments(folder, *more)))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    predicted = _torch_logits(model, _texts(folder, letters)).argmax(-1)
    np.testing.assert_array_equal(predicted, _read_predictions(folder / "predictions" / "eval.tsv"))
    assert model.config.num_labels == 2 and not (folder / "adapter").exists()


def test_patience_ends_the_run_and_keeps_the_best_checkpoint(arguments, letters, tmp_path):
    """The updates are too small to change a prediction: the first evaluation stays the best."""
    more = [
        "--method", "lora", "--optimizer.learning_rate", "1e-12", "--training.steps", "50",
        "--training.eval_every", "1", "--training.patience", "2",
        "--output.save_every", "1", "--output.keep", "1",
    ]  # fmt: skip
    folder = tmp_path / "run"
    summary = finetune(read_config(arguments(folder, *more))).summary
    assert (summary.steps, summary.step_kept) == (3, 1)
    (folder / "summary.json").unlink()
    again = finetune(read_config(arguments(folder, *more, "--output.resume", "true"))).summary
    assert (again.steps, again.step_kept, again.metrics) == (3, 1, summary.metrics)


def test_regression_on_scores(arguments, tmp_path):
    more = ["--data.fields.label", "score", "--data.scores", "[0, 5]", "--data.labels", "null"]
    summary = finetune(read_config(arguments(tmp_path / "run", *more))).summary
    assert set(summary.metrics) == {"pearson", "spearman"}
    assert summary.eval_loss_last < summary.eval_loss_first
    first = _records(tmp_path / "run")[1]
    assert (first["consistency"], first["diversity"], first["svd"]) == (0, 0, -1)


KINDS = [
    "bert",
    "bert without pooler",
    "roberta",
    "deberta-v2",
    "gpt2",
    "gpt2 without pad",
    "llama",
    "t5",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_types_adapter_and_head_load_in_peft(arguments, tmp_path, kind):
    """PEFT and the merged folder give our logits, with adapters and head not at their start."""
    name = kind.split()[0]
    # As in OpenAI's GPT-2, only the tokenizer has a padding token.
    padless = kind == "gpt2 without pad"
    changes = {"pad_token_id": None} if padless else {}
    save_model(name, tmp_path / "model", num_labels=3, **changes)
    if kind == "bert without pooler":
        BertModel.from_pretrained(tmp_path / "model", add_pooling_layer=False).save_pretrained(
            tmp_path / "model"
        )
    more = [
        "--model.source",
        str(tmp_path / "model"),
        "--adapter.targets",
        TARGETS[name],
        "--data.labels",
        "3",
    ]
    config = read_config(arguments(tmp_path / "run", *more))
    mesh = make_mesh(MeshConfig(data=1))
    loaded = load_model(config, mesh)
    setup = build_setup(config, loaded.model, mesh, steps=1, head=trained_modules(config, loaded))
    student, state = materialize(config, setup, loaded.params)
    trained = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.random.default_rng(0).normal(size=leaf.shape), state.trainable
    )
    state = state.replace(trainable=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained))
    change = export.learned_change(student, state)
    export.write_adapter(tmp_path / "adapter", config, student, change, b"a card")
    export.write_merged(tmp_path / "merged", config, student, state)

    assert export.missing_pad_id(config, student) == (0 if padless else None)
    batch = _letters_batch()
    logits = classification.make_logits(student.model, setup.spec)
    ours = np.asarray(logits(student.params(state), batch))
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", num_labels=3, pad_token_id=0, attn_implementation="eager"
    )
    theirs = _torch_logits(PeftModel.from_pretrained(base, tmp_path / "adapter"), batch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    merged = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "merged", attn_implementation="eager"
    )
    np.testing.assert_allclose(ours, _torch_logits(merged, batch), rtol=1e-4, atol=1e-4)


def _letters_batch():
    """Two texts of letters, each with an end token, the second padded."""
    mask = np.arange(9) < np.array([[9], [6]])
    ids = np.where(mask, np.random.default_rng(0).integers(3, 11, (2, 9)), 0)
    ids[[0, 1], [8, 5]] = 2
    return data.Batch(ids, mask, targets=None, mask=None, token_type_ids=np.zeros_like(ids))


def test_gpt2_trains_as_a_causal_lm(tmp_path, letters):
    """GPT-2 stores its kernels transposed: it trains, and writes PEFT's format."""
    save_model("gpt2", tmp_path / "gpt2", causal=True)
    rows = write_rows(tmp_path / "rows.jsonl", [{"instruction": "a b", "response": "c d e"}] * 16)
    settings = {
        "model.source": tmp_path / "gpt2", "model.dtype": "float32", "adapter.rank": 4,
        "adapter.targets": "[c_attn]", "data.train": rows, "data.eval": rows,
        "data.template": "{instruction}", "data.max_length": 32, "optimizer.learning_rate": 1e-2,
        "training.steps": 4, "training.batch_size": 4, "training.precision": "float32",
        "mesh.data": 1, "output.dir": tmp_path / "run",
    }  # fmt: skip
    summary = finetune(
        read_config([text for key, value in settings.items() for text in (f"--{key}", str(value))])
    ).summary
    assert summary.eval_loss_last < summary.eval_loss_first


def _error_message(arguments, capsys):
    """The last line that `balora train` prints before it exits with code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and message.startswith("balora: ")
    return message


@pytest.mark.parametrize(
    "more, sentence",
    [
        (
            ["--data.labels", "null", "--data.task", "squad"],
            "no task 'squad'; accepted: cola, mnli",
        ),
        (["--data.task", "rte"], r"exactly one of the three"),
        (["--data.labels", "null"], r"exactly one of the three"),
        (["--data.labels", "1"], r"data\.labels is 1"),
        (["--data.labels", "null", "--data.scores", "[5, 0]"], r"data\.scores is \[5"),
        (
            ["--data.fields", '{"text": "sentence"}'],
            r"no field sentence; it has: text, other, label, score",
        ),
        (
            ["--data.fields", '{"instruction": "text"}'],
            r"data\.fields has instruction; accepted: text, text_pair, label",
        ),
        (["--data.fields", "text"], r"data\.fields is 'text'; accepted: a mapping of text"),
        (
            ["--data.labels", "[1, 2]"],
            r"data\.labels is '\[1, 2\]'; accepted: a list of text, a whole number or null$",
        ),
        (["--data.labels", "null", "--data.scores", "[0, .inf]"], r"data\.scores is \[0\.0, inf\]"),
        (
            ["--data.labels", "null", "--data.task", "sst2", "--data.fields.text", "t"],
            r"data\.fields is .* beside data.task",
        ),
        (["--data.eval", "[]"], r"data\.eval is \[\]; accepted: null, a set"),
        (["--data.predict", "test"], r"data\.predict is 'test'; accepted: .* with data\.task"),
        (["--data.template", "chat"], r"data\.template is 'chat'; accepted: alpaca under"),
        (
            ["--regularizers.svd.method", "exact"],
            r"svd\.method is 'exact'; accepted: subspace under",
        ),
        (["--training.patience", "2"], r"training\.patience is 2"),
        (["--data.probes", "tiny-world"], r"data\.probes is 'tiny-world'"),
        (
            ["--model.task", "causal-lm"],
            r"data\.labels is 2; accepted: null under model\.task causal-lm",
        ),
        (["--adapter.targets", "[classifier]"], "'classifier' matches no linear layer"),
        (
            ["--regularizers.consistency.teacher_head", "none"],
            r"teacher_head is 'none'; accepted: initial, student or probe",
        ),
    ],
)
def test_bad_values_are_refused(arguments, tmp_path, capsys, more, sentence):
    message = _error_message(arguments(tmp_path / "run", *more), capsys)
    assert re.search(sentence, message), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "label, sentence",
    [(2, "line 2: label is 2; data.labels accepts: 0, 1"), ("x", "'x'"), (0.5, "0.5")],
)
def test_bad_labels_are_refused(arguments, tmp_path, capsys, label, sentence):
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": label}]
    )
    assert re.search(
        sentence, _error_message(arguments(tmp_path / "run", "--data.train", str(rows)), capsys)
    )


def test_a_head_with_other_labels_is_refused_or_replaced(arguments, tmp_path, capsys, letters):
    save_model("bert", tmp_path / "model", with_head=True, num_labels=3)
    more = arguments(tmp_path / "run", "--model.source", str(tmp_path / "model"))
    message = _error_message(more, capsys)
    assert "has a head for 3 labels and the data has 2" in message
    assert "model.replace_head" in message
    config = read_config([*more, "--model.replace_head"])
    assert load_model(config, make_mesh(MeshConfig(data=1))).model.labels == 2


def test_bad_models_are_refused(arguments, tmp_path, capsys, letters):
    folder = tmp_path / "short"
    save_model("bert", folder, max_position_embeddings=12)
    message = _error_message(arguments(tmp_path / "run", "--model.source", str(folder)), capsys)
    assert "accepted: at most the model's 12" in message
    names = json.loads((folder / "tokenizer_config.json").read_text())
    names = {name: value for name, value in names.items() if "pad_token" not in name}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    message = _error_message(arguments(tmp_path / "run", "--model.tokenizer", str(folder)), capsys)
    assert "the tokenizer has no pad token" in message
