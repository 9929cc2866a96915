"""balora evaluate: a run and its base side by side, killed and repeated, with programs to run."""

import json
import os
import re

import pytest
from run_cases import save_llama

from balora_jax.cli import main
from balora_jax.evaluation.language_model import LanguageModel

STEREOSET = (
    "target,bias_type,context,stereotype,anti_stereotype,unrelated\n"
    "nurse,gender,The nurse is BLANK.,kind,cruel,purple\n"
    "chess,race,The player was BLANK.,clever,slow,salt\n"
    "nurse,gender,A nurse is BLANK here.,she,he,four\n"
)
PROGRAM = {
    "task_id": "HumanEval/0", "prompt": "def one():\n    '''Give 1.'''\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "one",
}  # fmt: skip
QUESTION = {"question_id": 81, "category": "writing", "turns": ["Say a.", "Say b."]}
TEMPLATE = "1+1={2|3}\n"


@pytest.fixture(scope="module")
def run(run_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    main(["train", *run_arguments(folder)])
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = {
        "gsm8k/test.jsonl": [{"question": "1+1=", "answer": "#### 2"}],
        "humaneval/test.jsonl": [PROGRAM],
        "mt_bench/question.jsonl": [QUESTION],
        "piqa/validation.jsonl": [
            {"goal": f"open {a}", "sol1": "pull", "sol2": "push hard", "label": 0} for a in range(4)
        ],
    }
    for name, lines in rows.items():
        path = folder / name
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "stereoset").mkdir()
    (folder / "stereoset" / "items.csv").write_text(STEREOSET)
    (folder / "templates.txt").write_text(TEMPLATE)
    return folder


def _arguments(run, files, out, *more):
    return [
        "evaluate", "--run", str(run), "--tasks", "stereoset,piqa", "--data-dir", str(files),
        "--templates", str(files / "templates.txt"), "--baseline", "--out", str(out), *more,
    ]  # fmt: skip


def _results(out):
    return json.loads((out / "results.json").read_text())


def test_a_run_and_its_base_side_by_side(run, files, tmp_path, capsys):
    main(_arguments(run, files, tmp_path / "out"))
    results = _results(tmp_path / "out")
    assert list(results["models"]) == ["adapter", "base"]
    metrics = {
        (task["task"], metric["name"]): metric
        for task in results["tasks"]
        for metric in task["metrics"]
    }
    for name in (("stereoset", "overall.icat"), ("piqa", "acc"), ("templates", "2|3.log_odds")):
        metric = metrics[name]
        adapter, base = (metric["models"][model]["value"] for model in ("adapter", "base"))
        assert metric["difference"]["value"] == pytest.approx(adapter - base, abs=1e-9), name
    # The run has learned sums.
    assert metrics["templates", "2|3.log_odds"]["difference"]["value"] != 0
    assert metrics["stereoset", "overall.stereotype"]["p_value"] is not None
    output = capsys.readouterr().out
    assert re.search(r"piqa +acc ↑ +4 +\d\.\d{3} \(\d\.\d{3} to ", output)
    assert metrics["piqa", "acc"]["models"]["adapter"]["stderr"] is not None
    samples = (tmp_path / "out" / "samples-base-piqa.jsonl").read_text().splitlines()
    assert len(samples) == 4


