"""Our task files, run by lm-eval on rows in local files, without a network."""

import json
import pathlib

import lm_eval
import pytest
import yaml
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from balora_jax.evaluation import tasks
from balora_jax.evaluation.tasks import code

FOLDER = pathlib.Path(tasks.__file__).parent
CHOICES = {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}
TESTS = ["assert twice(1) == 2"]
MBPP = {"text": "Double a number.", "code": "", "test_setup_code": "", "test_list": TESTS}
# A task -> rows with the fields of the hub, the first answered right, and the right answer.
CASES = {
    "alpaca_gsm8k": (
        [
            {"question": "One and one?", "answer": "1 + 1 = 2\n#### 2"},
            {"question": "Two and one?", "answer": "2 + 1 = 3\n#### 3"},
        ],
        "The answer is: 2",
    ),
    "alpaca_math": (
        [
            {"problem": "Halve 1.", "level": "Level 1", "solution": "$\\boxed{\\frac{1}{2}}$"},
            {"problem": "Halve 2.", "level": "Level 1", "solution": "$\\boxed{1}$"},
        ],
        "The answer is: \\dfrac{1}{2}",
    ),
    "alpaca_math500": (
        [
            {
                "problem": "Halve 1.",
                "solution": "$\\boxed{\\frac{1}{2}}$",
                "answer": "\\frac{1}{2}",
            },
            {"problem": "Halve 2.", "solution": "$\\boxed{1}$", "answer": "1"},
        ],
        "The answer is: \\dfrac{1}{2}",
    ),
    "alpaca_boolq": (
        [
            {"question": "is ice cold", "passage": "Ice.", "answer": True},
            {"question": "is ice hot", "passage": "Ice.", "answer": False},
        ],
        "the correct answer is true",
    ),
    "alpaca_piqa": (
        [
            {"goal": "Sit", "sol1": "chair", "sol2": "pin", "label": 0},
            {"goal": "Sew", "sol1": "chair", "sol2": "pin", "label": 1},
        ],
        "the correct answer is solution1",
    ),
    "alpaca_siqa": (
        [
            {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c"}
            | {"label": label}
            for label in ("1", "2")
        ],
        "the correct answer is answer1",
    ),
    "alpaca_hellaswag": (
        [
            {
                "activity_label": "Rowing",
                "ctx": "He",
                "endings": ["a", "b", "c", "d"],
                "label": "0",
            },
            {
                "activity_label": "Rowing",
                "ctx": "He",
                "endings": ["b", "a", "c", "d"],
                "label": "1",
            },
        ],
        "the correct answer is ending1",
    ),
    "alpaca_winogrande": (
        [
            {"sentence": "Jo saw Al as _ slept.", "option1": "Jo", "option2": "Al", "answer": "1"},
            {"sentence": "Jo saw Al as _ woke.", "option1": "Jo", "option2": "Al", "answer": "2"},
        ],
        "the correct answer is option1",
    ),
    "alpaca_arc_easy": (
        [{"question": "Why?", "choices": CHOICES, "answerKey": key} for key in "AB"],
        "the correct answer is answer1",
    ),
    "alpaca_arc_challenge": (
        [{"question": "Why?", "choices": CHOICES, "answerKey": key} for key in "AC"],
        "the correct answer is answer1",
    ),
    "alpaca_openbookqa": (
        [{"question_stem": "Why?", "choices": CHOICES, "answerKey": key} for key in "AC"],
        "the correct answer is answer1",
    ),
    "alpaca_humaneval": (
        [
            {"task_id": "HumanEval/0", "prompt": "def one():\n", "entry_point": "one"}
            | {
                "canonical_solution": "",
                "test": "def check(candidate):\n    assert candidate() == 1\n",
            },
            {"task_id": "HumanEval/1", "prompt": "def two():\n", "entry_point": "two"}
            | {
                "canonical_solution": "",
                "test": "def check(candidate):\n    assert candidate() == 2\n",
            },
        ],
        "    return 1\n",
    ),
    "alpaca_mbpp": (
        [
            MBPP | {"task_id": 10, "test_list": ["assert other(1) == 2"]},
            MBPP | {"task_id": 11},
            MBPP | {"task_id": 510, "test_list": ["assert twice(1) == 3"]},
            MBPP | {"task_id": 511, "test_list": ["assert other(1) == 2"]},
        ],
        "def twice(x):\n    return 2 * x\n",
    ),
}
CODE = ("alpaca_humaneval", "alpaca_mbpp")
COMMONSENSE = [name for name in CASES if "acc" in (FOLDER / f"{name}.yaml").read_text()]


class OneAnswer(LM):
    """A model that has one answer to all prompts of a task, and keeps the prompts."""

    def __init__(self, answers):
        super().__init__()
        self._answers = answers
        self.requests = []

    def generate_until(self, requests, disable_tqdm=False):
        self.requests += [request.args for request in requests]
        return [self._answers[request.task_name] for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        pytest.fail("these tasks only ask for text")

    loglikelihood_rolling = loglikelihood


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run tasks of ours on the rows above, written to local files."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def run(names, group=None):
        files = tmp_path / "files"
        files.mkdir()
        for name in names:
            _write_task(files, name, CASES[name][0])
        if group:
            (files / "group.yaml").write_text((FOLDER / f"{group}.yaml").read_text())
        model = OneAnswer({name: CASES[name][1] for name in names})
        manager = TaskManager(include_path=str(files), include_defaults=False)
        results = lm_eval.simple_evaluate(
            model=model, tasks=[group] if group else names, task_manager=manager, log_samples=True
        )
        return results, model

    return run


def _write_task(files, name, rows):
    data = files / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    split = "validation" if "validation_split" in text else "test"
    local = {
        "include": str(FOLDER / f"{name}.yaml"),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(data)}},
    }
    (files / f"{name}.yaml").write_text(yaml.safe_dump(local), encoding="utf-8")


