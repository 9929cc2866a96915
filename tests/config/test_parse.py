"""From yaml files and arguments to a configuration: what is accepted, moved and refused."""

import dataclasses
import pathlib
import sys

import pytest

from balora_jax.config.other_names import OTHER_NAMES
from balora_jax.config.parse import ASSETS, OLD_ASSETS, read_config
from balora_jax.config.yaml_files import option_names
from balora_jax.errors import BadInput

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Parse the quickstart's configuration with some yaml on top of it."""
    monkeypatch.chdir(ROOT)

    def parse(text, *more):
        path = tmp_path / "more.yaml"
        path.write_text(text)
        return read_config(["--config", str(QUICKSTART), "--config", str(path), *more])

    return parse


@pytest.mark.parametrize(
    "text",
    [
        "model: planted.X",
        "model: {class_path: planted.X}",
        "data: {class_path: planted.X, init_args: {}}",
        "regularizers: planted.X",
        "regularizers: {class_path: planted.X}",
        "regularizers: {svd: planted.X}",
        "regularizers: {svd: {class_path: planted.X}}",
        "mesh: {class_path: planted.X}",
        "class_path: planted.X",
        "plugins: [planted.X]",
        "plugins: [{class_path: planted.X}]",
        "plugins: {class_path: planted.X}",
        "adapter: {targets: {class_path: planted.X}}",
        "training: {steps: {class_path: planted.X}}",
        "data: {eval: [{class_path: planted.X}]}",
        "method: planted.X",
    ],
)
def test_no_yaml_file_imports_a_module(parsed, tmp_path, monkeypatch, text):
    (tmp_path / "planted.py").write_text("class X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput):
        parsed(text)
    assert "planted" not in sys.modules


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nope: 1", "there is no option nope"),
        ("model: {sauce: a}", r"there is no option model\.sauce; accepted: model\.source"),
        ("regularizers: {svd: {kk: 1}}", r"no option regularizers\.svd\.kk; accepted: .*svd\.k"),
        ("regularizers: {svd: null}", r"regularizers\.svd is None; accepted: a section with"),
        ("training: [1, 2]", r"training is \[1, 2\]; accepted: a section with steps"),
        ("training: {steps: many}", r"training\.steps is 'many'"),
        ("plugins: [my.py]", "accepted: --plugin FILE.py"),
        ("plugins: [{path: a.py}]", "plugins is .*; accepted: nothing: a run writes it"),
        ("plugins: [{path: a.py, sha256: '00'}]", r"accepted: with --plugin a\.py"),
    ],
)
def test_yaml_that_is_refused(parsed, text, sentence):
    with pytest.raises(BadInput, match=sentence):
        parsed(text)


def test_abbreviated_options_are_refused(parsed, tmp_path):
    """Else a configuration could be named without its record of plugins being read."""
    for option in ("--conf", "--model", "--optimizer.learning"):
        with pytest.raises(BadInput, match="there is no option"):
            parsed("{}", option, str(QUICKSTART))


def test_a_record_of_plugins_is_checked_wherever_it_stands(parsed, tmp_path):
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text("plugins: [{path: a.py, sha256: '00'}]\n")
    with pytest.raises(BadInput, match=r"has the option config; accepted: --config FILE"):
        parsed(f"config: {recorded}\n")
    with pytest.raises(BadInput, match=r"--plugin a\.py"):
        parsed("{}", "--config", str(recorded))


def test_the_tiny_worlds_old_paths_are_found(parsed):
    """Configurations of version 0.1 name the embedded files where they were then."""
    config = parsed(f"model: {{source: {OLD_ASSETS}/model}}\ndata: {{train: {OLD_ASSETS}/x}}\n")
    assert config.model.source == f"{ASSETS}/model"
    assert config.data.train == f"{OLD_ASSETS}/x", "there is no such file in the new place"


def test_an_old_path_that_exists_stays(parsed, tmp_path):
    old = tmp_path / OLD_ASSETS / "model"
    old.mkdir(parents=True)
    assert parsed(f"model: {{source: {old}}}").model.source == str(old)


def test_names_of_other_tools_lead_to_ours(parsed):
    """Every name in the table leads to an option that there is."""
    names = option_names(dataclasses.asdict(parsed("{}")))
    assert set(OTHER_NAMES.values()) <= names
    with pytest.raises(BadInput, match=r"no option lora_r; accepted: adapter\.rank$"):
        read_config(["--lora_r", "8"])
