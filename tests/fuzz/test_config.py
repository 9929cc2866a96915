"""Random files and texts as options of a run: a configuration, or one sentence."""

import contextlib
import dataclasses
import pathlib
import tempfile

import yaml
from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st

from balora_jax.config import RunConfig
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.yaml"
WHOLE = CONFIG.read_bytes()
SECTIONS = sorted(field.name for field in dataclasses.fields(RunConfig))
OPTIONS = sorted(
    f"{section}.{name}"
    for section, options in yaml.safe_load(WHOLE).items()
    if isinstance(options, dict)
    for name in options
)
# Pieces of Yaml that mean something.
PIECES = st.sampled_from(
    ["- ", ": ", "{", "}", "[", "]", "&a ", "*a", "!!int ", "!!python/name:os.system ", "|\n",
     "#", "<<: ", "? ", "---\n", "8:30", "1_0", "0x1f", "1e400", ".nan", "2001-01-01", "~", "\t",
     "\ufeff"]
)  # fmt: skip


def _check(content: bytes) -> None:
    """Read a file of options."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.yaml"
        path.write_bytes(content)
        _read(["--config", str(path)])


def _read(arguments: list[str]) -> None:
    with contextlib.suppress(BadInput):
        read_config(arguments)


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes(content):
    _check(content)


@fuzz
@given(st.dictionaries(st.sampled_from(SECTIONS), json_values, max_size=3))
def test_random_sections(options):
    _check(yaml.safe_dump(options, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzz
@given(st.lists(PIECES | st.sampled_from(OPTIONS) | st.text(max_size=4), max_size=12))
def test_pieces_of_yaml(pieces):
    _check("".join(pieces).encode("utf-8", "surrogatepass"))


@fuzz
@given(st.integers(0, len(WHOLE)), st.binary(max_size=8), st.integers(0, 8))
def test_replaced_bytes(start, inserted, removed):
    _check(WHOLE[:start] + inserted + WHOLE[start + removed :])


@fuzz
@given(st.integers(0, len(WHOLE)), PIECES)
def test_inserted_pieces(start, piece):
    _check(WHOLE[:start] + piece.encode() + WHOLE[start:])


@fuzz
@given(st.sampled_from(OPTIONS), PIECES | st.text(max_size=20), st.booleans())
def test_random_values(option, value, joined):
    option = f"--{option}"
    arguments = [f"{option}={value}"] if joined else [option, value]
    _read(["--config", str(CONFIG), *arguments])


@fuzz
@given(st.lists(st.text(max_size=12), max_size=4))
def test_random_arguments(arguments):
    # --help ends the command.
    _read([argument for argument in arguments if argument not in ("-h", "--help")])
