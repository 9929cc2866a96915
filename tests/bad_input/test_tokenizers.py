"""Tokenizers and chat templates that cannot be used: each is refused in one sentence."""

import json
import os
import re
import shutil
import threading
import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from balora_jax.data import Answers, chat, find_task, load_tokenizer, make_template
from balora_jax.data.tokenizer import token_ids
from balora_jax.errors import BadInput

FOLDER = "accepted: a folder that save_pretrained wrote, or a hub id"
REGULAR = "accepted: regular files, or links to them"


def _sentence(error):
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.isprintable()
    assert "accepted: " in sentence and len(sentence) < 1500
    return sentence


@pytest.fixture
def folder(tmp_path, tiny_llama):
    """A copy of the tiny Llama's tokenizer."""
    copied = tmp_path / "tokenizer"
    copied.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, copied)
    return copied


def _change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _model(vocabulary, **options):
    return {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"} | options


# The content of tokenizer.json: bytes, or entries to change.
BROKEN_FILES = {
    "nothing": b"",
    "zero bytes": bytes(99),
    "other bytes": b"\x80\x81\xff" * 99,
    "text": b"vocabulary",
    "{}": b"{}",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "no model": {"model": None},
    "a model of text": {"model": "BPE"},
    "an unknown model": {"model": {"type": "Other", "vocab": {}}},
    "a list for the vocabulary": {"model": _model(["a", "b"])},
    "ids of text": {"model": _model({"a": "0"})},
    "ids below zero": {"model": _model({"a": -1})},
    "ids of fractions": {"model": _model({"a": 0.5})},
    "ids beyond 32 bits": {"model": _model({"a": 2**32})},
    "ids beyond 64 bits": {"model": _model({"a": 2**64})},
    "merges of unknown tokens": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}},
    "added tokens of text": {"added_tokens": ["<s>"]},
    "an unknown normalizer": {"normalizer": {"type": "Other"}},
    "an unknown pre-tokenizer": {"pre_tokenizer": {"type": "Other"}},
    "a broken pattern": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False
        }
    },
    "an unknown post-processor": {"post_processor": 7},
    "an unknown version": {"version": "9"},
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_broken_files_are_refused(folder, content):
    path = folder / "tokenizer.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _change(path, **content)
    with pytest.raises(BadInput, match=f"the tokenizer of .* cannot be loaded: .*; {FOLDER}") as e:
        load_tokenizer(str(folder))
    assert str(folder) in _sentence(e)


@pytest.mark.parametrize("size", [1, 10, 100, 1000, 3000])
def test_files_cut_anywhere_are_refused(folder, size):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match="cannot be loaded") as error:
        load_tokenizer(str(folder))
    _sentence(error)


