"""evaluation.tasks: lm-eval's tasks at every evaluation of a run, which change no bit of it."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.evaluation.harness import tasks
from balora_jax.runs.finetune import finetune
from balora_jax.training.saved_checkpoints import SavedCheckpoints

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


def test_a_task_without_room_is_refused_before_anything_is_written(
    run_arguments, files, tmp_path, capsys
):
    """Also for a run that goes on, whose folder stays as it is."""
    (files / "gsm8k").mkdir(exist_ok=True)
    row = {"question": "1+1=", "answer": "#### 2"}
    (files / "gsm8k" / "test.jsonl").write_text(json.dumps(row) + "\n")
    folder = tmp_path / "run"
    finetune(read_config(run_arguments(folder, *SETTINGS)))
    before = sorted(path.name for path in folder.iterdir())
    more = ["--evaluation.tasks", "[alpaca_gsm8k]", "--training.steps", "8", "--output.resume"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *_arguments(run_arguments, files, folder, *more)])
    assert stopped.value.code == 2
    assert "asks for answers of up to 1024 tokens" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_task_that_fails_costs_no_update(run_arguments, files, tmp_path, monkeypatch):
    asked = 0

    def failing(*arguments, **options):
        nonlocal asked
        asked += 1
        if asked == 3:
            raise BadInput("the task fails")
        return {"results": {}}

    monkeypatch.setattr(tasks, "run_tasks", failing)
    with pytest.raises(BadInput, match="the task fails"):
        finetune(read_config(_arguments(run_arguments, files, tmp_path)))
    # The evaluations are those of steps 0, 2 and 4.
    assert SavedCheckpoints(tmp_path / "checkpoints").steps()[-1] == 4


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
