"""balora audit of classifiers: predictions, moved features, wrong labels and the model card."""

import json
import shutil

import numpy as np
import pytest
from classification_cases import letter_arguments, letter_rows, save_model, write_rows

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sets of letters, a tenth of whose training labels are wrong, and a tiny BERT."""
    folder = tmp_path_factory.mktemp("audited_letters")
    rows = []
    for number, row in enumerate(letter_rows(200, 0)):
        given = 1 - row["label"] if number % 10 == 0 else row["label"]
        rows.append(row | {"label": given, "truth": row["label"]})
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "eval.jsonl", letter_rows(60, 1))
    save_model("bert", folder / "bert")
    (folder / "templates.txt").write_text("{a|b} c d\n{a|b} e\n")
    return folder


def _train(files, output, *more):
    finetune(read_config(letter_arguments(files, output, *more, training__steps=40)))


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    _train(files, folder / "first")
    _train(files, folder / "second", "--method", "lora", "--training.seed", "1")
    return folder


@pytest.fixture(scope="module")
def audited(runs, files):
    command = ["--run", str(runs / "first"), "--run", str(runs / "second")]
    main(["audit", *command, "--templates", str(files / "templates.txt")])
    return runs / "first" / "audit"


@pytest.fixture(scope="module")
def findings(audited):
    return json.loads((audited / "audit.json").read_text())["runs"]


def test_accuracy_and_shares_are_those_of_the_run(runs, findings):
    for run in findings:
        summary = json.loads((runs / run["name"] / "summary.json").read_text())
        balance = run["after"]["balance"]
        accuracy = balance["accuracy"]["value"]
        assert accuracy == pytest.approx(summary["metrics"]["accuracy"])
        assert sum(share["value"] for share in balance["predicted"]) == pytest.approx(1)
        assert sum(balance["right"]) == pytest.approx(1)
        assert accuracy > run["before"]["balance"]["accuracy"]["value"]


def test_wrong_labels_are_found(findings):
    """A run that has learned the rule says few wrong labels, and finds them the most suspect."""
    for run in findings:
        noise = run["noise"]
        assert noise["wrong"] == 20
        assert noise["memorized"]["value"] < 0.5
        wrong = [suspect["example"] % 10 == 0 for suspect in noise["suspects"]]
        assert np.mean(wrong) >= 0.5
        losses = [suspect["loss_after"] for suspect in noise["suspects"]]
        assert losses == sorted(losses, reverse=True)


def test_the_curve_ends_at_the_run(findings):
    for run in findings:
        points = {point["scale"]: point["measures"] for point in run["curve"]["points"]}
        accuracy = run["after"]["balance"]["accuracy"]["value"]
        assert points[1.0]["accuracy"] == pytest.approx(accuracy)
        assert points[0.0]["drift (1 - cosine)"] < points[1.0]["drift (1 - cosine)"]
        drift = run["drift"]["distance"]["value"]
        assert points[1.0]["drift (1 - cosine)"] == pytest.approx(drift, abs=1e-6)
        assert run["geometry"]["relative"] > 0


def test_the_page_and_the_cards(audited, runs):
    page = (audited / "audit.html").read_text()
    for text in ("Drift of the encoder", "Predicted classes", "Noise fitting", "Templates"):
        assert text in page
    # Their heads of step 0 are of different seeds.
    assert "first, step 0" in page and "second, step 0" in page
    for name in ("first", "second"):
        card = (runs / name / "adapter" / "README.md").read_text()
        assert card.count("## What fine-tuning changed") == 1 and "| predicted as 1," in card


def test_bad_input(runs, files, run_arguments, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a b c\n")
    language_model = tmp_path / "language_model"
    finetune(read_config(run_arguments(language_model, "--training.steps", "1")))
    first = ["--run", str(runs / "first")]
    # The same run on shorter texts.
    other = tmp_path / "other"
    shutil.copytree(runs / "second", other)
    config = other / "config.yaml"
    text_of_config = config.read_text().split("\n", 1)[1]
    config.write_text(text_of_config.replace("max_length: 32", "max_length: 16"))
    cases = [
        ([*first, "--text", str(text)], "accepted: without --text"),
        ([*first, "--run", str(language_model)], "is of another base model than"),
        ([*first, "--templates", str(files / "train.jsonl")], "train.jsonl"),
        ([*first, "--run", str(other)], "has data.max_length 16, and"),
    ]
    for arguments, match in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["audit", *arguments, "--out", str(tmp_path / "out")])
        assert stopped.value.code == 2
        assert match in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_run_of_scores_is_refused(files, tmp_path, capsys):
    rows = [{"text": row["text"], "label": float(row["label"])} for row in letter_rows(40, 2)]
    write_rows(tmp_path / "scores.jsonl", rows)
    scores = ["--data.train", str(tmp_path / "scores.jsonl"), "--data.eval"]
    scores += [str(tmp_path / "scores.jsonl"), "--data.labels", "null", "--data.scores", "[0, 1]"]
    _train(files, tmp_path / "run", *scores, "--training.steps", "2")
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--run", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "predicts scores (data.scores); accepted" in capsys.readouterr().err
    assert not (tmp_path / "run" / "audit").exists()
