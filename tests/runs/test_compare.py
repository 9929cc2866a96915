"""The comparison of methods: its runs, its choice of a learning rate, and its table."""

import json

import pytest

from balora_jax.cli import main
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
    assert capsys.readouterr().out.strip() == (out / "comparison.md").read_text().strip()


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
        (["--methods", "lora@nan"], "learning_rate is 'nan'"),
        (["--seeds", "one"], "one"),
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
