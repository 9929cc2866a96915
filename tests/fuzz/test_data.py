"""Random and mutated data files, tokenizers and chat templates: used, or refused in a sentence."""

import gzip
import io
import json
import pathlib
import tempfile

import datasets
import pyarrow as pa
import pytest
from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from balora_jax.config import DataConfig
from balora_jax.data import (
    TextTask,
    chat,
    encode,
    fingerprint,
    load_rows,
    load_tokenizer,
    make_template,
    prepare,
)
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput

ROWS = [{"text": "a b", "label": number % 2, "more": None} for number in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TASK = TextTask("data.labels", ("text",), ("no", "yes"), ("accuracy",), {})
SCORES = TextTask("data.scores", ("text",), (), ("pearson",), {}, scores=(0.0, 5.0))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """A cache that is thrown away: `datasets` copies every parquet file to its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield


def _parquet():
    columns = {name: [row[name] for row in ROWS] for name in ("text", "label")}
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


FILES = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.csv": b'text,label\na b,0\n"a, ""b""\nb",1\n',
    "a.parquet": _parquet(),
}


def _tokenizer():
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")


TOKENIZER = _tokenizer()
TOKENIZER_FILE = json.loads(TOKENIZER.backend_tokenizer.to_str())


def _succeeds(function, *arguments, **options):
    """Call a function; False if it refuses its input, in one sentence."""
    try:
        function(*arguments, **options)
    except BadInput as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 1500
        assert "accepted: " in sentence or "accepts: " in sentence
        return False
    return True


def _use(path):
    """Read a file in each way; all rows are read, or it is refused."""
    for task in (TASK, SCORES):
        _succeeds(lambda task=task: encode(load_rows(path), task, TOKENIZER, max_length=8))
    config = DataConfig(
        train=path, template="{label}", fields={"response": "text"}, max_length=8, limit=3
    )
    _succeeds(lambda: fingerprint([prepare(config, TOKENIZER)]))
    return _succeeds(lambda: list(load_rows(path)))


def _is_read(name, content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.write_bytes(content)
        return _use(str(path))


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_are_mutated_are_read(name):
    assert _is_read(name, FILES[name])


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(st.binary(max_size=200))
def test_random_bytes(name, content):
    _is_read(name, content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@fuzz
@given(st.text(st.sampled_from("[]{}\":,\\\n\r\0\ufeff \t ab01.eENn'ud8"), max_size=60))
def test_random_text(name, content):
    _is_read(name, content.encode())


@fuzz
@given(st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]), json_values), max_size=4))
def test_random_rows(rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    _is_read("a.jsonl", lines)
    _is_read("a.jsonl.gz", gzip.compress(lines))
    _is_read("a.json", json.dumps(rows).encode())


@fuzz
@given(json_values)
def test_random_json(value):
    _is_read("a.json", json.dumps(value).encode())


def _mutated(data, content):
    """Replace some bytes, and cut the end off or lengthen it."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        return bytes(changed)
    end = data.draw(st.integers(0, len(changed)))
    return bytes(changed[:end]) + data.draw(st.binary(max_size=20))


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(st.data())
def test_changed_bytes(name, data):
    _is_read(name, _mutated(data, FILES[name]))


COLUMNS = st.one_of(
    st.lists(st.none() | st.text(max_size=5), min_size=3, max_size=3),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
    st.lists(st.none() | st.floats(), min_size=3, max_size=3),
    st.lists(st.none() | st.booleans(), min_size=3, max_size=3),
    st.lists(st.none() | st.binary(max_size=5), min_size=3, max_size=3),
    st.lists(st.none() | st.datetimes() | st.dates(), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=3, max_size=3),
)


@fuzz
@given(COLUMNS, COLUMNS, st.sampled_from(["label", "x", "", "text"]))
def test_random_columns(first, second, name):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.parquet"
        try:
            arrays = [pa.array(first), pa.array(second)]
            parquet.write_table(pa.table(arrays, ["text", name]), path)
        # Mixed dates, and halves of characters, which parquet cannot hold.
        except (pa.ArrowException, TypeError, UnicodeEncodeError):
            return
        _use(str(path))


def _tokenizes(files):
    """Load a tokenizer's folder and use it; False if it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (pathlib.Path(folder) / name).write_bytes(content)

        def use():
            tokenizer = load_tokenizer(folder)
            token_ids(tokenizer, ["a b", "?"])
            encode(load_rows(f"{folder}/a.jsonl"), TASK, tokenizer, max_length=8)
            make_template("alpaca", tokenizer)

        (pathlib.Path(folder) / "a.jsonl").write_bytes(LINES)
        return _succeeds(use)


OPTIONS = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}


def _written(tokenizer=None, options=None):
    return {
        "tokenizer.json": json.dumps(TOKENIZER_FILE | (tokenizer or {})).encode(),
        "tokenizer_config.json": json.dumps(OPTIONS | (options or {})).encode(),
    }


def test_the_tokenizer_that_is_mutated_is_read():
    assert _tokenizes(_written())


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@fuzz
@given(st.data())
def test_changed_bytes_of_tokenizers(name, data):
    files = _written()
    _tokenizes(files | {name: _mutated(data, files[name])})


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(TOKENIZER_FILE)), json_values, max_size=2))
def test_changed_entries_of_tokenizers(changes):
    _tokenizes(_written(changes))


@fuzz
@given(st.dictionaries(st.sampled_from(["vocab", "unk_token", "type", "x"]), json_values))
def test_changed_models_of_tokenizers(changes):
    _tokenizes(_written({"model": TOKENIZER_FILE["model"] | changes}))


NAMES = [
    "tokenizer_class", "eos_token", "pad_token", "unk_token", "auto_map", "chat_template",
    "added_tokens_decoder", "extra_special_tokens", "model_max_length", "padding_side",
    "truncation_side", "model_input_names", "split_special_tokens", "vocab_file",
]  # fmt: skip


@fuzz
@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3))
def test_changed_options_of_tokenizers(changes):
    _tokenizes(_written(options=changes))


PIECES = [
    "{{", "}}", "{%", "%}", "{#", "#}", "for m in messages", "endfor", "if m", "endif", "else",
    "m.content", "m['content']", "messages", "[0]", "set x =", "x", "1", "//", "*", "**", "~",
    "'a'", "(", ")", "|", "length", "range(9)", "raise_exception('x')", "add_generation_prompt",
    "macro f()", "endmacro", "f()", "break", "namespace(a=1)", "\ud800", "\0", ".", ",", ":",
]  # fmt: skip


@fuzz
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join) | st.text() | json_values)
def test_random_chat_templates(template):
    tokenizer = _tokenizer()
    tokenizer.chat_template = template
    before = chat.MOST_SECONDS
    chat.MOST_SECONDS = 1.0
    try:
        _succeeds(lambda: make_template("chat", tokenizer).render({"instruction": "a"}))
    finally:
        chat.MOST_SECONDS = before
