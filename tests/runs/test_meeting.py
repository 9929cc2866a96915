"""Commands that read a run, in two processes: they print and write what one process does."""

import json
import shutil

import numpy as np
import pytest
from classification_cases import letter_arguments, letter_rows, save_model, write_rows
from process_cases import Processes
from safetensors.numpy import load_file

from balora_jax.cli import main

QUESTION = {"question_id": 81, "category": "writing", "turns": ["Say a.", "Say b."]}
PIQA = [{"goal": f"open {a}", "sol1": "pull", "sol2": "push hard", "label": 0} for a in range(4)]


@pytest.fixture(scope="module")
def run(run_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("met") / "run"
    # A mesh of one device, which leaves one of two processes idle.
    main(["train", *run_arguments(folder)])
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    for name, (number, seed) in {"train": (200, 0), "eval": (60, 1)}.items():
        write_rows(folder / f"{name}.jsonl", letter_rows(number, seed))
    save_model("bert", folder / "bert")
    main(["train", *letter_arguments(folder, folder / "run", "--training.steps", "4")])
    return folder


def _in_both(name, arguments, tmp_path, capfd, places=(None, None)):
    """Run a command in one process, and in two, of which the first prints the same."""
    capfd.readouterr()
    main([name, *arguments("one")])
    alone = capfd.readouterr().out
    log = tmp_path / f"log-{name}"
    processes = Processes(arguments("two"), log, name=name, places=places)
    first, second = (process.communicate(timeout=300)[0] for process in processes.running)
    assert [process.returncode for process in processes.running] == [0, 0], processes.said()
    # Between them are lines of jax's library for CPUs.
    assert "process 1 of 2: process 0 prints and writes" in second
    for line in alone.replace(str(tmp_path / "one"), str(tmp_path / "two")).splitlines():
        assert line in first and (not line.strip() or line not in second)


@pytest.fixture
def copies(run, tmp_path, monkeypatch):
    """Two places with a copy of the run each; this process is in the first."""
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        shutil.copytree(run, place / "run")
    monkeypatch.chdir(places[0])
    return places


@pytest.mark.parametrize("command", ["export", "merge"])
def test_weights_are_written_as_by_one_process(copies, tmp_path, capfd, command):
    def arguments(where):
        return ["--run", "run", "--out", str(tmp_path / where), "--scale", "0.5"]

    _in_both(command, arguments, tmp_path, capfd, copies)
    ours, theirs = (tmp_path / where for where in ("two", "one"))
    assert sorted(path.name for path in ours.iterdir()) == sorted(
        path.name for path in theirs.iterdir()
    )
    [file] = [path.name for path in theirs.glob("*.safetensors")]
    for name, expected in load_file(theirs / file).items():
        found = load_file(ours / file)[name]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)


def test_another_copy_of_the_run_is_refused(copies, tmp_path):
    """It lacks the last checkpoint, and would be read at another step."""
    steps = [path for path in (copies[1] / "run" / "checkpoints").glob("[0-9]*")]
    shutil.rmtree(max(steps, key=lambda path: int(path.name)))
    arguments = ["--run", "run", "--out", str(tmp_path / "out")]
    processes = Processes(arguments, tmp_path / "log", name="merge", places=copies)
    codes, _ = processes.codes()
    assert codes == [2, 2], processes.said()
    first, second = (error.read_text() for error in processes.errors)
    assert "another process has not the checkpoint of step 6 that process 0 has" in first
    assert "step 6 that process 0 has is not whole in this process" in second
    assert not (tmp_path / "out").exists()


def test_other_texts_are_refused(run, copies, tmp_path):
    for place, text in zip(copies, ("1+1={2|3}\n", "1+2={2|3}\n"), strict=True):
        (place / "templates.txt").write_text(text)
    arguments = ["--run", "run", "--templates", "templates.txt", "--out", str(tmp_path / "out")]
    processes = Processes(arguments, tmp_path / "log", name="evaluate", places=copies)
    codes, _ = processes.codes()
    assert codes == [2, 2], processes.said()
    assert "have not the same texts: process 1 differs" in processes.errors[0].read_text()


