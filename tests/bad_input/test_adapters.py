"""PEFT folders that cannot be continued from: each is refused with a sentence that says why."""

import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from balora_jax.adapters.peft_format import adapter_shapes, load_adapter, patterns
from balora_jax.errors import BadInput
from balora_jax.runs.setup import peft_folder

PREFIX = "base_model.model."
LAYERS = [f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q", "v")]
FIRST_A = f"{PREFIX}{LAYERS[0]}.lora_A.weight"
FIRST_B = f"{PREFIX}{LAYERS[0]}.lora_B.weight"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OPTIONS = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "bias": "none",
    "target_modules": ["q", "v"], "init_lora_weights": True, "modules_to_save": None,
}  # fmt: skip


def _params():
    """Two stacked layers with two linear layers each."""
    random = np.random.default_rng(0)
    attention = {
        name: {"kernel": random.normal(size=(2, 8, fan_out)).astype(np.float32)}
        for name, fan_out in (("q", 8), ("v", 4))
    }
    return {"model": {"layers": {"self_attn": attention}}}


PARAMS = _params()


def _tensors():
    tensors = {}
    for name in LAYERS:
        fan_out = 8 if name.endswith("q") else 4
        tensors[f"{PREFIX}{name}.lora_A.weight"] = np.ones((3, 8), np.float32)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = np.ones((fan_out, 3), np.float32)
    return tensors


