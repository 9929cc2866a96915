"""balora evaluate of a classifier's run and of an encoder, against predictions by hand."""

import json
import shutil

import numpy as np
import pytest
from classification_cases import letter_arguments, letter_rows, save_model, write_rows
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, recall_score

from balora_jax import data
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.data.text_sets import read_text_sets
from balora_jax.evaluation.bias.classifier_tasks import with_class_names
from balora_jax.runs import classifiers
from balora_jax.runs.finetune import finetune

TESTS = """
tests:
  letters:
    targets: {first: [a b, c a d], last: [e f, g h e]}
    attributes: {even: [b d, b f], odd: [a c, c g e]}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with sets of letters in two groups, templates, and a tiny BERT without a head."""
    folder = tmp_path_factory.mktemp("grouped")
    write_rows(folder / "train.jsonl", letter_rows(200, 0))
    rows = letter_rows(25, 1)
    grouped = [
        row | {"place": ["north", "[/south]"][number % 2], "same": "all"}
        for number, row in enumerate(rows)
    ]
    write_rows(folder / "eval.jsonl", grouped)
    save_model("bert", folder / "bert")
    (folder / "seat.yaml").write_text(TESTS)
    (folder / "templates.txt").write_text("{a|b} c d\n{a|b} e\nf {a|b}\n")
    return folder


def _arguments(files, output, *more):
    return letter_arguments(files, output, *more, data__labels='["no", "yes"]')


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    finetune(read_config(_arguments(files, folder)))
    return folder


def _examples(path):
    return {task["task"]: task["examples"] for task in json.loads(path.read_text())["tasks"]}


def _metrics(path):
    tasks = json.loads(path.read_text())["tasks"]
    return {(task["task"], metric["name"]): metric for task in tasks for metric in task["metrics"]}


