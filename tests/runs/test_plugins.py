"""A run with a registered regularizer, from the plugin file to the summary."""

import json
import re

import numpy as np
import pytest
from classification_cases import letter_rows, save_model, write_rows
from PIL import Image
from plugin_cases import PLUGIN, no_trace

from balora_jax.cli import main
from balora_jax.config.plugins import load_plugin
from balora_jax.config.regularizers import REGISTERED
from balora_jax.errors import BadInput


@pytest.fixture(scope="module", autouse=True)
def rendered_plots():
    """Plots are rendered here."""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "my_terms.py"
    path.write_text(PLUGIN)
    return path


def command(*arguments):
    """Run a command as a new process would: with nothing registered."""
    with no_trace():
        main([str(argument) for argument in arguments])


def error_message(capsys, *arguments):
    """The last line that the command prints before it exits with code 2."""
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and sentence.startswith("balora: ")
    return sentence


TERMS = [
    "--regularizers.reverse_kl.weight", "0.1",
    "--regularizers.reverse_kl.schedule", "two-phase",
    "--regularizers.reverse_kl.delay", "0.3",
    "--regularizers.mean_square.weight", "0.01",
]  # fmt: skip


@pytest.fixture
def trained(run_arguments, plugin, tmp_path):
    folder = tmp_path / "run"
    command("train", "--plugin", plugin, *run_arguments(folder), *TERMS)
    return folder


def test_metrics_plots_summary_and_card_have_the_terms(trained, plugin):
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in steps if "loss" in record]
    weights = [record["weight_reverse_kl"] for record in steps]
    # 0 for 0.3 of the 6 steps, then a ramp shorter than one step.
    np.testing.assert_allclose(weights, [0, 0, 1 / 15, 0.1, 0.1, 0.1], rtol=1e-4)
    for record in steps:
        assert record["reverse_kl"] >= -1e-6 and record["mean_square"] > 0
        parts = sum(
            record[f"weight_{name}"] * record[name]
            for name in ("consistency", "diversity", "svd", "reverse_kl", "mean_square")
        )
        assert record["loss"] == pytest.approx(record["task"] + parts, rel=1e-5)
    summary = json.loads((trained / "summary.json").read_text())
    assert set(summary["terms"]) >= {"reverse_kl", "mean_square", "svd"}
    # Five plots side by side.
    assert Image.open(trained / "plots" / "regularizers.png").size[0] > 5 * 300
    assert "reverse_kl 0.1 (two-phase)" in (trained / "adapter" / "README.md").read_text()
    config = (trained / "config.yaml").read_text()
    assert re.search(rf"path: {re.escape(str(plugin))}\n\s+sha256: [0-9a-f]{{64}}", config)


def test_a_run_resumes_only_with_its_plugin(trained, plugin, run_arguments, capsys, tmp_path):
    config = ["--config", trained / "config.yaml"]
    missing = error_message(capsys, "train", *config, "--output.resume")
    assert f"made with the plugin {plugin}" in missing and f"with --plugin {plugin}" in missing
    generated = ["generate", "--run", trained, "--prompt", "1+1=", "--max_new_tokens", "2"]
    assert f"with --plugin {plugin}" in error_message(capsys, *generated)
    command(*generated, f"--plugin={plugin}")
    command("export", "--run", trained, "--out", tmp_path / "again", "--plugin", plugin)

    # A moved file is the same plugin, an edited one is not.
    moved_plugin = plugin.rename(tmp_path / "elsewhere.py")
    (trained / "summary.json").unlink()
    command("train", *config, "--output.resume", "--plugin", moved_plugin)
    assert (trained / "summary.json").exists()
    moved_plugin.rename(plugin)
    plugin.write_text(PLUGIN + "\n# edited\n")
    changed = error_message(capsys, "train", *config, "--output.resume", "--plugin", plugin)
    assert "is not the one the run was made with" in changed


