"""The site in docs/ builds without a warning, and its tables have every option there is."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import typing
import zlib

import pytest

from balora_jax.cli import COMMANDS
from balora_jax.config import RunConfig
from balora_jax.config.audit import AuditOptions
from balora_jax.config.evaluate import EvaluateOptions
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.other_names import OTHER_NAMES
from balora_jax.config.parse import HIDDEN
from balora_jax.config.predict import PredictOptions
from balora_jax.config.push import PushOptions

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
OF_COMMANDS = {
    "audit": AuditOptions,
    "evaluate": EvaluateOptions,
    "generate": GenerateOptions,
    "predict": PredictOptions,
    "push": PushOptions,
}


def _options(section, prefix=""):
    """The names of all options of a dataclass, and of the dataclasses in it."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _options(hints[field.name], f"{name}.")
        elif field.name not in HIDDEN:
            yield name


RUN_OPTIONS = set(_options(RunConfig))


def _build(folder, source=DOCS):
    """Build the site, with all warnings as errors and the notebooks executed."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += [str(source), str(folder / "html")]
    # Figures go into the notebooks, as they do for readers.
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_site_has_every_option_and_no_warning(tmp_path):
    """Of all notebooks every cell runs, and their pages have figures."""
    done = _build(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for notebook in NOTEBOOKS:
        page = (tmp_path / "html" / "notebooks" / f"{notebook.stem}.html").read_text()
        assert 'class="output' in page and "_images/" in page, notebook
    # Four lines, then all objects of the site, compressed.
    inventory = (tmp_path / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    objects = zlib.decompress(inventory).decode()
    found = re.findall(r"^(.+?) std:confval ", objects, re.M)
    expected = RUN_OPTIONS | {
        f"{command} --{name}"
        for command, options in OF_COMMANDS.items()
        for name in _options(options)
    }
    assert set(found) == expected

    page = (tmp_path / "html" / "configuration.html").read_text()
    assert "Peak learning rate, at most 100." in page

    page = (tmp_path / "html" / "coming_from.html").read_text()
    for other, option in OTHER_NAMES.items():
        assert f">{other}</span>" in page, other
        assert f'href="configuration.html#confval-{option}"' in page, option


BROKEN = {
    "training.stepz": "{confval}`training.stepz`",
    "init_pisa": "{py:func}`balora_jax.adapters.init_pisa`",
    "no_page.md": "[a page](no_page.md)",
    "no-place": "[a place](install.md#no-place)",
    "nonsense": r"$\nonsense$",
}


def test_what_is_broken_ends_the_build(tmp_path):
    """Links to options, functions, pages and places that there are not, and unknown LaTeX."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("conf.py", "extensions", "_static"):
        (folder / name).symlink_to(DOCS / name)
    (folder / "index.md").write_text("# Title\n\n" + "\n\n".join(BROKEN.values()))
    (folder / "install.md").write_text("---\norphan: true\n---\n# Install\n")
    done = _build(tmp_path, folder)
    assert done.returncode != 0
    assert not [name for name in BROKEN if name not in done.stderr]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_pages_name_options_and_commands_that_there_are(page):
    text = page.read_text()
    sections = "|".join(sorted({name.split(".")[0] for name in RUN_OPTIONS if "." in name}))
    named = set(re.findall(rf"--((?:{sections})\.[a-z_0-9.]*[a-z_0-9])", text))
    # Those of the pages' own terms.
    own = {name for name in named if name.startswith("regularizers.reverse_kl.")}
    assert not named - own - RUN_OPTIONS
    commands = re.findall(r"^(?:    )?balora ([a-z]+)", text, re.M)
    assert set(commands) <= set(COMMANDS)