def _known_names():
    return {path.stem for path in FOLDER.glob("alpaca_*.yaml")}


def test_all_tasks_are_tried():
    assert _known_names() == set(CASES) | {"alpaca_commonsense"}
    assert len(COMMONSENSE) == 8


@pytest.mark.parametrize("name", [name for name in CASES if name not in CODE])
def test_scores(run, name):
    if name.startswith("alpaca_math"):
        pytest.importorskip("math_verify", reason="needs math-verify")
    results, model = run([name])
    scores = results["results"][name]
    main = "acc,none" if name in COMMONSENSE else "exact_match,none"
    assert scores[main] == 0.5
    assert scores["answered,none"] == 1
    prompts = [prompt for prompt, _ in model.requests]
    assert all(prompt.startswith("Below is an instruction") for prompt in prompts)
    assert all(prompt.endswith("\n\n### Response:") for prompt in prompts)
    assert len(set(prompts)) == 2 or name.startswith(("alpaca_arc", "alpaca_open", "alpaca_siqa"))
    options = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 1024}
    assert all(given == options for _, given in model.requests)


def test_the_commonsense_group_is_the_mean_over_sets(run):
    results, _ = run(COMMONSENSE, "alpaca_commonsense")
    assert results["groups"]["alpaca_commonsense"]["acc,none"] == 0.5
    assert set(results["group_subtasks"]["alpaca_commonsense"]) == set(COMMONSENSE)


@pytest.mark.parametrize("name", CODE)
def test_programs_run_after_all_have_been_generated(run, name):
    results, _ = run([name])
    assert results["results"][name]["parses,none"] == 1
    assert not [metric for metric in results["results"][name] if metric.startswith("pass")]
    assert results["configs"][name]["metadata"][code.EXECUTES_CODE] is True
    scores = code.score(results["samples"][name])
    assert scores.passed == [[True], [False]]
    assert scores.pass_at(1).mean() == 0.5


def test_other_tasks_run_no_code():
    for name in set(CASES) - set(CODE):
        assert code.EXECUTES_CODE not in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert all("unsafe_code" not in path.read_text() for path in FOLDER.glob("*.yaml"))