def write_adapter(folder, options=None, tensors=None):
    """Write a PEFT folder for PARAMS, with changed options and tensors; None removes one."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in (OPTIONS | (options or {})).items() if value != "absent"}
    (folder / CONFIG).write_text(json.dumps(kept))
    changed = _tensors() | (tensors or {})
    save_file({name: value for name, value in changed.items() if value is not None},
              folder / WEIGHTS)  # fmt: skip
    return folder


def _refusal(folder):
    """The sentence with which both readers refuse a folder."""
    with pytest.raises(BadInput) as refused:
        adapter_shapes(folder, PARAMS)
    with pytest.raises(BadInput, match=re.escape(str(refused.value))):
        load_adapter(folder, PARAMS)
    sentence = str(refused.value)
    assert "\n" not in sentence and len(sentence) < 1500 and "accepted: " in sentence
    return sentence


RANKS = "accepted: a whole number from 1"
ALPHAS = "accepted: a number from 1e-09 to 1000000000"
CHANGED_BASE = "belongs to a changed base.*path_initial_model_for_weight_conversion.*model.source"
WHOLE = "a whole number from 1 to"
EXPRESSION = "which is no regular expression .*; accepted: names of layers, or reg"
UNKNOWN = "with a brace without a count or a group of an unknown kind; accepted: names of"
LEFT_OUT = "which PEFT leaves out by adapter_config.json .*; accepted: factors of the layers"
MORE = "more than one product.*accepted: this option null"
BAD_OPTIONS = {
    "another method": ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; accepted: LORA"),
    "no method": ({"peft_type": "absent"}, "peft_type is None; accepted: LORA"),
    "a list for the method": ({"peft_type": ["LORA"]}, r"peft_type is \['LORA'\]"),
    "another rank": ({"r": 8}, rf"{WEIGHTS}: .*lora_A.weight is of shape \[3, 8\].*\[8, 8\]"),
    "the default rank": ({"r": "absent"}, r"is of shape \[3, 8\]; accepted: \[8, 8\], for r"),
    "rank 0": ({"r": 0}, f"r is 0; {RANKS}"),
    "rank -1": ({"r": -1}, f"r is -1; {RANKS}"),
    "rank null": ({"r": None}, f"r is None; {RANKS}"),
    "rank true": ({"r": True}, f"r is True; {RANKS}"),
    "rank 3.0": ({"r": 3.0}, f"r is 3.0; {RANKS}"),
    "rank of text": ({"r": "3"}, f"r is '3'; {RANKS}"),
    "a rank of 300 digits": ({"r": 10**300}, f"r is a number of more than 30 digits; {RANKS}"),
    "alpha of text": ({"lora_alpha": "x"}, f"lora_alpha is 'x'; {ALPHAS}"),
    "alpha nan": ({"lora_alpha": float("nan")}, f"lora_alpha is nan; {ALPHAS}"),
    "alpha inf": ({"lora_alpha": float("inf")}, f"lora_alpha is inf; {ALPHAS}"),
    "alpha 0": ({"lora_alpha": 0}, f"lora_alpha is 0; {ALPHAS}"),
    "alpha 1e-300": ({"lora_alpha": 1e-300}, f"lora_alpha is 1e-300; {ALPHAS}"),
    "alpha -8": ({"lora_alpha": -8}, f"lora_alpha is -8; {ALPHAS}"),
    "alpha null": ({"lora_alpha": None}, f"lora_alpha is None; {ALPHAS}"),
    "alpha false": ({"lora_alpha": False}, f"lora_alpha is False; {ALPHAS}"),
    "alpha of 300 digits": ({"lora_alpha": 10**300}, f"a number of more than .*; {ALPHAS}"),
    "use_rslora of text": ({"use_rslora": "yes"}, "use_rslora is 'yes'; accepted: true, false"),
    "use_rslora null": ({"use_rslora": None}, "use_rslora is None; accepted: true, false"),
    "fan_in_fan_out 1": ({"fan_in_fan_out": 1}, "fan_in_fan_out is 1; accepted: true, false"),
    "bias": ({"bias": "lora_only"}, "bias is 'lora_only'; accepted: none"),
    "targets of a number": ({"target_modules": 3}, "target_modules is 3; accepted: null, a string"),
    "targets of numbers": ({"target_modules": [3]}, r"target_modules is \[3\]; accepted"),
    "an unknown target": ({"target_modules": ["q", "v", "w"]}, "target_modules has 'w', and"),
    "half a name": (
        {"target_modules": ["_attn.q", "v"]}, "factors of model.layers.0.self_attn.q, model.*leaves"
    ),
    "modules of text": ({"modules_to_save": "score"}, "modules_to_save is 'score'; accepted"),
    "a module without tensors": (
        {"modules_to_save": ["lm_head"]}, f"modules_to_save has 'lm_head', and {WEIGHTS} has no ten"
    ),
    "a classifier's module without tensors": (
        {"modules_to_save": ["score", "pooler"], "task_type": "SEQ_CLS"}, "_save has 'pooler', and"
    ),
    "a score without a classifier": (
        {"modules_to_save": ["score"], "task_type": ["SEQ_CLS"]}, "modules_to_save has 'score', and"
    ),
    "ranks of another layer": (
        {"rank_pattern": {"q": 2}}, rf"{WEIGHTS}: .*0.self_attn.q.lora_A.weight is of shape "
        r"\[3, 8\]; accepted: \[2, 8\], for r or rank_pattern"
    ),
    "ranks of a list": ({"rank_pattern": [2]}, r"rank_pattern is \[2\]; accepted: null, .pattern"),
    "ranks of text": ({"rank_pattern": {"q": "2"}}, f"rank_pattern is .'q': '2'.; .*{WHOLE}"),
    "a rank of 0 by layer": ({"rank_pattern": {"q": 0}}, f"rank_pattern is .'q': 0.; .*{WHOLE}"),
    "a rank of 300 digits for q": ({"rank_pattern": {"q": 10**300}}, f"rank_pattern is .*{WHOLE}"),
    "a rank of 10**9 by layer": ({"rank_pattern": {"q": 10**9}}, r"accepted: \[1000000000, 8\]"),
    "ranks by a bad pattern": (
        {"rank_pattern": {"(q": 2}}, rf"rank_pattern has '\(q', {EXPRESSION}"
    ),
    "alphas of a number": ({"alpha_pattern": 2}, "alpha_pattern is 2; accepted: null, .patt"),
    "an alpha of 0 by layer": ({"alpha_pattern": {"q": 0}}, "alpha_pattern is .'q': 0.; accepted"),
    "an alpha nan": ({"alpha_pattern": {"q": float("nan")}}, "alpha_pattern is .'q': nan.; acc"),
    "alphas by a bad pattern": (
        {"alpha_pattern": {"[": 2}}, rf"alpha_pattern has '\[', {EXPRESSION}"
    ),
    "a bad target": ({"target_modules": "*"}, f"target_modules has '.', {EXPRESSION}"),
    "targets of nothing": ({"target_modules": ""}, f"{WEIGHTS} has factors of .*{LEFT_OUT}"),
    "targets of no layer": ({"target_modules": []}, f"{WEIGHTS} has factors of .*{LEFT_OUT}"),
    "nested counts": ({"target_modules": "(?:.?){1000000000}x"}, "which is too large; acc"),
    "many counts": ({"target_modules": "((.{99}){99}){99}"}, "which is too large; acc"),
    "targets of a long pattern": ({"target_modules": "q|" * 60000}, "which is too large; acc"),
    "targets of a deep pattern": ({"target_modules": "(" * 9999}, EXPRESSION),
    "targets that call themselves": ({"target_modules": "(?R)*"}, UNKNOWN),
    "targets nearly matched": ({"target_modules": "q{e<9}"}, UNKNOWN),
    "an excluded layer": ({"exclude_modules": ["v"]}, f"factors of .*0.self_attn.v, .*{LEFT_OUT}"),
    "a pattern of excluded layers": ({"exclude_modules": ".*v"}, f"0.self_attn.v, .*{LEFT_OUT}"),
    "a number excluded": ({"exclude_modules": 3}, "exclude_modules is 3; accepted: null, a s"),
    "one layer": ({"layers_to_transform": [1]}, f"factors of model.layers.0.self.*{LEFT_OUT}"),
    "the first layer": ({"layers_to_transform": 0}, f"factors of model.layers.1.self_.*{LEFT_OUT}"),
    "layers of another stack": (
        {"layers_to_transform": [0, 1], "layers_pattern": ["h"]}, f"factors of .*{LEFT_OUT}"
    ),
    "layers of a pattern's own index": (
        {"layers_to_transform": [0, 1], "layers_pattern": "(?P<idx>.*)|x"}, f"factors.*{LEFT_OUT}"
    ),
    "layers of text": ({"layers_to_transform": "0"}, "layers_to_transform is '0'; accepted: null"),
    "layers of truths": ({"layers_to_transform": [True]}, r"layers_to_transform is \[True\]"),
    "layers of a string": (
        {"target_modules": ".*", "layers_to_transform": 0}, "with layers_to_transform; acc"
    ),
    "a stack without layers": ({"layers_pattern": "layers"}, "without layers_to_transform"),
    "a stack of a bad pattern": (
        {"layers_to_transform": [0], "layers_pattern": "("}, f"_pattern has '.', {EXPRESSION}"
    ),
    "a saved module of adapted layers": (
        {"modules_to_save": ["self_attn"]}, f"factors of .*{LEFT_OUT}"
    ),
    "a saved module of a bad pattern": (
        {"modules_to_save": ["("]}, f"modules_to_save has '.', {EXPRESSION}"
    ),
    "a start null": ({"init_lora_weights": None}, "init_lora_weights is None; accepted: true"),
    "an unknown start": ({"init_lora_weights": "mine"}, f"'mine': the adapter {CHANGED_BASE}"),
    "randomized PiSSA": (
        {"init_lora_weights": "pissa_niter_16"}, f"'pissa_niter_16': the adapter {CHANGED_BASE}"
    ),
    "CorDA": ({"init_lora_weights": "corda"}, f"'corda': the adapter {CHANGED_BASE}"),
    "LoftQ": ({"init_lora_weights": "loftq"}, f"'loftq': the adapter {CHANGED_BASE}"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, f"'lora_ga': the adapter {CHANGED_BASE}"),
    "OLoRA transposed": (
        {"init_lora_weights": "olora", "fan_in_fan_out": True}, "PEFT defines no OLoRA; accepted"
    ),
    "DoRA": ({"use_dora": True}, f"'use_dora' is True, .*{MORE}"),
    "QALoRA": ({"use_qalora": True}, f"'use_qalora' is True, .*{MORE}"),
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, f"'alora_invocation_tokens' is .*{MORE}"),
    "tokens": ({"trainable_token_indices": [1]}, f"'trainable_token_indices' is .*{MORE}"),
    "a bias of B": ({"lora_bias": True}, f"'lora_bias' is True, .*{MORE}"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, f"'layer_replication' is .*{MORE}"),
    "parameters": ({"target_parameters": ["w"]}, f"'target_parameters' is .*{MORE}"),
    "Megatron": ({"megatron_config": {"a": 1}}, f"'megatron_config' is .*{MORE}"),
    "blocks": ({"use_bdlora": {"nblocks": 2}}, f"'use_bdlora' is .*{MORE}"),
    "routing": ({"arrow_config": {"top_k": 3}}, f"'arrow_config' is .*{MORE}"),
    "KaSA": ({"kasa_config": {"beta": 1.0}}, f"'kasa_config' is .*{MORE}"),
    "MonteCLoRA": ({"monteclora_config": {"a": 1}}, f"'monteclora_config' is .*{MORE}"),
    "a later PEFT's option": ({"use_new": "a" * 9999}, rf"'use_new' is 'a+\.\.\.a+', .*{MORE}"),
}  # fmt: skip


@pytest.mark.parametrize("options, match", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_an_option_is_refused(tmp_path, options, match):
    sentence = _refusal(write_adapter(tmp_path / "adapter", options))
    assert re.search(match, sentence), sentence
    assert str(tmp_path / "adapter" / "adapter_") in sentence


ENDLESS = "(?=((?:.|..)+)+x).*"
SLOW_OPTIONS = {
    "target_modules": {"target_modules": ENDLESS},
    "exclude_modules": {"exclude_modules": ENDLESS},
    "layers_pattern": {"layers_to_transform": [0, 1], "layers_pattern": [ENDLESS]},
    "modules_to_save": {"modules_to_save": [ENDLESS]},
    "rank_pattern": {"rank_pattern": {ENDLESS: 3}},
    "alpha_pattern": {"alpha_pattern": {ENDLESS: 3}},
}


@pytest.mark.parametrize("name", SLOW_OPTIONS)
def test_a_pattern_without_end_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(patterns, "LONGEST", 0.05)
    sentence = _refusal(write_adapter(tmp_path / "adapter", SLOW_OPTIONS[name]))
    assert f"{CONFIG}: {name} and the patterns before it take more than 0.05 s" in sentence


def test_many_patterns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "LONGEST", 0.05)
    many = {"rank_pattern": {f"{number}.*": 3 for number in range(9999)}}
    sentence = _refusal(write_adapter(tmp_path / "adapter", many))
    assert "rank_pattern and the patterns before it take more than 0.05 s" in sentence


ZEROS = np.zeros
BAD_TENSORS = {
    "a transposed A": ({FIRST_A: ZEROS((8, 3), "f")}, r"lora_A.weight is of shape \[8, 3\]"),
    "a transposed B": ({FIRST_B: ZEROS((3, 8), "f")}, r"lora_B.weight is of shape \[3, 8\]"),
    "A of another rank": ({FIRST_A: ZEROS((4, 8), "f")}, r"\[4, 8\]; accepted: \[3, 8\], for r"),
    "B of another rank": ({FIRST_B: ZEROS((8, 4), "f")}, r"\[8, 4\]; accepted: \[8, 3\], for r"),
    "A of one axis": ({FIRST_A: ZEROS(24, "f")}, r"lora_A.weight is of shape \[24\]; accepted"),
    "A of no axis": ({FIRST_A: ZEROS((), "f")}, r"lora_A.weight is of shape \[\]; accepted"),
    "A of three axes": ({FIRST_A: ZEROS((1, 3, 8), "f")}, r"is of shape \[1, 3, 8\]; accepted"),
    "another model's layer": ({FIRST_A: ZEROS((3, 9), "f")}, r"\[3, 9\]; accepted: \[3, 8\]"),
    "an empty A": ({FIRST_A: ZEROS((0, 8), "f")}, r"has no elements, shape \[0, 8\]; accepted"),
    "an empty B": ({FIRST_B: ZEROS(0, "f")}, r"lora_B.weight' has no elements, shape \[0\]"),
    "nan": ({FIRST_A: np.full((3, 8), np.nan, "f")}, "lora_A.weight' has numbers that are not fin"),
    "inf": ({FIRST_B: np.full((8, 3), np.inf, "f")}, "lora_B.weight' has numbers that are not fin"),
    "beyond float32": ({FIRST_B: np.full((8, 3), 1e300)}, "lora_B.weight' has numbers that are no"),
    "beyond float32 when scaled": ({FIRST_B: np.full((8, 3), 3e38, "f")}, "a smaller lora_alpha"),
    "whole numbers": ({FIRST_A: ZEROS((3, 8), "i4")}, "is stored as I32; accepted: F64, F32, F16"),
    "truths": ({FIRST_A: ZEROS((3, 8), "?")}, "lora_A.weight' is stored as BOOL; accepted"),
    "A without B": ({FIRST_B: None}, r"lacks model.layers.0.self_attn.q.lora_B.weight; accepted"),
    "B without A": ({FIRST_A: None}, r"lacks model.layers.0.self_attn.q.lora_A.weight; accepted"),
    "one layer of two": ({FIRST_A: None, FIRST_B: None}, "lacks model.layers.0.self_attn.q"),
    "no tensor": (dict.fromkeys(_tensors()), "has no factors; accepted: lora_A and lora_B"),
    "a layer too many": (
        {FIRST_A.replace("0", "2"): ZEROS((3, 8), "f")}, r"has 'model.layers.2.self_attn.q.lora_A"
    ),
    "an unknown layer": (
        {f"{PREFIX}w.lora_A.weight": ZEROS((3, 8), "f")}, "has 'w.lora_A.weight', which is no"
    ),
    "a name with lines": (
        {f"{PREFIX}a\nb.lora_A.weight": ZEROS((3, 8), "f")}, r"has 'a\\nb.lora_A.weight'"
    ),
    "an adapter's name in the tensor's": (
        {FIRST_A.replace("A.", "A.default."): ZEROS((3, 8), "f")}, "'.*lora_A.default.weight', w"
    ),
    "an embedding": (
        {f"{PREFIX}model.embed.lora_embedding_A": ZEROS((3, 8), "f")}, "'model.embed.lora_embedding"
    ),
    "a magnitude": (
        {f"{PREFIX}{LAYERS[0]}.lora_magnitude_vector": ZEROS(8, "f")}, "lora_magnitude_vector', whi"
    ),
    "no prefix": ({"a.lora_A.weight": ZEROS((3, 8), "f")}, "'a.lora_A.weight' is not PEFT's"),
}  # fmt: skip


@pytest.mark.parametrize("tensors, match", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_a_tensor_is_refused(tmp_path, tensors, match):
    sentence = _refusal(write_adapter(tmp_path / "adapter", tensors=tensors))
    assert re.search(match, sentence), sentence
    assert str(tmp_path / "adapter" / WEIGHTS) in sentence


def _loop(path):
    path.unlink()
    path.symlink_to(path.name)


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _pickled(path):
    path.rename(path.with_name("adapter_model.bin"))


def _truncate(number):
    def truncate(path):
        path.write_bytes(path.read_bytes()[:number])

    return truncate


def _holding(content):
    return lambda path: path.write_bytes(content)


BAD_FILES = {
    "no configuration": (CONFIG, os.unlink, f"{CONFIG} is not there; accepted: a folder that PEFT"),
    "an empty configuration": (CONFIG, _truncate(0), "cannot be read .*; accepted: a JSON object"),
    "a truncated configuration": (CONFIG, _truncate(40), f"{CONFIG} cannot be read"),
    "a binary configuration": (CONFIG, _holding(b"\x00\xff\xfe" * 9), f"{CONFIG} cannot be read"),
    "a configuration in UTF-16": (CONFIG, _holding(b"\xff\xfe{\x00}\x00"), "cannot be read"),
    "a list": (CONFIG, _holding(b"[1, 2]"), r"holds \[1, 2\]; accepted: a JSON object"),
    "null": (CONFIG, _holding(b"null"), "holds None; accepted: a JSON object"),
    "a name twice": (CONFIG, _holding(b'{"r": 3, "r": 4}'), "'r' is there twice"),
    "nested lists": (CONFIG, _holding(b"[" * 200000), "cannot be read .RecursionError"),
    "a number of 9999 digits": (CONFIG, _holding(b'{"r": ' + b"1" * 9999 + b"}"), "cannot be read"),
    "a huge configuration": (CONFIG, _holding(b" " * 5000000), "has more than 4194304 bytes"),
    "a configuration that links to itself": (CONFIG, _loop, f"{CONFIG} is no regular file"),
    "a pipe for the configuration": (CONFIG, _fifo, f"{CONFIG} is no regular file"),
    "a folder for the configuration": (CONFIG, _folder, f"{CONFIG} is no regular file"),
    "no weights": (WEIGHTS, os.unlink, f"{WEIGHTS} is not there; accepted: a folder that PEFT's"),
    "pickled weights": (
        WEIGHTS,
        _pickled,
        "has adapter_model.bin and no .*safe_serialization=True",
    ),
    "empty weights": (WEIGHTS, _truncate(0), f"{WEIGHTS} is not a whole safetensors file"),
    "half a header": (WEIGHTS, _truncate(100), f"{WEIGHTS} is not a whole safetensors file"),
    "truncated weights": (WEIGHTS, _truncate(-8), f"{WEIGHTS} is not a whole safetensors file"),
    "binary weights": (WEIGHTS, _holding(b"\x80\x04\x95" * 99), "truncated or damaged"),
    "a header of 2**60 bytes": (WEIGHTS, _holding(b"\x00" * 7 + b"\x10{}"), "truncated or damaged"),
    "no header": (WEIGHTS, _holding(b"\x02" + b"\x00" * 7 + b"{}"), "has no factors; accepted"),
    "weights that link to themselves": (WEIGHTS, _loop, f"{WEIGHTS} is no regular file"),
    "a pipe for the weights": (WEIGHTS, _fifo, f"{WEIGHTS} is no regular file"),
    "a folder for the weights": (WEIGHTS, _folder, f"{WEIGHTS} is no regular file"),
}


@pytest.mark.parametrize("name, spoil, match", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_is_refused(tmp_path, name, spoil, match):
    folder = write_adapter(tmp_path / "adapter")
    spoil(folder / name)
    sentence = _refusal(folder)
    assert re.search(match, sentence), sentence
    assert str(folder) in sentence


ACCEPTED = {
    "as written": {},
    "a rank by default": {"lora_alpha": "absent"},
    "EVA": {"init_lora_weights": "eva", "eva_config": {"rho": 1.0}},
    "Gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "targets of a regular expression": {"target_modules": "(.*)*(q|v)$"},
    "targets twice": {"target_modules": ["q", "q", "self_attn.v"]},
    "empty options": {"rank_pattern": {}, "loftq_config": {}, "use_dora": False},
    "harmless options": {"lora_dropout": 0.1, "exclude_modules": "w", "peft_version": "9"},
    "layers": {"layers_to_transform": [1, 0, 1], "layers_pattern": ["layers", "h"]},
    "every layer": {"layers_to_transform": [], "layers_pattern": ""},
    "ranks by layer": {"r": 9, "rank_pattern": {"q": 3, "self_attn.v": 3, "q|v": 4}},
    "alphas by layer": {"alpha_pattern": {"k": 9, ".*attn.(q|v)": 6, "q": 8}, "lora_alpha": 1},
    "targets of any linear layer": {"target_modules": "all-linear", "exclude_modules": ["k"]},
    "targets of the model": {"target_modules": None},
    "a classifier without its head": {
        "modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS"
    },
    "an unknown option that is off": {"use_new": False, "new_config": None},
}  # fmt: skip


@pytest.mark.parametrize("options", ACCEPTED.values(), ids=ACCEPTED)
def test_an_option_without_effect_is_accepted(tmp_path, options):
    lora = load_adapter(write_adapter(tmp_path / "adapter", options), PARAMS)
    scale = (8 if options.get("lora_alpha") == "absent" else 6) / 3
    b = lora["model"]["layers"]["self_attn"]["q"]["b"]
    np.testing.assert_allclose(b, np.full((2, 3, 8), scale), rtol=1e-6)


BAD_FOLDERS = {
    "no folder": ("/nowhere/adapter", "adapter.init is '/nowhere/adapter'; accepted: lora, pissa"),
    "a long name": ("a" * 5000, r"adapter.init 'a+' \.\.\. is no path; accepted: the path"),
    "a model": ("{llama}", f"is no PEFT adapter: {CONFIG} is not there; accepted: a folder"),
    "a file": ("{llama}/config.json", "adapter.init '.*config.json' is a file; accepted: a folder"),
    "another model's": ("{other}", "which is no factor of a linear layer of this model; accepted"),
}


@pytest.mark.parametrize("init, match", BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_run_from_it_is_refused(refused, run_arguments, tiny_llama, tmp_path, init, match):
    other = write_adapter(tmp_path / "other")
    init = init.format(llama=tiny_llama, other=other)
    sentence = refused(["train", *run_arguments(tmp_path / "run", "--adapter.init", init)])
    assert re.search(match, sentence), sentence


def test_a_user_who_does_not_exist_has_no_folder():
    with pytest.raises(BadInput, match=r"adapter\.init is '~nobody_here/adapter'; accepted: lora"):
        peft_folder("~nobody_here/adapter")


def test_a_language_model_has_no_module_trained_whole(refused, run_arguments, tmp_path):
    tensors = {f"{PREFIX}lm_head.weight": np.ones((4, 8), np.float32)}
    other = write_adapter(tmp_path / "other", {"modules_to_save": ["lm_head"]}, tensors)
    arguments = run_arguments(tmp_path / "run", "--adapter.init", str(other))
    assert re.search(
        r"other holds 'lm_head.weight', trained whole, where this run trains no module whole; acc",
        refused(["train", *arguments]),
    )
