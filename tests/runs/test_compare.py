"""The comparison of methods: its runs, its choice of a learning rate, and its table."""

import json
import shutil
import types

import pytest

from balora_jax.cli import main
from balora_jax.runs import compare as comparison
from balora_jax.runs.compare import table


@pytest.fixture(scope="module")
def shared_arguments(run_arguments, tmp_path_factory):
    """The arguments that all runs share: no output folder."""
    arguments = run_arguments(
        tmp_path_factory.mktemp("none"), "--training.steps", "2", "--adapter.init", "null"
    )
    index = arguments.index("--output.dir")
    return arguments[:index] + arguments[index + 2 :]


@pytest.fixture(scope="module")
def compared(shared_arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    options = [
        "--out",
        str(out),
        "--methods",
        "lora",
        "--seeds",
        "0",
        "1",
        "--learning_rates",
        "1e-2",
        "1e-6",
    ]
    main(["compare", *options, *shared_arguments])
    return out, [*options, *shared_arguments]


def test_only_the_best_learning_rate_runs_with_the_other_seeds(compared):
    out, _ = compared
    finished = sorted(path.parent.name for path in out.glob("*/summary.json"))
    # Both rates are tried with the first seed.
    assert finished == ["lora-lr0.01-seed0", "lora-lr0.01-seed1", "lora-lr1e-06-seed0"]
    results = json.loads((out / "comparison.json").read_text())
    assert list(results) == ["lora, rate 0.01"]
    summary = json.loads((out / "lora-lr0.01-seed1" / "summary.json").read_text())
    assert results["lora, rate 0.01"][1]["held-out loss"] == summary["eval_loss_last"]
    scores = [
        json.loads((out / f"lora-lr{rate}-seed0" / "summary.json").read_text())["score"]
        for rate in ("0.01", "1e-06")
    ]
    assert (
        (out / "comparison.md")
        .read_text()
        .endswith(
            "\n| score, first seed | rate 0.01 | rate 1e-06 |\n| --- | --- | --- |\n"
            f"| lora | {scores[0]:.3f} | {scores[1]:.3f} |\n"
        )
    )


def test_finished_runs_are_not_repeated(compared, capsys):
    out, arguments = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    main(["compare", *arguments])
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    *printed, path = capsys.readouterr().out.splitlines()
    assert path == str(out / "comparison.md")
    # On the screen a method is a column, and a measure a row.
    header, *rows = (out / "comparison.md").read_text().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, *rows[1:])]
    for name, *values in list(zip(*cells, strict=True))[1:]:
        [line] = [line for line in printed if line.startswith(f"{name} ")]
        assert line.split() == " ".join([name, *values]).split()


def test_a_method_with_a_given_rate_tries_no_other(compared):
    out, arguments = compared
    at_its_rate = [text if text != "lora" else "lora@1e-2" for text in arguments]
    main(["compare", *at_its_rate])
    assert list(json.loads((out / "comparison.json").read_text())) == ["lora, rate 0.01"]
    assert len(list(out.glob("*/summary.json"))) == 3


def test_another_configuration_in_the_same_folder_is_refused(compared, capsys):
    _, arguments = compared
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *arguments, "--data.max_length", "16"])
    assert "holds a run with another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--methods", "dora"], "--methods has 'dora'; accepted: ba-lora, pissa, lora, full"),
        (
            ["--methods", "lora", "pissa@fast"],
            "--methods has 'pissa@fast', and 'fast' is not a number",
        ),
        (["--methods", "lora@"], "'' is not a number"),
        (["--methods", "lora@-1"], "learning_rate is -1"),
        (["--methods", "lora@nan"], "learning_rate is nan; accepted: a number above 0"),
        (["--seeds", "one"], "one"),
        (["--seeds", "1", "0", "1"], "--seeds has 1 twice; accepted: different whole numbers"),
        (["--adapter.rnak", "4"], "there is no option adapter.rnak; accepted: adapter.rank"),
        (["--learning_rates", "0.1", "0.2", "--data.eval", "null"], "data.eval is null"),
    ],
)
def test_bad_arguments_are_refused(shared_arguments, tmp_path, capsys, wrong, message):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--out", str(tmp_path / "new"), *shared_arguments, *wrong])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_table_has_means_deviations_and_values_before_training():
    runs = [
        {"facts_known": 0.5, "facts_known before": 0.9, "seconds": 100.0},
        {"facts_known": 0.7, "facts_known before": 0.9, "seconds": 120.0},
    ]
    assert table({"lora": runs}) == (
        "|  | facts known | seconds |\n"
        "| --- | --- | --- |\n"
        "| before | 0.900 |  |\n"
        "| lora | 0.600 ± 0.141 | 110 ± 14 |\n"
    )


def _options(out, *more):
    return ["compare", "--out", str(out), "--seeds", "0", "1", *more]


def _times(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("*/*")}