@pytest.fixture(scope="module")
def results(run, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "out"
    more = [
        "--seat",
        str(files / "seat.yaml"),
        "--groups",
        "place",
        "--templates",
        str(files / "templates.txt"),
        "--baseline",
    ]
    main(["evaluate", "--run", str(run), "--tasks", "classes,seat", *more, "--out", str(out)])
    counts = _examples(out / "results.json")
    assert counts == {"classes": 25, "groups": 25, "seat": 1, "templates": 3}
    return _metrics(out / "results.json")


def _predictions(run, name):
    """The labels, the predicted classes and the groups, with logits from the model itself."""
    subjects = classifiers.of_run(str(run), "latest", baseline=True)
    [subject] = [subject for subject in subjects if subject.classifier.name == name]
    config = read_config(["--config", str(run / "config.yaml")])
    tokenizer = data.load_tokenizer(config.model.source)
    [texts] = read_text_sets(config.data, tokenizer).held_out.values()
    classifier = subject.classifier
    variables = {"params": classifier.params, "lora": classifier.lora or {}}
    logits = [classifier.model.apply(variables, texts[i][None]) for i in range(len(texts))]
    [rows] = data.read_held_out_rows(config.data).values()
    return texts.labels, np.concatenate(logits).argmax(axis=1), [row["place"] for row in rows]


@pytest.mark.parametrize("name", ["adapter", "base"])
def test_classes_and_groups_are_those_of_single_texts(results, run, name):
    labels, predicted, groups = _predictions(run, name)

    def value(task, metric):
        return results[task, metric]["models"][name]["value"]

    assert value("classes", "accuracy") == pytest.approx(accuracy_score(labels, predicted))
    recalls = recall_score(labels, predicted, average=None, zero_division=0)
    for label, recall in zip(("no", "yes"), recalls, strict=True):
        assert value("classes", f"recall.{label}") == pytest.approx(recall)
    frame = MetricFrame(
        metrics=accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=groups
    )
    for group in ("north", "[/south]"):
        assert value("groups", f"accuracy[{group}]") == pytest.approx(frame.by_group[group])
    assert value("groups", "accuracy.gap") == pytest.approx(frame.difference())


def test_everything_has_an_interval_and_a_difference(results):
    for (_, name), metric in results.items():
        if name.endswith("p_value"):
            continue
        assert all(model["interval"] for model in metric["models"].values()), name
    for key in (("classes", "accuracy"), ("templates", "a|b.distance"), ("groups", "accuracy.gap")):
        values = [results[key]["models"][model]["value"] for model in ("adapter", "base")]
        assert results[key]["difference"]["value"] == pytest.approx(values[0] - values[1], abs=1e-9)
    assert results["classes", "accuracy"]["p_value"] is not None
    assert results["classes", "accuracy"]["difference"]["value"] > 0.2
    assert ("templates", "a|b.difference.yes") in results


def test_an_encoder_without_a_run(files, results, tmp_path, capsys):
    """Its embeddings are those of the run's base."""
    out = tmp_path / "seat"
    seat = ["--tasks", "seat", "--seat", str(files / "seat.yaml")]
    main(["evaluate", "--model", str(files / "bert"), *seat, "--out", str(out)])
    alone = _metrics(out / "results.json")
    assert [name for _, name in alone] == ["letters.effect_size", "letters.p_value"]
    for (_, name), metric in alone.items():
        beside = results["seat", name]["models"]["base"]["value"]
        assert metric["models"]["base"]["value"] == pytest.approx(beside, abs=1e-6)
    assert "letters.effect_size" in capsys.readouterr().out


def test_a_measure_without_a_value_is_null(files, tmp_path):
    """The tokenizer knows none of the words, so that all sentences are the same."""
    out = tmp_path / "seat"
    main(["evaluate", "--model", str(files / "bert"), "--tasks", "seat", "--out", str(out)])
    metrics = _metrics(out / "results.json")
    assert len(metrics) == 6
    sizes = [metric for (_, name), metric in metrics.items() if name.endswith("effect_size")]
    assert all(metric["models"]["base"]["value"] is None for metric in sizes)


def test_names_in_brackets_are_shown(run, files, tmp_path, capsys):
    """They are no styles of the terminal."""
    command = ["evaluate", "--run", str(run), "--groups", "place", "--out", str(tmp_path / "out")]
    main(command)
    assert "accuracy[[/south]]" in capsys.readouterr().out


def test_classes_are_named():
    classes = ("no", "yes")
    values = {
        "recall.1": 1,
        "recall.0.gap": 2,
        "selected.1[recall.1]": 3,
        "accuracy[recall.0]": 4,
        "a.difference.1|b.difference.0": 5,
        "calibration_error": 6,
    }
    assert list(with_class_names(values, classes)) == [
        "recall.yes",
        "recall.no.gap",
        "selected.yes[recall.1]",
        "accuracy[recall.0]",
        "a.difference.1|b.difference.no",
        "calibration_error",
    ]


BAD = {
    "a task": (
        ["--tasks", "clases"],
        "accepted: classes, groups, seat, templates, such",
    ),
    "of others": (["--tasks", "gsm8k"], "is a classifier's run; accepted: classes"),
    "groups": (["--tasks", "groups"], "accepted: with --groups too"),
    "a field": (["--groups", "region"], "has no field region"),
    "one group": (["--groups", "same"], "the column of groups has the one value 'all'; accepted"),
    "limit": (["--tasks", "classes", "--limit", "3"], "--limit is 3, and the classifier's run"),
    "chat": (["--tasks", "classes", "--chat"], "--chat is True, and the classifier's run"),
    "a seed": (["--tasks", "classes", "--seed", "3"], "--seed is 3, and the classifier's run"),
    "tokens": (["--tasks", "classes", "--batch-tokens", "64"], "--batch_tokens is 64, and the"),
    "no tests": (["--tasks", "classes", "--seat", "{files}/templates.txt"], "with --tasks seat"),
    "tests": (["--tasks", "seat", "--seat", "{files}/templates.txt"], "templates.txt"),
    "a checkpoint": (["--tasks", "classes", "--checkpoint", "3"], "has no checkpoint '3'"),
}


@pytest.mark.parametrize(("more", "match"), BAD.values(), ids=BAD)
def test_an_evaluation_is_refused(run, files, tmp_path, capsys, more, match):
    more = [word.format(files=files) for word in more]
    command = ["evaluate", "--run", str(run), *more, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert match in lines[-1] and lines[-1].startswith("balora: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["a", None], "place is None; accepted: text, a whole number"),
        (["a", ["b"]], r"place is ['b']; accepted"),
        (["a", "\ud800"], "half of a character"),
        (["1", 1], "place is 1, and of another row it is '1'; accepted: one kind of value"),
    ],
)
def test_values_that_are_no_groups(run, files, tmp_path, capsys, values, match):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    rows = [row | {"place": values[n % 2]} for n, row in enumerate(letter_rows(6, 1))]
    write_rows(tmp_path / "eval.jsonl", rows)
    config = copied / "config.yaml"
    text = config.read_text().split("\n", 1)[1]
    config.write_text(text.replace(str(files / "eval.jsonl"), str(tmp_path / "eval.jsonl")))
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--run", str(copied), "--groups", "place", "--out", str(tmp_path / "o")])
    assert stopped.value.code == 2 and match in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [["--templates", "{files}/templates.txt"], ["--limit", "3"], ["--groups", "place"]]
)
def test_an_encoder_alone_has_no_use_for_other_options(files, tmp_path, capsys, more):
    more = [word.format(files=files) for word in more]
    command = ["evaluate", "--model", str(files / "bert"), "--tasks", "seat", *more]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "has no use for it; accepted: without that option" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_groups_are_of_classifiers(tiny_llama, tmp_path, capsys):
    command = ["evaluate", "--model", str(tiny_llama), "--tasks", "seat", "--groups", "place"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "accepted: for the run of a classifier" in capsys.readouterr().err