def test_a_vocabulary_without_tokens_is_refused(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    _change(folder / "tokenizer.json", model=_model({}), added_tokens=[])
    with pytest.raises(BadInput, match=r"has no tokens; accepted: at least one") as error:
        load_tokenizer(str(folder))
    _sentence(error)


def test_ids_beyond_int32_are_refused(folder):
    _change(folder / "tokenizer.json", model=_model({"a": 3_000_000_000}))
    with pytest.raises(BadInput, match="id 3000000000; accepted: ids from 0 to 2147483647") as e:
        load_tokenizer(str(folder))
    _sentence(e)


BROKEN_OPTIONS = {
    "nothing": b"",
    "a list": b"[]",
    "text": b'"text"',
    "null": b"null",
    "other bytes": b"\xff\xfe\x00",
    "brackets": b"[" * 100_000,
    "digits": b'{"model_max_length": ' + b"9" * 5000 + b"}",
    "a pad token of a number": {"pad_token": 5},
    "a pad token of a list": {"pad_token": ["<pad>"]},
    "an EOS token of an object": {"eos_token": {"x": 1}},
    "a class of a number": {"tokenizer_class": 5},
    "added tokens of text": {"added_tokens_decoder": "x"},
    "added tokens without numbers": {"added_tokens_decoder": {"x": {"content": "y"}}},
    "code": {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"},
}


@pytest.mark.parametrize("content", BROKEN_OPTIONS.values(), ids=BROKEN_OPTIONS)
def test_broken_options_are_refused_or_without_effect(folder, content):
    """The options are read by transformers, which takes some of them."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    path = folder / "tokenizer_config.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _change(path, **content)
    try:
        tokenizer = load_tokenizer(str(folder))
    except BadInput as error:
        assert re.search(f"cannot be loaded: .*; {FOLDER}", str(error))
        assert "\n" not in str(error)
    else:
        assert token_ids(tokenizer, ["a"])["input_ids"]
    assert not (folder / "ran").exists()


def test_an_unknown_class_is_read_from_its_file(folder):
    _change(folder / "tokenizer_config.json", tokenizer_class="NoSuchTokenizer")
    assert load_tokenizer(str(folder)).eos_token_id == 2


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"eos_token": 7}', b"\xff"])
def test_a_broken_map_of_special_tokens(folder, content):
    (folder / "special_tokens_map.json").write_bytes(content)
    try:
        assert load_tokenizer(str(folder)).eos_token_id == 2
    except BadInput as error:
        assert "cannot be loaded" in str(error) and FOLDER in str(error)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "x.txt", "c.jinja"])
def test_only_regular_files_are_read(folder, tmp_path, name):
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(BadInput, match=f"{name} is no regular file; {REGULAR}"):
        load_tokenizer(str(folder))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=f"{name} is no regular file; {REGULAR}"):
        load_tokenizer(str(folder))
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=f"{name} is a link to nothing; {REGULAR}"):
        load_tokenizer(str(folder))
    path.unlink()
    path.symlink_to(name)
    with pytest.raises(BadInput, match=r"cannot be looked up .*; accepted"):
        load_tokenizer(str(folder))


def test_links_out_of_the_folder_are_read_as_in_the_hubs_cache(folder, tmp_path):
    shutil.move(folder / "tokenizer.json", tmp_path / "blob")
    (folder / "tokenizer.json").symlink_to(tmp_path / "blob")
    assert load_tokenizer(str(folder)).eos_token_id == 2


def test_files_of_a_gigabyte_are_refused(folder):
    with (folder / "vocab.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(BadInput, match=r"vocab.json has 1,073,741,824 bytes; accepted: .*at most"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "source", ["~no-such-user/x", "a\0b", "x" * 300, "a/b/c", "", "./x", "a\n"]
)
def test_names_that_are_no_folder_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="tokenizer") as error:
        load_tokenizer(source)
    _sentence(error)


def test_a_tokenizer_without_pad_and_end(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(str(folder))
    for template in ("alpaca", "chat", "plain", "{x}"):
        with pytest.raises(BadInput, match="no end-of-sequence token; accepted: one with eos_to"):
            make_template(template, tokenizer)
    with pytest.raises(BadInput, match="no end-of-sequence token; accepted: one with eos_token"):
        Answers(find_task("rte"), tokenizer)


@pytest.fixture
def words():
    """A tokenizer of the words a and b, with an end."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def test_a_tokenizer_that_fails_on_a_text_is_refused():
    without_unknown = Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=without_unknown)
    with pytest.raises(BadInput, match=r"fails on a text: WordLevel error.*; accepted") as error:
        token_ids(tokenizer, ["b"])
    _sentence(error)


USED = r"the tokenizer's chat template cannot be used: "
MESSAGE = "{{ messages[0]['content'] }}"
# A chat template, and what is said of it.
TEMPLATES = {
    "a division by zero": ("{{ 1 // 0 }}", USED + "integer division or modulo by zero"),
    "its own exception": ("{{ raise_exception('no\nroles') }}", USED + "no; accepted"),
    "a long exception": ("{{ raise_exception('x' * 99999) }}", USED + "x{300} ...; accepted"),
    "an unknown name": ("{{ a.b.c }}", USED + "'a' is undefined"),
    "an unknown function": ("{{ f() }}", USED + "'f' is undefined"),
    "an unknown filter": ("{{ 1 | f }}", USED + "No filter named 'f'"),
    "an unknown block": ("{% f %}", USED + "Encountered unknown tag 'f'"),
    "a block never closed": ("{% for m in messages %}", USED + "Unexpected end of template"),
    "another syntax": ("{{ .Prompt }}", USED + "unexpected '.'"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", USED + "maximum recursion"),
    "10,000 brackets": ("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", USED),
    "a sum of 10,000": ("{{ " + "+".join(["1"] * 10_000) + " }}", USED + "|leaves out"),
    "a range too long": ("{% for i in range(10**9) %}{% endfor %}", USED + "Range too big"),
    "text of 10 GB": ("{{ 'x' * 10**10 }}", USED + "MemoryError"),
    "a width of 10 GB": ("{{ '%10000000000d' % 1 }}", USED),
    "text that doubles": (
        "{% set t = namespace(x='xx') %}{% for i in range(99) %}{% set t.x = t.x ~ t.x %}"
        "{% endfor %}{{ t.x }}", USED + "MemoryError"
    ),
    "a number of text": ("{{ 'a' + 1 }}", USED + "can only concatenate str"),
    "a missing key": ("{{ {}['x'].y }}", USED + "'dict object' has no attribute 'x'"),
    "a file": ("{% include '/etc/passwd' %}", USED + "no loader for this environment"),
    "Python inside": ("{{ ''.__class__.__mro__ }}", USED + "access to attribute '__class__'"),
    "the interpreter's modules": ("{{ messages.__init__.__globals__ }}", USED + "access to attrib"),
    "no text": ("{{ '' }}", "writes no text; accepted"),
    "a comment": ("{# #}", "writes no text; accepted"),
    "blanks": (" ", "leaves out the user's message; accepted"),
    "no message": ("{{ bos_token }}Hello", "leaves out the user's message; accepted"),
    "a message in capitals": ("{{ messages[0]['content'] | lower }}", "leaves out the user's"),
    "a message of parts": (
        "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}x", "leaves out"
    ),
    "a message cut": ("{{ messages[0]['content'][:9] }}", "leaves out the user's message"),
    "20 million characters": (MESSAGE + "{{ 'x' * 20000000 }}", "20,000,0.* accepted: at most 10,"),
    "half a character": (MESSAGE + "{{ '\\ud800' }}", "half of a character in UTF-16; accepted"),
    "a number": (7, "chat template is a int; accepted: text in jinja"),
    "a list": (["x"], "chat template is a list; accepted: text in jinja"),
    "templates without a default": ({"tool": MESSAGE}, USED),
    "nothing": ("", "no chat template; accepted: a tokenizer that has one"),
}  # fmt: skip


@pytest.mark.parametrize(("template", "message"), TEMPLATES.values(), ids=TEMPLATES)
def test_broken_chat_templates_are_refused(words, monkeypatch, template, message):
    monkeypatch.setattr(chat, "MOST_MEMORY", 2**29)
    words.chat_template = template
    with pytest.raises(BadInput, match=message) as error:
        make_template("chat", words)
    _sentence(error)


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ (9 ** (9 ** 9)) % 7 }}",
    "a power of names": "{% set n = 9 %}{{ (n ** (n ** n)) % 7 }}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_endless_chat_templates_are_stopped(words, monkeypatch, template):
    monkeypatch.setattr(chat, "MOST_SECONDS", 0.3)
    words.chat_template = template
    start = time.process_time()
    with pytest.raises(BadInput, match=r"takes more than 0\.3 seconds; accepted") as error:
        make_template("chat", words)
    _sentence(error)
    assert time.process_time() - start < 20