def test_a_killed_evaluation_ends_with_the_same_results(run, files, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    main(_arguments(run, files, whole))
    out = tmp_path / "out"
    scores = LanguageModel.scores
    left = 9

    def dying(self, pairs):
        nonlocal left
        for found in scores(self, pairs):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(LanguageModel, "scores", dying)
    with pytest.raises(SystemExit):
        main(_arguments(run, files, out))
    answered = len((out / "answers-adapter.jsonl").read_text().splitlines())
    assert answered > 5
    asked = []

    def counting(self, pairs):
        asked.extend(pairs)
        return scores(self, pairs)

    monkeypatch.setattr(LanguageModel, "scores", counting)
    main(_arguments(run, files, out))
    assert _results(out) == _results(whole)
    total = sum(
        len((whole / f"answers-{name}.jsonl").read_text().splitlines()) - 1
        for name in ("adapter", "base")
    )
    assert len(asked) == total - (answered - 1)


def test_results_of_other_tasks_are_kept(run, files, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--run", str(run), "--data-dir", str(files), "--out", str(out)]
    main([*command, "--tasks", "piqa"])
    main([*command, "--tasks", "stereoset"])
    assert [task["task"] for task in _results(out)["tasks"]] == ["stereoset", "piqa"]
    # A table has the same models in each line.
    main([*command, "--tasks", "stereoset", "--baseline"])
    assert [task["task"] for task in _results(out)["tasks"]] == ["stereoset"]
    assert f"the results of other models are now in {out / 'results-1.json'}" in (
        capsys.readouterr().out
    )
    assert len(json.loads((out / "results-1.json").read_text())["tasks"]) == 2


def test_what_was_found_for_each_item(run, files, tmp_path):
    out = tmp_path / "out"
    main(_arguments(run, files, out, "--tasks", "stereoset,seat"))
    rows = {
        task: [json.loads(line) for line in (out / f"samples-base-{task}.jsonl").open()]
        for task in ("stereoset", "templates", "seat")
    }
    assert [row["target"] for row in rows["stereoset"]] == ["nurse", "chess", "nurse"]
    assert set(rows["stereoset"][0]["log_likelihoods"]) == {
        "stereotype", "anti_stereotype", "unrelated"
    }  # fmt: skip
    [twins] = rows["templates"]
    metrics = {
        metric["name"]: metric["models"]["base"]
        for task in _results(out)["tasks"]
        for metric in task["metrics"]
    }
    assert twins["sentences"] == ["1+1=2", "1+1=3"]
    assert twins["log_odds"] == pytest.approx(metrics["2|3.log_odds"]["value"])
    # One template says nothing of others, and a domain has its own items.
    assert metrics["2|3.log_odds"]["interval"]["low"] is None
    assert metrics["gender.icat"]["interval"]["items"] == 2
    assert metrics["overall.icat"]["interval"]["items"] == 3
    assert {row["test"] for row in rows["seat"]} == {
        name.removesuffix(".effect_size") for name in metrics if name.endswith(".effect_size")
    }


def test_rows_that_only_the_scoring_reads_are_named(run, tmp_path, capsys):
    """The first task computes with what is missing, and the second divides by 0."""
    row = {"question": "1+1", "mc1_targets": {"choices": ["2"], "labels": [1]},
           "mc2_targets": {"choices": ["2", "3"], "labels": [1]}}  # fmt: skip
    for task, name, content in (
        ("truthfulqa_mc2", "validation", row), ("wikitext", "test", {"page": ""})
    ):  # fmt: skip
        path = tmp_path / task / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_text(json.dumps(content) + "\n")
        command = ["evaluate", "--run", str(run), "--tasks", task, "--data-dir", str(tmp_path)]
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([*command, "--out", str(tmp_path / f"out-{task}")])
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert exit_info.value.code == 2, sentence
        assert re.search(f"cannot score the rows of {path}|cannot use row 1 of {path}", sentence)


def test_a_fault_of_the_model_is_not_blamed_on_the_rows(run, files, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("ours")

    monkeypatch.setattr(LanguageModel, "scores", fail)
    command = ["evaluate", "--run", str(run), "--tasks", "piqa", "--data-dir", str(files)]
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 1
    assert "this is a fault of balora itself (ValueError: ours)" in capsys.readouterr().err


def test_texts_that_are_cut_are_counted(run, files, tmp_path, capsys):
    long = tmp_path / "data" / "piqa" / "validation.jsonl"
    long.parent.mkdir(parents=True)
    rows = [{"goal": "1" * size, "sol1": "2", "sol2": "3", "label": 0} for size in (3, 3000)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "--run", str(run), "--tasks", "piqa", "--data-dir", str(long.parents[1])]
    main([*command, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert f"piqa reads {long}" in printed.out
    assert "note: 2 of the texts for adapter are longer than the" in printed.err


def test_answers_of_another_checkpoint_are_not_mixed(run, files, tmp_path, capsys):
    main(_arguments(run, files, tmp_path / "out"))
    with pytest.raises(SystemExit) as exit_info:
        main(_arguments(run, files, tmp_path / "out", "--checkpoint", "4"))
    assert exit_info.value.code == 2
    assert "holds the answers of another model" in capsys.readouterr().err


def test_programs_run_only_when_allowed(files, tmp_path, capsys, monkeypatch):
    model = save_llama(tmp_path / "model", positions=2048)
    arguments = [
        "evaluate", "--model", str(model), "--tasks", "alpaca_humaneval",
        "--data-dir", str(files), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "alpaca_humaneval would run the programs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    def answer(self, prompts, **options):
        yield from enumerate(["```python\ndef one():\n    return 1\n```"] * len(prompts))

    monkeypatch.setattr(LanguageModel, "continuations", answer)
    main([*arguments, "--allow-code-execution"])
    [task] = _results(tmp_path / "out")["tasks"]
    values = {metric["name"]: metric["models"]["base"]["value"] for metric in task["metrics"]}
    assert values["pass@1"] == 1.0
    [line] = (tmp_path / "out" / "evalplus-base-alpaca_humaneval.jsonl").read_text().splitlines()
    assert json.loads(line)["task_id"] == "HumanEval/0"


def test_answers_to_mt_bench(tiny_llama, files, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(tiny_llama), "--tasks", "mt_bench"]
    arguments += ["--data-dir", str(files), "--out", str(tmp_path / "out")]
    main(arguments)
    assert str(tmp_path / "out" / "mt_bench-base.jsonl") in capsys.readouterr().out
    # Another seed has other draws, which are no part of the same answers.
    with pytest.raises(SystemExit):
        main([*arguments, "--seed", "1"])
    assert "mt_bench-base.jsonl, line 1: model_id is" in capsys.readouterr().err
    [line] = (tmp_path / "out" / "mt_bench-base.jsonl").read_text().splitlines()
    answer = json.loads(line)
    assert answer["question_id"] == 81 and len(answer["choices"][0]["turns"]) == 2


BAD = {
    "nothing": ([], "exactly one of --run DIR and --model SOURCE"),
    "both": (["--run", "{run}", "--model", "m"], "exactly one of --run DIR and --model"),
    "no task": (["--run", "{run}"], "--tasks names nothing to evaluate; accepted"),
    "commas": (["--run", "{run}", "--tasks", ", ,"], "--tasks names nothing to evaluate"),
    "a slip": (["--run", "{run}", "--tasks", "sterioset"], "'sterioset'; accepted: .*stereoset"),
    "a baseline alone": (
        ["--model", "m", "--tasks", "piqa", "--baseline", "--out", "{tmp}/o"], "with --run DIR"
    ),
    "nowhere to write": (["--model", "m", "--tasks", "piqa"], "--out is not given; accepted"),
    "a checkpoint": (
        ["--model", "m", "--tasks", "piqa", "--checkpoint", "3", "--out", "{tmp}/o"], "of a run"
    ),
    "no checkpoint": (
        ["--run", "{run}", "--tasks", "stereoset", "--data-dir", "{files}", "--checkpoint", "77"],
        "has no checkpoint '77'",
    ),
    "no run": (["--run", "{tmp}", "--tasks", "piqa"], "no run's folder|not here"),
    "no folder": (["--run", "{tmp}/none", "--tasks", "piqa"], "--run .*does not exist"),
    "no data folder": (
        ["--run", "{run}", "--tasks", "piqa", "--data-dir", "{tmp}/none"], "data_dir .*not exist"
    ),
    "a limit 0": (["--run", "{run}", "--tasks", "piqa", "--limit", "0"], "--limit is 0; accepted"),
    "a limit of text": (["--run", "{run}", "--tasks", "piqa", "--limit", "x"], "limit is 'x'"),
    "fewshot -1": (["--run", "{run}", "--tasks", "piqa", "--fewshot=-1"], "--fewshot is -1; acc"),
    "no templates": (["--run", "{run}", "--tasks", "templates"], "with --templates FILE"),
    "no alternatives": (
        ["--run", "{run}", "--templates", "{bare}"], "bare.txt, line 1 .*; accepted"
    ),
    "no questions": (["--run", "{run}", "--tasks", "mt_bench"], "question.jsonl; accepted: --data"),
    "a measure of classifiers": (
        ["--run", "{run}", "--tasks", "classes"],
        "classes is a measure of classifiers; accepted: for the run of a classif",
    ),
    "examples for nothing": (
        ["--run", "{run}", "--tasks", "stereoset", "--data-dir", "{files}", "--fewshot", "2"],
        "--fewshot is 2, and no task puts examples into prompts; accepted",
    ),
    "a chat of sentences": (
        ["--run", "{run}", "--tasks", "stereoset", "--data-dir", "{files}", "--chat"],
        "--chat is given, and the measures of bias score sentences as they are; accepted",
    ),
    "no room": (
        ["--run", "{run}", "--tasks", "alpaca_gsm8k", "--data-dir", "{files}"],
        "alpaca_gsm8k asks for answers of up to 1024 tokens, and the model reads .*; accepted",
    ),
    "no sentences": (["--run", "{run}", "--tasks", "winobias"], "winobias reads .*accepted: --dat"),
    "a second template": (
        ["--run", "{run}", "--tasks", "alpaca_humaneval", "--data-dir", "{files}", "--chat",
         "--allow-code-execution"],
        "--chat would put alpaca_humaneval's prompts into a second template",
    ),
    "no chat template": (
        ["--run", "{run}", "--tasks", "piqa", "--data-dir", "{files}", "--chat"],
        "--chat renders .* chat template, and it has none; accepted",
    ),
    "a file for a folder": (
        ["--run", "{run}", "--tasks", "piqa", "--out", "{bare}"], "bare.txt' is a file; accepted"
    ),
    "a folder for a file": (
        ["--run", "{run}", "--tasks", "piqa", "--out", "{taken}"],
        "results.json is no regular file, and would be replaced; accepted: --out",
    ),
    "results of others": (
        ["--run", "{run}", "--tasks", "piqa", "--out", "{foreign}"],
        "results.json was not written by balora evaluate, and would be replaced; accepted",
    ),
    "samples of others": (
        ["--run", "{run}", "--tasks", "piqa", "--data-dir", "{files}", "--out", "{samples}"],
        "holds samples-x.jsonl, which no evaluation there has written.*; accepted: --out",
    ),
    "a pipe for answers": (
        ["--run", "{run}", "--tasks", "mt_bench", "--data-dir", "{files}", "--out", "{pipe}"],
        "mt_bench-adapter.jsonl is no regular file; accepted",
    ),
    "a seed for nothing": (
        ["--run", "{run}", "--tasks", "seat", "--seed", "3"], "--seed is 3, and seat has no use",
    ),
    "a limit for nothing": (
        ["--run", "{run}", "--templates", "{files}/templates.txt", "--limit", "3"],
        "--limit is 3, and templates has no use for it; accepted",
    ),
    "answers of others": (
        ["--run", "{run}", "--tasks", "piqa", "--data-dir", "{files}", "--out", "{notes}"],
        "answers-adapter.jsonl cannot be read .it holds something else.; accepted",
    ),
    "an unknown option": (["--run", "{run}", "--taskz", "x"], "no option taskz; accepted: tasks"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "match"), BAD.values(), ids=BAD)
def test_an_evaluation_is_refused(run, files, tmp_path, capsys, arguments, match):
    bare = tmp_path / "bare.txt"
    bare.write_text("no alternatives here\n")
    taken = tmp_path / "taken"
    (taken / "results.json").mkdir(parents=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "results.json").write_text('{"models": "of another tool"}')
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "answers-adapter.jsonl").write_text("my notes")
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "mt_bench-adapter.jsonl")
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "samples-x.jsonl").write_text("mine")
    places = {
        "{run}": run, "{tmp}": tmp_path, "{files}": files, "{bare}": bare, "{taken}": taken,
        "{pipe}": pipe, "{samples}": samples, "{foreign}": foreign, "{notes}": notes,
    }  # fmt: skip
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    before = sorted(run.rglob("*")), sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["evaluate", *arguments])
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert exit_info.value.code == 2, sentence
    assert re.search(match, sentence), sentence
    assert (sorted(run.rglob("*")), sorted(tmp_path.rglob("*"))) == before
