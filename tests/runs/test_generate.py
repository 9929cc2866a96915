"""balora generate and balora doctor, as typed."""

import json

import pytest

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.doctor import self_test
from balora_jax.runs.finetune import finetune


@pytest.fixture(scope="module")
def run(run_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generating") / "run"
    finetune(read_config(run_arguments(folder, "--method", "pissa")))
    return folder


def _said(capsys, *arguments):
    main(["generate", "--max_new_tokens", "5", *map(str, arguments)])
    return capsys.readouterr()


def test_one_prompt_streams_what_a_batch_gives(run, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("1+2=\n\n3+4=\n")
    batch = _said(capsys, "--run", run, "--prompts", prompts).out.splitlines()
    single = _said(capsys, "--run", run, "--prompt", "3+4=").out
    assert batch[0] == "> 1+2=" and batch[-2] == "> 3+4="
    assert single.rstrip("\n") == batch[-1]


def test_compare_shows_the_base_too(run, tiny_llama, capsys):
    both = _said(capsys, "--run", run, "--prompt", "1+2=", "--compare").out
    base = _said(capsys, "--model", tiny_llama, "--prompt", "1+2=").out
    tuned = _said(capsys, "--run", run, "--prompt", "1+2=").out
    assert both == f"[base]\n{base}[fine-tuned]\n{tuned}"


def test_draws_depend_on_the_seed_alone(run, capsys):
    texts = [
        _said(
            capsys,
            "--run",
            run,
            "--prompt",
            "5+5=",
            "--temperature",
            "2.0",
            "--top_p",
            "0.9",
            "--seed",
            seed,
        ).out
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_run_that_has_not_ended(run, capsys):
    """The last checkpoint is used, and said so."""
    summary = (run / "summary.json").read_text()
    ended = _said(capsys, "--run", run, "--prompt", "1+2=")
    (run / "summary.json").unlink()
    still = _said(capsys, "--run", run, "--prompt", "1+2=")
    (run / "summary.json").write_text(summary)
    assert "using its checkpoint of step 6" in still.err.replace("\n", " ") and not ended.err
    assert still.out == ended.out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--run", "{tmp}", "--prompt", "x"], "no run's folder"),
        (["--run", "{run}", "--prompt", " "], "a prompt is empty"),
        (["--run", "{run}", "--prompt", "x" * 130], "fewer than the model's 128 positions"),
        (["--run", "{run}", "--prompts", "{tmp}/none.txt"], "is no file"),
        (["--prompt", "x"], "exactly one of --run DIR and --model SOURCE"),
        (["--run", "{run}"], "exactly one of --prompt TEXT and --prompts FILE"),
        (["--run", "{run}", "--prompt", "x", "--temperature", "-1"], "temperature is -1"),
        (
            ["--run", "{run}", "--prompt", "x", "--checkpoint", "5"],
            "no checkpoint '5'; accepted: latest, best, or of",
        ),
    ],
)
def test_bad_input(run, tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", *(argument.format(run=run, tmp=tmp_path) for argument in arguments)])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and sentence in said and "\n" not in said


def test_doctor(capsys):
    main(["doctor"])
    said = capsys.readouterr().out
    assert "jaxlib" in said and "self-test: adapter, regularizers and step work" in said.replace(
        "\n", " "
    )


def test_the_self_test_learns():
    losses = self_test()
    assert losses[-1] < losses[0] and json.dumps(losses)