def test_templates_that_fail_on_one_row_are_refused(words):
    words.chat_template = MESSAGE + "{% if messages[0].content == 'b' %}{{ 1 // 0 }}{% endif %}"
    template = make_template("chat", words)
    assert template.render({"instruction": "a"}) == "a"
    with pytest.raises(BadInput, match=USED + "integer division"):
        template.render({"instruction": "b"})


def test_the_bounds_are_taken_back(words):
    words.chat_template = MESSAGE
    before = chat.resource.getrlimit(chat.resource.RLIMIT_AS)
    handler = chat.signal.getsignal(chat.signal.SIGVTALRM)
    make_template("chat", words)
    assert chat.resource.getrlimit(chat.resource.RLIMIT_AS) == before
    assert chat.signal.getsignal(chat.signal.SIGVTALRM) == handler
    assert chat.signal.getitimer(chat.signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_chat_templates_run_in_other_threads(words):
    words.chat_template = MESSAGE
    template = make_template("chat", words)
    texts = []
    thread = threading.Thread(target=lambda: texts.append(template.render({"instruction": "a"})))
    thread.start()
    thread.join()
    assert texts == ["a"]


def test_the_command_line_refuses_a_tokenizer(refused, run_arguments, folder, tmp_path):
    arguments = ["--model.tokenizer", str(folder)]
    (folder / "tokenizer.json").write_text("{}")
    sentence = refused(["train", *run_arguments(tmp_path / "run", *arguments)])
    assert re.search(f"the tokenizer of .* cannot be loaded: .*; {FOLDER}", sentence)


def test_the_command_line_refuses_a_pad_token_without_embedding(
    refused, run_arguments, folder, tmp_path
):
    """A pad token that was added to the tokenizer, and not to the model."""
    _change(folder / "tokenizer_config.json", pad_token="<added>")
    arguments = ["--model.tokenizer", str(folder)]
    sentence = refused(["train", *run_arguments(tmp_path / "run", *arguments)])
    assert re.search("pad token has the id 259 but the model has 259 embeddings; acc", sentence)


def test_the_command_line_refuses_a_chat_template(refused, run_arguments, folder, tmp_path):
    _change(folder / "tokenizer_config.json", chat_template="{{ 1 // 0 }}")
    arguments = ["--model.tokenizer", str(folder), "--data.template", "chat"]
    sentence = refused(["train", *run_arguments(tmp_path / "run", *arguments)])
    assert re.search(USED + ".*by zero; accepted: .*data.template alpaca", sentence)
