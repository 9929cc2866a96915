"""Bad input ends with one sentence and exit code 2, and nothing is written."""

import json
import re
import shutil

import pytest

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.training.run_folder import RunFolder


def _error_message(arguments, capsys):
    """The single line that `balora train` prints before it exits with code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message.startswith("balora: ") and "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--training.stepz", "3"], r"no option training\.stepz; accepted: training\.steps"),
        (["--adapter.rnk", "3"], r"no option adapter\.rnk; accepted: adapter\.rank"),
        (["--adapter.rank", "4.5"], r"adapter\.rank is '4\.5'; accepted"),
        (
            ["--adapter.rank", "17"],
            r"adapter\.rank is 17, larger than.*k_proj \(32 x 16\).*at most 16",
        ),
        (["--adapter.targets", "[q_proj, c_attn]"], r"'c_attn' matches no linear layer.*q_proj"),
        (
            ["--adapter.init", "pisa"],
            r"adapter\.init is 'pisa'; accepted: lora, pissa, .*, or a PEFT",
        ),
        (
            ["--optimizer.loraplus_lr_ratio", "0"],
            r"loraplus_lr_ratio is 0.*a number above 0, at most 10000",
        ),
        (["--adapter.dropout", "1"], r"adapter\.dropout is 1.*accepted"),
        (["--regularizers.consistency.weight", "-0.1"], r"consistency\.weight is -0\.1; accepted"),
        (["--regularizers.svd.k", "0"], r"svd\.k is 0"),
        (
            ["--regularizers.svd.groups", "3"],
            r"svd\.groups is 3; accepted: a divisor of the 4 examples",
        ),
        (["--method", "lora"], r"adapter\.init is 'pissa' under method lora"),
        (
            ["--training.batch_size", "6", "--training.accumulation", "4"],
            r"accumulation is 4.*divisor",
        ),
        (["--training.epochs", "1"], "exactly one of the two"),
        (
            ["--mesh.data", "4", "--mesh.fsdp", "4"],
            r"data 4 x fsdp 4 x tensor 1 does not fit the 8 devices",
        ),
        (
            ["--mesh.data", "8"],
            r"batch_size 8 .* = 4 examples.*not divisible by mesh data x fsdp = 8",
        ),
        (["--model.source", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--data.train", "/nowhere/x.jsonl"], r"/nowhere/x\.jsonl"),
        (
            ["--data.fields", '{"instruction": "query", "response": "answer"}'],
            "query.*question, answer|answer, question",
        ),
        (["--output.dir", "/dev/null"], "is a device; accepted: a folder"),
    ],
)
def test_bad_values_are_refused(run_arguments, tmp_path, capsys, more, sentence):
    message = _error_message(run_arguments(tmp_path / "run", *more), capsys)
    assert re.search(sentence, message), message
    assert not (tmp_path / "run").exists()


def _rows(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "lines, sentence",
    [
        (['{"question": "1", "answer": "2"}', '{"question": '], "rows.jsonl.*line 2"),
        ([], "rows.jsonl"),
        ([json.dumps({"question": "x" * 200, "answer": "y"})], r"max_length"),
        (['{"question": "1"}'], "answer"),
    ],
)
def test_bad_data_files_are_refused(run_arguments, tmp_path, capsys, lines, sentence):
    rows = _rows(tmp_path / "rows.jsonl", lines)
    message = _error_message(run_arguments(tmp_path / "run", "--data.train", rows), capsys)
    assert re.search(sentence, message), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fault", ["no config", "no weights", "pickle", "type", "truncated", "positions"]
)
def test_bad_model_folders_are_refused(run_arguments, tiny_llama, tmp_path, capsys, fault):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = folder / "config.json"
    weights = folder / "model.safetensors"
    values = json.loads(config.read_text())
    if fault == "no config":
        config.unlink()
    elif fault == "no weights":
        weights.unlink()
    elif fault == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        changes = {"type": {"model_type": "mamba"}, "positions": {"max_position_embeddings": 8}}
        config.write_text(json.dumps(values | changes[fault]))
    message = _error_message(run_arguments(tmp_path / "run", "--model.source", str(folder)), capsys)
    expected = {
        "no config": "config.json",
        "no weights": "safetensors",
        "pickle": "pickle",
        "type": "mamba.*llama",
        "truncated": "model.safetensors",
        "positions": "at most the model's 8",
    }
    assert re.search(expected[fault], message), message
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_stays_unchanged(run_arguments, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds files that are no run's" in _error_message(run_arguments(tmp_path), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_with_another_run_stays_unchanged(run_arguments, tmp_path, capsys):
    RunFolder(str(tmp_path)).create(read_config(run_arguments(tmp_path)), {})
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "holds another run" in _error_message(run_arguments(tmp_path), capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", *before])


@pytest.mark.parametrize(
    "more, named",
    [(["--adapter.rank", "8"], "adapter.rank was 4, is 8"), (["--training.seed", "1"], "seed")],
)
def test_resuming_with_another_configuration_is_refused(
    run_arguments, tmp_path, capsys, more, named
):
    RunFolder(str(tmp_path)).create(read_config(run_arguments(tmp_path)), {})
    assert named in _error_message(
        run_arguments(tmp_path, "--output.resume", "true", *more), capsys
    )


def test_resuming_may_change_saving_and_evaluation(run_arguments, tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.create(read_config(run_arguments(tmp_path)), {})
    more = [
        "--output.resume",
        "true",
        "--output.save_every",
        "7",
        "--training.eval_every",
        "3",
        "--output.merge",
        "true",
    ]
    assert folder.check(read_config(run_arguments(tmp_path, *more)))


def test_a_folder_without_a_newer_option_resumes(run_arguments, tmp_path):
    """An option that the folder's configuration lacks is taken to have its default."""
    folder = RunFolder(str(tmp_path))
    folder.create(read_config(run_arguments(tmp_path)), {})
    # An older version wrote no hash of the lines either.
    lines = folder.config.read_text().splitlines(keepends=True)[1:]
    older = [line for line in lines if "loraplus_lr_ratio" not in line]
    assert len(older) == len(lines) - 1
    folder.config.write_text("".join(older))
    assert folder.check(read_config(run_arguments(tmp_path, "--output.resume", "true")))


def test_a_loss_that_is_not_finite_stops_the_run(run_arguments, tmp_path, capsys, any_rate):
    """The message names the step and the parts, and the last good checkpoint is kept."""
    diverging = [
        "--optimizer.learning_rate",
        "1e30",
        "--optimizer.clip_norm",
        "null",
        "--output.save_every",
        "1",
    ]
    message = _error_message(
        run_arguments(tmp_path / "run", *diverging, "--optimizer.schedule", "constant"), capsys
    )
    assert (
        "not finite at step" in message and "task" in message and "last good checkpoint" in message
    )
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [
        int(path.name)
        for path in (tmp_path / "run" / "checkpoints").iterdir()
        if path.name.isdecimal()
    ]
    assert steps and max(steps) <= max(record["step"] for record in records)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_help_has_the_usage_of_its_own_command(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: balora {command} [")


def test_unknown_command_and_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == 2 and "accepted: train" in capsys.readouterr().err
    main([])
    assert "export" in capsys.readouterr().out