def test_an_evaluation_goes_on_in_two_processes(run, tmp_path, capfd):
    """Process 1 gets the answers that process 0 finds, and asks for the same others."""
    for name, rows in {
        "mt_bench/question.jsonl": [QUESTION],
        "piqa/validation.jsonl": PIQA,
    }.items():
        path = tmp_path / name
        path.parent.mkdir()
        write_rows(path, rows)
    (tmp_path / "templates.txt").write_text("1+1={2|3}\n")

    def arguments(where):
        return [
            "--run", str(run), "--tasks", "piqa,mt_bench", "--data-dir", str(tmp_path),
            "--templates", str(tmp_path / "templates.txt"), "--baseline",
            "--out", str(tmp_path / where),
        ]  # fmt: skip

    main(["evaluate", *arguments("one")])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    answers = tmp_path / "two" / "answers-base.jsonl"
    kept = answers.read_text().splitlines(keepends=True)[:4]
    answers.write_text("".join(kept))
    _in_both("evaluate", arguments, tmp_path, capfd)
    name = "mt_bench-adapter.jsonl"
    texts = [(tmp_path / where / name).read_text() for where in ("two", "one")]
    assert texts[0] == texts[1]
    ours, theirs = (
        json.loads((tmp_path / where / "results.json").read_text()) for where in ("two", "one")
    )
    assert ours["models"] == theirs["models"]
    assert len(answers.read_text().splitlines()) > 4
    for task, expected in zip(ours["tasks"], theirs["tasks"], strict=True):
        for ours_of, theirs_of in zip(task["metrics"], expected["metrics"], strict=True):
            for model, measured in theirs_of["models"].items():
                found = ours_of["models"][model]["value"]
                assert found == pytest.approx(measured["value"], abs=1e-5), theirs_of["name"]


def test_a_model_without_a_run_is_divided_over_processes(tiny_llama, tmp_path, capfd):
    (tmp_path / "templates.txt").write_text("1+1={2|3}\n")

    def arguments(where):
        return [
            "--model", str(tiny_llama), "--templates", str(tmp_path / "templates.txt"),
            "--out", str(tmp_path / where),
        ]  # fmt: skip

    _in_both("evaluate", arguments, tmp_path, capfd)


def test_texts_are_generated_as_by_one_process(run, tmp_path, capfd):
    def streamed(where):
        return ["--run", str(run), "--prompt", "1+1=", "--max_new_tokens", "8", "--compare"]

    _in_both("generate", streamed, tmp_path, capfd)


def test_an_audit_finds_what_one_process_finds(run, tmp_path, capfd):
    (tmp_path / "text.txt").write_text("1+2=3 and 4+4=8\n\n2+2=4 and 5+1=6\n")

    def arguments(where):
        out = str(tmp_path / where)
        return ["--run", str(run), "--text", str(tmp_path / "text.txt"), "--out", out]

    _in_both("audit", arguments, tmp_path, capfd)
    ours, theirs = (
        json.loads((tmp_path / where / "audit.json").read_text())["runs"][0]
        for where in ("two", "one")
    )
    # Angles near 0 are as exact as the root of float32's rounding, and far below it here.
    for part, error in (("drift", 1e-5), ("curve", 1e-5), ("geometry", 1e-4)):
        assert _numbers(ours[part]) == pytest.approx(_numbers(theirs[part]), rel=1e-3, abs=error)


def _numbers(found):
    """The numbers in an object, in order."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [number for part in found for number in _numbers(part)]
    return [found] if isinstance(found, float) else []


def test_rows_are_answered_as_by_one_process(run, tmp_path, capfd):
    rows = [{"question": f"{a}+1="} for a in range(3)]
    write_rows(tmp_path / "rows.jsonl", rows)

    def answers(where):
        out = str(tmp_path / f"{where}.jsonl")
        return ["--run", str(run), "--data", str(tmp_path / "rows.jsonl"), "--out", out]

    _in_both("predict", answers, tmp_path, capfd)
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()


def test_a_classifier_is_evaluated_as_by_one_process(classifier, tmp_path, capfd):
    (tmp_path / "templates.txt").write_text("a b {a|b}\n")

    def arguments(where):
        return [
            "--run", str(classifier / "run"), "--tasks", "classes,seat", "--baseline",
            "--templates", str(tmp_path / "templates.txt"), "--out", str(tmp_path / where),
        ]  # fmt: skip

    _in_both("evaluate", arguments, tmp_path, capfd)
