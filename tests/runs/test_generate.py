"""The command `balora generate`."""

import io
import json
import shutil

import jax
import pytest

import balora_jax
from balora_jax.cli import main
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.parse import read_config
from balora_jax.runs import generate as generate_module
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


def test_an_adapter_on_its_base_is_the_run(run, tiny_llama, capsys):
    """Of the run's own folder; those of PEFT are compared in tests/adapters."""
    template = balora_jax.load_run(run).config.data.template
    prompt = ["--prompt", "1+2=", "--template", template]
    tuned = _generate(capsys, "--run", run, *prompt).out
    options = ["--model", tiny_llama, "--adapter", run / "adapter", *prompt]
    assert _generate(capsys, *options).out == tuned
    base = _generate(capsys, "--model", tiny_llama, *prompt).out
    assert _generate(capsys, *options, "--compare").out == f"[base]\n{base}[fine-tuned]\n{tuned}"


@pytest.mark.parametrize("devices", [["--fsdp", "2"], ["--fsdp", "2", "--tensor", "2"]])
def test_weights_that_are_divided_give_the_same_text(run, tiny_llama, capsys, devices):
    for model in (["--run", run], ["--model", tiny_llama, "--adapter", run / "adapter"]):
        arguments = [*model, "--prompt", "1+2="]
        whole = _generate(capsys, *arguments).out
        assert _generate(capsys, *arguments, *devices).out == whole
    prompted = generate_module._load_model(
        GenerateOptions(model=str(tiny_llama), prompt="a", fsdp=2, dtype="bfloat16")
    )
    leaves = jax.tree.leaves(prompted.params)
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}
    assert any(len(leaf.sharding.device_set) == 2 for leaf in leaves)
    assert min(leaf.addressable_shards[0].data.size / leaf.size for leaf in leaves) == 0.5


def test_a_run_in_another_element_type_still_answers(run, capsys):
    assert _generate(capsys, "--run", run, "--prompt", "1+2=", "--dtype", "bfloat16").out.strip()


def test_prompts_of_files_and_standard_input_are_the_same(run, tmp_path, capsys, monkeypatch):
    texts = ["1+2=", "3+4="]
    lines = tmp_path / "prompts.txt"
    lines.write_text("\n".join(texts))
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    printed = _generate(capsys, "--run", run, "--prompts", lines).out
    assert _generate(capsys, "--run", run, "--prompts", rows).out == printed
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.read_bytes())))
    assert _generate(capsys, "--run", run, "--prompts", "-").out == printed
    out = tmp_path / "new" / "out.jsonl"
    options = ["--run", run, "--prompts", lines, "--out", out, "--compare", "--batch_size", "1"]
    assert _generate(capsys, *options).out == f"{out}\n"
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in written] == texts
    assert set(written[0]) == {"prompt", "base", "fine-tuned"}
    assert [row["fine-tuned"] for row in written] == printed.splitlines()[1::2]


def test_a_chat_so_far_is_continued(run, tiny_llama, tmp_path, capsys):
    model = tmp_path / "chatty"
    shutil.copytree(tiny_llama, model)
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    turns = [("user", "1+2="), ("assistant", "3"), ("user", "2+2=")]
    messages = [{"role": role, "content": content} for role, content in turns]
    chat = tmp_path / "chat.jsonl"
    chat.write_text(json.dumps({"messages": messages}) + "\n")
    told = _generate(capsys, "--model", model, "--prompts", chat).out
    text = "user:1+2=;assistant:3;user:2+2=;assistant:"
    plain = tmp_path / "plain.txt"
    plain.write_text(text)
    # Templates write BOS themselves, and this one does not.
    tokenizer = balora_jax.load_run(run).tokenizer
    assert tokenizer(text, add_special_tokens=False) == tokenizer(text)
    assert told == _generate(capsys, "--model", model, "--prompts", plain).out
    messages.append({"role": "assistant", "content": "4"})
    chat.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(SystemExit):
        main(["generate", "--model", str(model), "--prompts", str(chat)])
    assert "line 1: the last turn is the assistant's; accepted" in capsys.readouterr().err


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
        (["--run", "{run}", "--prompt", "x", "--adapter", "{run}/adapter"], "with --model SOURCE"),
        (["--model", "{run}", "--prompt", "x", "--adapter", "{tmp}/none"], "does not exist"),
        (["--run", "{run}", "--prompt", "x", "--out", "{tmp}/a.txt"], "ends in .jsonl"),
        (
            ["--run", "{run}", "--prompt", "x", "--out", "{run}/metrics.jsonl"],
            "accepted: a new file",
        ),
        (["--run", "{run}", "--prompts", "{run}/metrics.jsonl"], "has no field prompt"),
        (["--run", "{run}", "--prompt", "x", "--fsdp", "0"], "--fsdp is 0; accepted: null, or a"),
        (["--run", "{run}", "--prompt", "x", "--fsdp", "99"], "does not fit the 8 devices here"),
        (["--run", "{run}", "--prompt", "x", "--dtype", "int8"], "accepted: float32, bfloat16"),
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
