"""Whole runs of a tiny T5 that writes labels: outputs, resuming, early stopping, bad input."""

import csv
import json
import re
import shutil

import jax
import numpy as np
import pytest
import torch
from classification_cases import letter_rows, save_model, write_rows
from peft import PeftModel
from safetensors.numpy import load_file
from seq2seq_cases import WORDS, make_tokenizer, save_t5
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from balora_jax import data, models
from balora_jax.adapters import peft_format
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.runs.finetune import finetune
from balora_jax.runs.generate import GenerateOptions, generate_texts
from balora_jax.runs.seq2seq_lm import Seq2SeqLM

LABELS = ["many", "few"]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A folder with sets of letters, and a tiny T5."""
    folder = tmp_path_factory.mktemp("written")
    for name, (number, seed) in {"train": (200, 0), "eval": (60, 1), "other": (40, 2)}.items():
        write_rows(folder / f"{name}.jsonl", letter_rows(number, seed))
    write_rows(folder / "test.jsonl", [{"text": row["text"]} for row in letter_rows(30, 3)])
    save_t5(folder / "t5")
    return folder


@pytest.fixture(scope="session")
def arguments(written):
    """(output folder, *more) -> the command-line arguments of a short run."""

    def make(output, *more):
        settings = {
            "model.source": written / "t5", "model.task": "seq2seq-lm", "model.dtype": "float32",
            "adapter.rank": 4, "adapter.targets": "[q, v, wi_0]",
            "data.train": written / "train.jsonl", "data.eval": written / "eval.jsonl",
            "data.labels": "[many, few]", "data.max_length": 32, "optimizer.learning_rate": 1e-2,
            "training.steps": 20, "training.batch_size": 16, "training.precision": "float32",
            "mesh.data": 1, "output.dir": output,
        }  # fmt: skip
        named = {argument: True for argument in more if argument.startswith("--")}
        kept = {
            f"--{key}": str(value) for key, value in settings.items() if f"--{key}" not in named
        }
        return [text for pair in kept.items() for text in pair] + list(more)

    return make


@pytest.fixture(scope="module")
def finished(arguments, written, tmp_path_factory):
    """A finished BA-LoRA run, with predictions of an unlabeled and of the held-out set."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    more = [
        "--data.eval_ood", str(written / "other.jsonl"),
        "--data.predict", f"[{written / 'test.jsonl'}, {written / 'eval.jsonl'}]",
        "--training.eval_every", "10", "--output.save_every", "10", "--output.merge", "true",
        "--training.accumulation", "2",
    ]  # fmt: skip
    return folder, finetune(read_config(arguments(folder, *more))).summary


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _losses(folder):
    return [record["loss"] for record in _records(folder) if "loss" in record]


def _predicted(path):
    with path.open() as lines:
        return np.array([row["prediction"] for row in csv.DictReader(lines, delimiter="\t")])


