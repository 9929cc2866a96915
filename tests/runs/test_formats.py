"""The same rows in every form give the same run, and conversations train on every answer."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.runs.finetune import finetune

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
ROWS = [(f"{a}+{b}=", str(a + b)) for a in range(10) for b in range(20)]
FORMS = {
    "roles": lambda q, a: {"instruction": q, "response": a},
    "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
    "trl": lambda q, a: {"prompt": q, "completion": a},
    "openai": lambda q, a: {
        "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    },
    "sharegpt": lambda q, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
}


@pytest.fixture(scope="module")
def chat_model(tiny_llama, tmp_path_factory):
    """The tiny Llama with a chat template."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("chat") / "llama")
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def _run(chat_model, folder, rows, *more):
    path = folder / "rows.jsonl"
    folder.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model.source": chat_model, "model.dtype": "float32", "adapter.rank": 4,
        "adapter.init": "pissa", "data.train": path, "data.template": "chat",
        "data.max_length": 128, "optimizer.learning_rate": 1e-2, "training.steps": 3,
        "training.batch_size": 8, "training.precision": "float32", "mesh.data": 1,
        "output.dir": folder / "run",
    }  # fmt: skip
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    finetune(read_config([*arguments, *more]))
    return load_file(folder / "run" / "adapter" / "adapter_model.safetensors")


def test_five_forms_of_the_same_rows_give_the_same_run(chat_model, tmp_path):
    runs = {
        name: _run(chat_model, tmp_path / name, [form(*row) for row in ROWS])
        for name, form in FORMS.items()
    }
    first = runs.pop("roles")
    for name, adapter in runs.items():
        for tensor, array in adapter.items():
            np.testing.assert_array_equal(array, first[tensor], err_msg=f"{name}: {tensor}")


def _rounds(count):
    turns = []
    for question, answer in ROWS[:count]:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def test_the_loss_counts_every_answer_or_the_last(chat_model, tmp_path, capsys):
    counted = {}
    for loss_on in ("all", "last"):
        rows = [_rounds(3)] * 8
        more = ["--data.loss_on", loss_on, "--training.steps", "1"]
        _run(chat_model, tmp_path / loss_on, rows, *more)
        record = json.loads((tmp_path / loss_on / "run" / "metrics.jsonl").read_text())
        counted[loss_on] = record["response_tokens"]
        assert "turns from messages" in capsys.readouterr().out
    # Each answer is one digit and the end of its turn.
    assert counted == {"all": 8 * 3 * 2, "last": 8 * 2}


def test_conversations_are_answered(chat_model, tmp_path):
    _run(chat_model, tmp_path / "rounds", [_rounds(2)] * 8)
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"messages": _rounds(2)["messages"][:3]}) + "\n")
    out = tmp_path / "out.jsonl"
    run = tmp_path / "rounds" / "run"
    main(["predict", "--run", str(run), "--data", str(asked), "--out", str(out)])
    [row] = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(row["messages"]) == 3 and isinstance(row["prediction"], str)
