"""The code in the documents runs as it stands there, and what they name is there."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import layout
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)

SMALL = """
model: {source: my_model_folder, dtype: float32}
adapter: {rank: 4, init: pissa}
data: {train: sums/train.jsonl, eval: sums/eval.jsonl, template: "{question}", max_length: 32}
training: {steps: 6, batch_size: 8, precision: float32}
output: {dir: runs/unused}
"""


def _section(document, heading):
    """The text below a heading, down to the next heading of any level."""
    text = (ROOT / document).read_text()
    return re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", text, re.M | re.S)[1]


def _blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def _run(command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _run_example(text, folder, *more):
    """Write a section's plugin file, run its command, and return the summary of the run."""
    (code,) = _blocks(text)
    name = re.match(r"# (\w+\.py)\n", code)[1]
    (folder / name).write_text(code)
    (command,) = re.findall(r"^    balora (quickstart .*)$", text, re.M)
    start = [sys.executable, "-c", "from balora_jax.cli import main; main()"]
    _run([*start, *shlex.split(command), *more], folder)
    (summary,) = folder.glob("runs/*/summary.json")
    return json.loads(summary.read_text())


def test_contributings_term_trains(tmp_path):
    summary = _run_example(_section("CONTRIBUTING.md", "A term"), tmp_path)
    assert 0 < summary["terms"]["confidence"][0] < 1


def test_the_documents_term_trains(tmp_path):
    short = ["--training.steps", "2", "--data.limit", "64", "--data.eval_limit", "32"]
    short += ["--data.probes", "null", "--output.dir", "runs/documents"]
    summary = _run_example(
        _section("docs/python.md", "A regularizer of your own"), tmp_path, *short
    )
    assert "reverse_kl" in summary["terms"]


@pytest.mark.parametrize("number, kind", [(0, "Linen"), (1, "NNX")])
def test_the_documents_loops_learn(number, kind):
    code = _blocks(_section("docs/python.md", "The three terms in your own loop"))[number]
    values = []
    for updates in (1, 3):
        names = {}
        exec(code.replace("range(3)", f"range({updates})"), names)
        values.append(float(names["value"]))
    assert values[1] < values[0] - 0.1, kind


def test_the_documents_runs_from_python(tmp_path, monkeypatch, tiny_llama, sums):
    """With a smaller model and data in the places of those that the page names."""
    shutil.copytree(tiny_llama, tmp_path / "my_model_folder")
    shutil.copytree(sums, tmp_path / "sums")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    for heading in ("A run", "A model, its adapters and the terms"):
        (code,) = _blocks(_section("docs/python.md", heading))
        exec(code.replace('"steps": 10', '"steps": 2'), names)
    assert names["again"].step == 2
    assert names["logits"].shape == names["teacher"].shape
    assert jax.tree.structure(names["again"].adapter) == jax.tree.structure(names["adapter"])


def test_documents_name_files_that_are_there():
    for document in DOCUMENTS:
        named = re.findall(
            r"`((?:tests|balora_jax|benchmarks|configs|docs)/[\w./-]+)`", document.read_text()
        )
        # Names in capitals stand for one of one's own.
        real = [name for name in named if not re.search(r"\b(FAMILY|NAME)\b", name)]
        missing = [name for name in real if not (ROOT / name).exists()]
        assert not missing, (document, missing)


def test_readmes_layout_is_that_of_the_files():
    """`python tests/cases/layout.py` writes it anew."""
    assert layout.TREE.search(layout.README.read_text())[0] == layout.tree()


def test_the_documents_adapters_on_an_nnx_model():
    blocks = _blocks(_section("docs/python.md", "The three terms in your own loop"))
    names = {}
    for code in blocks[1:3]:
        exec(code, names)
    assert names["logits"].shape == (4, 9, 100)
