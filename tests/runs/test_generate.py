"""The command `balora generate`."""

import pytest

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune


@pytest.fixture(scope="module")
def run(run_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generating") / "run"
    finetune(read_config(run_arguments(folder, "--method", "pissa")))
    return folder


def _generate(capsys, *arguments):
    """The captured output of `balora generate` with these arguments."""
    main(["generate", "--max_new_tokens", "5", *map(str, arguments)])
    return capsys.readouterr()


def test_one_prompt_streams_the_text_of_a_batch(run, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("1+2=\n\n3+4=\n")
    batch = _generate(capsys, "--run", run, "--prompts", prompts).out.splitlines()
    single = _generate(capsys, "--run", run, "--prompt", "3+4=").out
    assert batch[0] == "> 1+2=" and batch[-2] == "> 3+4="
    assert single.rstrip("\n") == batch[-1]


def test_compare_prints_the_base_too(run, tiny_llama, capsys):
    both = _generate(capsys, "--run", run, "--prompt", "1+2=", "--compare").out
    base = _generate(capsys, "--model", tiny_llama, "--prompt", "1+2=").out
    tuned = _generate(capsys, "--run", run, "--prompt", "1+2=").out
    assert both == f"[base]\n{base}[fine-tuned]\n{tuned}"


def test_samples_depend_on_the_seed_alone(run, capsys):
    options = ["--run", run, "--prompt", "5+5=", "--temperature", "2.0", "--top_p", "0.9"]
    texts = [_generate(capsys, *options, "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_every_prompt_has_its_own_draw_and_heading(run, tmp_path, capsys):
    """Also the only prompt of a last batch, and the same prompt twice."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("5+5=\n" * 3)
    options = ["--run", run, "--prompts", prompts, "--batch_size", "1", "--temperature", "3"]
    lines = _generate(capsys, *options).out
    assert lines.count("> 5+5=\n") == 3
    assert len(set(lines.split("> 5+5=\n")[1:])) == 3


def test_the_likeliest_of_one_is_greedy(run, capsys):
    greedy = _generate(capsys, "--run", run, "--prompt", "5+5=").out
    options = ["--temperature", "3", "--top_k", "1"]
    assert _generate(capsys, "--run", run, "--prompt", "5+5=", *options).out == greedy


def test_an_unfinished_run_uses_its_last_checkpoint(run, capsys):
    """A note names the checkpoint, and the text is the same."""
    summary = (run / "summary.json").read_text()
    finished = _generate(capsys, "--run", run, "--prompt", "1+2=")
    (run / "summary.json").unlink()
    unfinished = _generate(capsys, "--run", run, "--prompt", "1+2=")
    (run / "summary.json").write_text(summary)
    assert "using its checkpoint of step 6" in unfinished.err.replace("\n", " ")
    assert not finished.err
    assert unfinished.out == finished.out


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
def test_bad_arguments_are_refused(run, tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(["generate", *(argument.format(run=run, tmp=tmp_path) for argument in arguments)])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and sentence in message and "\n" not in message