def test_a_classifier_trains_with_a_plugin(tmp_path, plugin):
    save_model("bert", tmp_path / "bert")
    rows = write_rows(tmp_path / "train.jsonl", letter_rows(32, 0))
    arguments = {
        "model.source": tmp_path / "bert", "model.task": "sequence-classification",
        "model.dtype": "float32", "adapter.rank": 2, "adapter.targets": "all-linear",
        "data.train": rows, "data.eval": rows, "data.labels": 2, "training.steps": 2,
        "training.batch_size": 8, "training.precision": "float32", "mesh.data": 1,
        "regularizers.svd.k": 1, "output.dir": tmp_path / "run",
    }  # fmt: skip
    listed = [text for key, value in arguments.items() for text in (f"--{key}", value)]
    command("train", "--plugin", plugin, *listed, *TERMS)
    assert "reverse_kl" in json.loads((tmp_path / "run" / "summary.json").read_text())["terms"]


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "is no Python file; accepted: a .py file that is there"),
        ("import nothing_of_the_kind", "cannot be imported (ModuleNotFoundError: No module named"),
        ("def broken(:", "cannot be imported (SyntaxError"),
        ("raise SystemExit(0)", "cannot be imported (SystemExit"),
        ("raise GeneratorExit", "cannot be imported (GeneratorExit"),
        ("raise ValueError('a\\n' * 3000)", "cannot be imported (ValueError: a a a"),
        (
            "class E(Exception):\n  def __str__(self):\n    raise ValueError\nraise E",
            "cannot be imported (E)",
        ),
        ("x = 1", "registers no term; accepted: a file that calls balora_jax.register_term"),
        (
            "import balora_jax\nbalora_jax.register_term('svd', print)",
            "there is a term 'svd' already",
        ),
        (
            "import balora_jax\nbalora_jax.register_term('mine', lambda z, t, y: z)",
            "the term mine returns",
        ),
        (
            "import balora_jax\nbalora_jax.register_term('mine', lambda z, t, y: z[..., 0] / 0)",
            "the term mine is not finite",
        ),
    ],
)
def test_bad_plugins_are_refused(run_arguments, tmp_path, capsys, text, sentence):
    path = tmp_path / "plugin.py"
    if text is not None:
        path.write_text(text)
    arguments = ["train", "--plugin", path, *run_arguments(tmp_path / "run")]
    if text is not None and "mine" in text:
        arguments += ["--regularizers.mine.weight", "1"]
    assert sentence in error_message(capsys, *arguments)
    assert not (tmp_path / "run").exists()


def test_a_yaml_file_cannot_load_a_plugin(run_arguments, tmp_path, capsys):
    plugin = tmp_path / "evil.py"
    plugin.write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    config = tmp_path / "config.yaml"
    config.write_text(f"plugins:\n- path: {plugin}\n  sha256: '00'\n")
    sentence = error_message(capsys, "train", "--config", config, *run_arguments(tmp_path / "run"))
    assert "loaded from the command line alone" in sentence
    assert not (tmp_path / "ran").exists()


def test_a_term_that_fails_in_the_step_alone_is_named(run_arguments, tmp_path, capsys):
    """It passes the trial on [2, 3, V], and fails when the step is compiled; nothing is written."""
    path = tmp_path / "shy.py"
    path.write_text(
        "import balora_jax\n"
        "def shy(logits, teacher_logits, targets):\n"
        "    assert logits.shape[0] == 2, 'another shape'\n"
        "    return logits[..., 0]\n"
        "balora_jax.register_term('shy', shy)\n"
    )
    arguments = run_arguments(tmp_path / "run", "--regularizers.shy.weight", "1")
    message = error_message(capsys, "train", "--plugin", path, *arguments)
    assert "the term shy fails on logits" in message and "another shape" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 5000 + ".py", "is no path; accepted: the path of a file"),
        ("~nobody-of-this-name/f.py", "names an unknown user; accepted: the path of a file"),
        ("folder.py", "is a folder; accepted: a file"),
    ],
    ids=["long", "unknown user", "folder"],
)
def test_paths_that_cannot_be_read_are_refused(tmp_path, capsys, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    message = error_message(capsys, "train", "--plugin", name)
    assert reason in message
    assert len(message) < 500


def test_a_refused_plugin_leaves_nothing_registered(tmp_path):
    path = tmp_path / "half.py"
    register = "import balora_jax\nbalora_jax.register_term('half', print)\n"
    with no_trace():
        path.write_text(register + "raise RuntimeError('no')\n")
        with pytest.raises(BadInput, match="RuntimeError: no"):
            load_plugin(str(path))
        assert "half" not in REGISTERED
        path.write_text(register)
        load_plugin(str(path))
        assert "half" in REGISTERED


def test_resuming_with_another_plugin_beside_it_is_refused(trained, plugin, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(
        "import balora_jax\n"
        "balora_jax.register_term('other', lambda z, t, y: z[..., 0])\n"
        "balora_jax.register_term('reverse_kl', lambda z, t, y: z[..., 0], overwrite=True)\n"
    )
    config = ["--config", trained / "config.yaml", "--output.resume"]
    message = error_message(capsys, "train", *config, "--plugin", plugin, "--plugin", other)
    assert "holds a run with another configuration: plugins was" in message
