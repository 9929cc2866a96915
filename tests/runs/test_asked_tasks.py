"""evaluation.tasks: lm-eval's tasks at every evaluation of a run, which change no bit of it."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune

SETTINGS = ["--training.eval_every", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = [
        {"goal": f"{a}+1=", "sol1": str(a + 1), "sol2": str(a), "label": a % 2} for a in range(7)
    ]
    (folder / "piqa").mkdir()
    (folder / "piqa" / "validation.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    program = {
        "task_id": "HumanEval/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "one",
    }  # fmt: skip
    (folder / "humaneval").mkdir()
    (folder / "humaneval" / "test.jsonl").write_text(json.dumps(program) + "\n")
    return folder


def _arguments(run_arguments, files, folder, *more):
    tasks = ["--evaluation.tasks", "[piqa]", "--evaluation.data_dir", str(files)]
    return run_arguments(folder, *tasks, *SETTINGS, *more)


@pytest.fixture(scope="module")
def asked(run_arguments, files, tmp_path_factory):
    """A run that asks a task."""
    folder = tmp_path_factory.mktemp("asked") / "run"
    finetune(read_config(_arguments(run_arguments, files, folder)))
    return folder


def _evaluations(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "eval_loss" in record]


def test_every_evaluation_asks_the_task(asked, files, tmp_path):
    """The last answers are those that `balora evaluate` gets of the exported run."""
    records = _evaluations(asked)
    assert [record["step"] for record in records] == [0, 2, 4, 6]
    main(
        ["evaluate", "--run", str(asked), "--tasks", "piqa", "--data-dir", str(files), "--baseline",
         "--out", str(tmp_path / "out")]
    )  # fmt: skip
    [task] = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    for metric in task["metrics"]:
        values = metric["models"]
        name = f"eval_piqa/{metric['name']}"
        assert records[-1][name] == pytest.approx(values["adapter"]["value"], abs=1e-9)
        assert records[0][name] == pytest.approx(values["base"]["value"], abs=1e-9)
    assert json.loads((asked / "summary.json").read_text())["metrics"]["piqa/acc"] is not None


def test_the_tasks_change_no_bit_of_the_training(asked, run_arguments, tmp_path):
    finetune(read_config(run_arguments(tmp_path, *SETTINGS)))
    plain = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, array in load_file(asked / "adapter" / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(array, plain[name])


def test_a_limit_asks_the_first_examples(run_arguments, files, tmp_path):
    more = ["--evaluation.task_limit", "1", "--training.steps", "2"]
    finetune(read_config(_arguments(run_arguments, files, tmp_path, *more)))
    assert {record["eval_piqa/acc"] for record in _evaluations(tmp_path)} <= {0.0, 1.0}


WRONG = {
    "no such task": (["--evaluation.tasks", "[piqqa]"], "there is no task 'piqqa'; accepted: a"),
    "programs": (
        ["--evaluation.tasks", "[alpaca_humaneval]"],
        "which would run the programs that the model writes; accepted: tasks of text",
    ),
    "no folder": (["--evaluation.data_dir", "/nowhere"], "'/nowhere' does not exist; accepted"),
    "no held-out set": (["--data.eval", "null"], "evaluation.tasks is ['piqa']; accepted: with"),
    "no task": (["--evaluation.tasks", "[]"], "evaluation.data_dir is"),
    "a limit of 0": (["--evaluation.task_limit", "0"], "evaluation.task_limit is 0; accepted"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_sentence(run_arguments, files, tmp_path, capsys, case):
    more, sentence = WRONG[case]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, files, tmp_path / "run", *more)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(sentence), error) and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