def test_run_folder_is_complete(finished, written):
    folder, summary = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "adapter", "merged", "plots",
        "predictions",
    }  # fmt: skip
    evaluated = [record["step"] for record in _records(folder) if "eval_accuracy" in record]
    assert evaluated == [0, 10, 20]
    assert {"task", "consistency", "diversity", "svd", "response_tokens"} <= set(
        _records(folder)[1]
    )
    assert abs(_records(folder)[1]["consistency"]) < 1e-6, "the teacher is the base"
    assert set(summary.metrics) == {"accuracy", "f1", "no_label"} and summary.score > 0.8
    other = {f"{written.name}/other/{name}" for name in ("accuracy", "f1", "no_label")}
    assert set(summary.metrics_ood) == other | {"test.tsv/no_label", "eval.tsv/no_label"}
    assert summary.eval_loss_last < summary.eval_loss_first / 2 and summary.lengths_compiled == [16]
    card = (folder / "adapter" / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card and "`text: ...`" in card


def test_written_predictions_are_the_scored_ones(finished, written):
    folder, summary = finished
    labels = [
        json.loads(line)["label"] for line in (written / "eval.jsonl").read_text().splitlines()
    ]
    predicted = _predicted(folder / "predictions" / "eval.tsv")
    right = np.mean(predicted == np.array(LABELS)[labels])
    measured = summary.metrics
    # An answer that is no label is written as the first label and scored as wrong.
    assert (
        measured["accuracy"] - 1e-6 <= right <= measured["accuracy"] + measured["no_label"] + 1e-6
    )
    assert measured["no_label"] == summary.metrics_ood["eval.tsv/no_label"] < 0.2
    assert set(_predicted(folder / "predictions" / "test.tsv")) <= set(LABELS)


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_pytorch_answers_the_same(finished, written, kind):
    """PyTorch's logits equal ours, and its greedy answers equal the predictions."""
    folder, _ = finished
    if kind == "merged":
        model = AutoModelForSeq2SeqLM.from_pretrained(folder / "merged")
        assert isinstance(model, T5ForConditionalGeneration)
    else:
        adapter_config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert adapter_config["task_type"] == "SEQ_2_SEQ_LM"
        base = AutoModelForSeq2SeqLM.from_pretrained(written / "t5")
        model = PeftModel.from_pretrained(base, folder / "adapter")
    tokenizer = make_tokenizer()
    config = read_config(["--config", str(folder / "config.yaml")])
    texts = data.read_text_sets(config.data, tokenizer, data.encode_with_answers).held_out["eval"]
    batch = data.collate(texts, np.arange(len(texts)), [32])
    inputs = {
        name: torch.tensor(getattr(batch, name)).long() for name in ("input_ids", "attention_mask")
    }
    decoder_inputs = np.pad(batch.targets[:, :-1], ((0, 0), (1, 0)))
    with torch.no_grad():
        theirs = model.eval()(
            **inputs, decoder_input_ids=torch.tensor(decoder_inputs).long()
        ).logits.numpy()
        generated = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    ours, base = models.load_pretrained(written / "t5", task="seq2seq-lm")
    variables = {"params": base, "lora": peft_format.load_adapter(folder / "adapter", base)}
    logits = jax.jit(ours.apply)(variables, batch.input_ids, batch.attention_mask, decoder_inputs)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)
    answers = [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    answers = [text if text in LABELS else LABELS[0] for text in answers]
    assert answers == list(_predicted(folder / "predictions" / "eval.tsv"))


def test_a_resumed_run_ends_in_the_same_bits(finished, tmp_path):
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
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert _losses(folder) == _losses(cut)


def test_scores_under_lora_with_patience(arguments, written, tmp_path):
    """The updates are too small to change an answer: the first evaluation stays the best."""
    more = [
        "--data.fields.label", "score", "--data.scores", "[0, 5]", "--data.labels", "null",
        "--method", "lora", "--optimizer.learning_rate", "1e-12",
        "--training.eval_every", "1", "--training.patience", "1",
        "--data.predict", str(written / "test.jsonl"),
    ]  # fmt: skip
    summary = finetune(read_config(arguments(tmp_path / "run", *more))).summary
    assert (summary.steps, summary.step_kept) == (2, 1)
    assert set(summary.metrics) == {"pearson", "spearman", "no_label"}
    assert summary.metrics["no_label"] > 0.5
    predicted = _predicted(tmp_path / "run" / "predictions" / "test.tsv").astype(float)
    assert ((predicted >= 0) & (predicted <= 5)).all()


def test_full_writes_the_whole_model(arguments, tmp_path):
    """The task is one of GLUE, and there is no held-out set."""
    rows = [{"sentence": row["text"], "label": row["label"]} for row in letter_rows(20, 0)]
    named = write_rows(tmp_path / "sst2.jsonl", rows)
    more = [
        "--method",
        "full",
        "--training.steps",
        "2",
        "--data.task",
        "sst2",
        "--data.labels",
        "null",
    ]
    more += ["--data.train", str(named), "--data.eval", "null"]
    assert finetune(read_config(arguments(tmp_path / "run", *more))).summary.score is None
    T5ForConditionalGeneration.from_pretrained(tmp_path / "run" / "merged")
    with pytest.raises(
        BadInput, match=r"is of model\.task seq2seq-lm; accepted: a run of causal-lm"
    ):
        generate_texts(GenerateOptions(run=str(tmp_path / "run"), prompt="a"))


def test_answers_that_are_no_label_count_as_wrong(arguments, tmp_path):
    task = Seq2SeqLM(read_config(arguments(tmp_path)), make_tokenizer())
    written = np.array([1, data.NO_CLASS, 0, data.NO_CLASS])
    measured = task.evaluator.measures(written, np.array([1, 1, 0, 0]))
    assert measured == pytest.approx({"accuracy": 0.5, "f1": 0.5, "no_label": 0.5})


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
        (["--data.labels", "null"], "exactly one of the three"),
        (["--data.labels", "[many, many]"], r"data\.labels is"),
        (["--data.labels", "[nobody, few]"], "makes '' of data.labels's class 'nobody'"),
        (
            ["--data.template", "chat"],
            r"data\.template is 'chat'; accepted: alpaca under model\.task seq2seq-lm",
        ),
        (
            ["--regularizers.consistency.teacher_head", "probe"],
            r"teacher_head is 'probe'; accepted: initial under",
        ),
        (["--model.replace_head"], r"model\.replace_head is True; accepted: false under"),
        (["--data.max_length", "1"], r"data\.max_length is 1"),
    ],
)
def test_bad_values_are_refused(arguments, tmp_path, capsys, more, sentence):
    message = _error_message(arguments(tmp_path / "run", *more), capsys)
    assert re.search(sentence, message), message
    assert not (tmp_path / "run").exists()


def test_bad_models_are_refused(arguments, tmp_path, capsys, written):
    save_model("bert", tmp_path / "bert")
    more = ["--model.source", str(tmp_path / "bert"), "--model.tokenizer", str(written / "t5")]
    message = _error_message(arguments(tmp_path / "run", *more), capsys)
    assert (
        "'seq2seq-lm', which bert models do not do here; accepted: sequence-classification"
        in message
    )
    save_t5(tmp_path / "small", vocab_size=WORDS.index("few"))
    message = _error_message(
        arguments(tmp_path / "run", "--model.source", str(tmp_path / "small")), capsys
    )
    assert "makes token 15 but the model has 14 embeddings" in message, "an answer's"
    make_tokenizer(eos_token=None).save_pretrained(tmp_path / "endless")
    message = _error_message(
        arguments(tmp_path / "run", "--model.tokenizer", str(tmp_path / "endless")), capsys
    )
    assert "the tokenizer has no end-of-sequence token" in message