def test_a_rate_that_diverges_is_never_used(shared_arguments, tmp_path, capsys, any_rate):
    rates = ["--methods", "lora", "--learning_rates", "1e30", "1e-3"]
    main([*_options(tmp_path, *rates), *shared_arguments])
    assert list(json.loads((tmp_path / "comparison.json").read_text())) == ["lora, rate 0.001"]
    *_, searched = (tmp_path / "comparison.md").read_text().splitlines()
    assert searched.startswith("| lora | diverged | -")
    assert "the loss is not finite at step" in capsys.readouterr().out
    note = json.loads((tmp_path / "lora-lr1e+30-seed0" / "diverged.json").read_text())
    assert note["message"].startswith("the loss is not finite at step")
    # The first seed showed it.
    assert not (tmp_path / "lora-lr1e+30-seed1").exists()

    before = _times(tmp_path)
    main([*_options(tmp_path, *rates), *shared_arguments])
    assert _times(tmp_path) == before
    assert "lora-lr1e+30-seed0 diverged; to run it again, delete" in capsys.readouterr().out


def test_every_rate_diverges(shared_arguments, tmp_path, any_rate):
    methods = ["--methods", "lora", "pissa@1e-3", "--learning_rates", "1e30", "1e31"]
    main([*_options(tmp_path, *methods), *shared_arguments])
    results = json.loads((tmp_path / "comparison.json").read_text())
    assert results["lora, every rate"] == [None, None]
    assert None not in results["pissa, rate 0.001"]
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert "| lora, every rate | diverged | diverged |" in lines
    assert lines[-1] == "| lora | diverged | diverged |"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[1]",
        "null",
        '"text"',
        "{}",
        "[" * 100_000,
        b"\xff\xfe",
        {"seconds": "fast"},
        {"seconds": None},
        {"score": [1]},
        {"eval_loss_last": {}},
        {"metrics": 3},
        {"metrics": {"accuracy": "high"}},
        {"probes": {"facts_known": [1]}},
        {"seconds": 10**400},
    ],
    ids=lambda damage: str(damage)[:30],
)
def test_a_damaged_summary_is_written_anew(compared, tmp_path, capsys, monkeypatch, damage):
    out, arguments = compared
    cell = tmp_path / "lora-lr0.01-seed0"
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = cell / "summary.json"
    whole = path.read_bytes()
    if isinstance(damage, dict):
        damage = json.dumps(json.loads(whole) | damage)
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    finished = []

    def finish(config, console):
        finished.append(config.output.dir)
        path.write_bytes(whole)
        summary = comparison.Summary.of_json(json.loads(whole))
        return types.SimpleNamespace(summary=summary)

    monkeypatch.setattr(comparison, "finetune", finish)
    arguments = [str(tmp_path) if text == str(out) else text for text in arguments]
    main(["compare", *arguments])
    assert finished == [str(cell)]
    printed = "".join(capsys.readouterr().out.splitlines())
    assert f"{path} is damaged (" in printed
    assert printed.count("is damaged") == 1


def test_a_killed_comparison_goes_on(shared_arguments, tmp_path, monkeypatch):
    """The runs that had finished are not repeated."""
    run = comparison.finetune

    def stopped_at_the_second(config, console):
        if config.training.seed == 1:
            raise KeyboardInterrupt
        return run(config, console)

    arguments = [*_options(tmp_path, "--methods", "lora"), *shared_arguments]
    monkeypatch.setattr(comparison, "finetune", stopped_at_the_second)
    with pytest.raises(SystemExit, match="130"):
        main(arguments)
    before = _times(tmp_path)
    assert before
    assert not (tmp_path / "comparison.json").exists()

    monkeypatch.setattr(comparison, "finetune", run)
    main(arguments)
    after = _times(tmp_path)
    assert {path: after[path] for path in before} == before
    assert None not in json.loads((tmp_path / "comparison.json").read_text())["lora"]


def test_a_score_that_is_not_finite_counts_as_diverged(compared, tmp_path):
    out, arguments = compared
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "lora-lr0.01-seed0" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": float("nan")}))
    arguments = [str(tmp_path) if text == str(out) else text for text in arguments]
    main(["compare", *arguments])
    assert list(json.loads((tmp_path / "comparison.json").read_text())) == ["lora, rate 1e-06"]


def test_the_table_has_diverged_runs_and_numbers_of_all_sizes():
    results = {
        "full": [None, None],
        "lora": [{"loss": 2.0, "loss before": 3.0, "seconds": 120.0}, None],
        "pissa": [{"loss": 5e9, "loss before": 3.0}, {"loss": 6e9, "loss before": 3.0}],
    }
    assert table(results) == (
        "|  | loss | seconds |\n"
        "| --- | --- | --- |\n"
        "| before | 3.000 |  |\n"
        "| full | diverged | diverged |\n"
        "| lora (1 of 2 diverged) | 2.000 | 120 |\n"
        "| pissa | 5.500e+09 ± 7.071e+08 |  |\n"
    )
    assert table({"lora": [None]}) == "|  | result |\n| --- | --- |\n| lora | diverged |\n"
