"""balora predict against PEFT and transformers in PyTorch, for every task."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from classification_cases import letter_arguments, letter_rows, save_model, write_rows
from peft import PeftModel
from seq2seq_cases import save_t5
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from balora_jax import data
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.data.written_rows import as_csv, as_jsonl
from balora_jax.evaluation.classifier import ClassifierEvaluator
from balora_jax.runs.finetune import finetune


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("to_predict")
    write_rows(folder / "train.jsonl", letter_rows(100, 0))
    asked = [{"text": row["text"], "id": number} for number, row in enumerate(letter_rows(21, 1))]
    write_rows(folder / "asked.jsonl", asked)
    scored = [row | {"label": float(row["label"])} for row in letter_rows(60, 2)]
    write_rows(folder / "scored.jsonl", scored)
    save_model("bert", folder / "bert")
    save_t5(folder / "t5")
    return folder


def _train(files, output, kind, *more, task="sequence-classification"):
    settings = {"model__task": task, "data__labels": '["no", "yes"]', "data__eval": None}
    arguments = letter_arguments(files, output, *more, kind=kind, training__steps=10, **settings)
    finetune(read_config(arguments))


def _predict(run, asked, out, *more):
    main(["predict", "--run", str(run), "--data", str(asked), "--out", str(out), *more])
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def classifier(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    _train(files, folder, "bert")
    return folder


def test_classes_and_probabilities_are_those_of_peft(classifier, files, tmp_path):
    rows = _predict(classifier, files / "asked.jsonl", tmp_path / "out.jsonl", "--batch-size", "4")
    assert [row["id"] for row in rows] == list(range(21))
    base = AutoModelForSequenceClassification.from_pretrained(files / "bert", num_labels=2)
    model = PeftModel.from_pretrained(base, classifier / "adapter").eval()
    tokenizer = data.load_tokenizer(str(files / "bert"))
    for row in rows:
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        expected = torch.softmax(logits, -1).numpy()
        found = [row["probabilities"][label] for label in ("no", "yes")]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert row["prediction"] == ("no", "yes")[int(expected.argmax())]


def test_csv_has_the_same_numbers(classifier, files, tmp_path):
    lines = _predict(classifier, files / "asked.jsonl", tmp_path / "out.jsonl")
    cells = _predict(classifier, files / "asked.jsonl", tmp_path / "out.csv", "--limit", "7")
    assert len(cells) == 7
    for cell, line in zip(cells, lines, strict=False):
        assert cell["text"] == line["text"] and cell["prediction"] == line["prediction"]
        share = float(cell["probabilities.yes"])
        assert share == pytest.approx(line["probabilities"]["yes"], abs=1e-6)


def test_scores_are_within_their_range(files, tmp_path):
    scores = ["--data.train", str(files / "scored.jsonl"), "--data.labels", "null"]
    _train(files, tmp_path / "run", "bert", *scores, "--data.scores", "[0, 1]")
    rows = _predict(tmp_path / "run", files / "asked.jsonl", tmp_path / "out.jsonl")
    assert all(0 <= row["prediction"] <= 1 for row in rows)
    assert len({row["prediction"] for row in rows}) > 5 and "probabilities" not in rows[0]


def test_text_to_text_models_answer_with_labels(files, tmp_path):
    labels = ["--data.labels", "[many, few]", "--data.limit", "40"]
    _train(files, tmp_path / "run", "t5", *labels, task="seq2seq-lm")
    rows = _predict(tmp_path / "run", files / "asked.jsonl", tmp_path / "out.jsonl")
    assert len(rows) == 21
    assert {row["prediction"] for row in rows} <= {"many", "few", None}


@pytest.fixture(scope="module")
def language_model(run_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model") / "run"
    finetune(read_config(run_arguments(folder, "--training.steps", "20")))
    return folder


def test_text_is_that_of_peft(language_model, sums, tiny_llama, tmp_path):
    asked = tmp_path / "asked.jsonl"
    rows = [json.loads(line) for line in (sums / "eval.jsonl").read_text().splitlines()]
    write_rows(asked, [{"question": row["question"]} for row in rows])
    found = _predict(language_model, asked, tmp_path / "out.jsonl", "--max-new-tokens", "6")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = PeftModel.from_pretrained(base, language_model / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for row in found:
        inputs = tokenizer(row["question"], return_tensors="pt")
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            tokens = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
        assert row["prediction"] == tokenizer.decode(tokens, skip_special_tokens=True)


def test_draws_follow_the_seed(language_model, sums, tmp_path):
    warm = ["--temperature", "2", "--limit", "6", "--max-new-tokens", "6"]
    texts = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        rows = _predict(
            language_model, sums / "eval.jsonl", tmp_path / f"{name}.jsonl", *warm, "--seed", seed
        )
        texts.append([row["prediction"] for row in rows])
    assert texts[0] == texts[1] != texts[2]


def test_rows_keep_their_values():
    rows = [{"a": 1, "b": [1, 2], "c": None, "d": {"x": 0.5, "y": float("nan")}}, {"a": "ü,\n"}]
    assert json.loads(as_jsonl(rows).splitlines()[0])["d"] == {"x": 0.5, "y": None}
    cells = list(csv.DictReader(as_csv(rows).splitlines(keepends=True)))
    assert cells[0]["b"] == "[1, 2]" and cells[1]["a"] == "ü,\n" and cells[1]["b"] == ""


def test_a_return_within_a_cell_is_kept():
    rows = [{"a": "x\ry", "b": 1}, {"a": "z", "b": 2}]
    assert [row["a"] for row in csv.DictReader(io.StringIO(as_csv(rows), newline=""))] == [
        "x\ry", "z",
    ]  # fmt: skip


def test_a_file_that_another_wrote_meanwhile_is_kept(classifier, files, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    outputs = ClassifierEvaluator.outputs

    def slow(self, *arguments):
        out.write_text("theirs")
        return outputs(self, *arguments)

    monkeypatch.setattr(ClassifierEvaluator, "outputs", slow)
    with pytest.raises(SystemExit) as stopped:
        _predict(classifier, files / "asked.jsonl", out)
    assert stopped.value.code == 2 and out.read_text() == "theirs"


BAD = {
    "an option of others": (["--temperature", "1"], "--temperature is 1.0, and the run of sequ"),
    "a split of a file": (["--split", "dev"], "--split is 'dev', and the file"),
    "half a character": (["--data", "{files}/half.jsonl"], "line 1 cannot be written to --out"),
    "depth": (["--data", "{files}/deep.jsonl"], "line 1 cannot be written to --out"),
    "one column twice": (["--data", "{files}/twice.jsonl"], "line 1 cannot be written to --out"),
    "a long name": (["--out", "{tmp}/" + "n" * 200 + ".csv"], "accepted: a name of at most 150"),
    "a suffix": (["--out", "{tmp}/out.txt"], "accepted: a name that ends in .jsonl or .csv"),
    "there already": (["--out", "{files}/asked.jsonl.csv"], None),
    "no data": (["--data", "{tmp}/none.jsonl"], "none.jsonl"),
    "no run": (["--run", "{files}"], "is no run's folder"),
    "no field": (["--data", "{files}/other.jsonl"], "has no field text"),
    "a taken name": (["--data", "{files}/taken.jsonl"], "has a field prediction, which is added"),
    "a checkpoint": (["--checkpoint", "3"], "has no checkpoint '3'"),
    "a limit": (["--limit", "0"], "--limit is 0; accepted: a whole number from 1"),
}


@pytest.mark.parametrize(("more", "match"), BAD.values(), ids=BAD)
def test_a_prediction_is_refused(classifier, files, tmp_path, capsys, more, match):
    write_rows(files / "other.jsonl", [{"question": "a b"}])
    write_rows(files / "half.jsonl", [{"text": "a b", "other": "\ud800"}])
    (files / "deep.jsonl").write_text('{"text": "a b", "other": ' + "[" * 900 + "]" * 900 + "}\n")
    write_rows(files / "twice.jsonl", [{"text": "a b", "probabilities.yes": "mine"}])
    write_rows(files / "taken.jsonl", [{"text": "a b", "prediction": 1}])
    options = {"--run": classifier, "--data": files / "asked.jsonl", "--out": tmp_path / "out.csv"}
    options |= dict([[word.format(tmp=tmp_path, files=files) for word in more]])
    if match is None:
        match = "exists; accepted: a new file"
        (files / "asked.jsonl.csv").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *(str(word) for pair in options.items() for word in pair)])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert match in lines[-1] and lines[-1].startswith("balora: ")
    assert not (tmp_path / "out.csv").exists()
