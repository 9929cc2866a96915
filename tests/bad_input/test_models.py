"""Model folders that a stranger hands over: loaded as they are meant, or refused in a sentence."""

import json
import os
import re
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from model_folders import CONFIGS, first_task, write_config, write_model
from safetensors.numpy import load_file, save_file

from balora_jax.errors import BadInput
from balora_jax.models import (
    fingerprint,
    init_params,
    load_checkpoint,
    load_model,
    save_pretrained,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MISSING = object()
NAN = float("nan")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """model type -> a tiny folder, written once; tests damage copies of it."""
    written = {}

    def folder(model_type):
        if model_type not in written:
            written[model_type] = write_model(
                tmp_path_factory.mktemp("models") / model_type, model_type
            )
        return written[model_type]

    return folder


@pytest.fixture
def llama(folders, tmp_path):
    """A copy of the tiny Llama's folder, for tests that damage it."""
    return shutil.copytree(folders("llama"), tmp_path / "llama")


def _sentence(folder, task):
    """The sentence with which a folder is refused; None if it loads."""
    try:
        load_checkpoint(folder, task=task)
    except BadInput as error:
        sentence = str(error)
        assert str(folder) in sentence and "accepted: " in sentence, sentence
        assert "\n" not in sentence and len(sentence) < 1500, sentence
        return sentence
    return None


VALUES = [None, "x", [], {}, -1, 0, 1.5, True, 10**9, 10**40, NAN, float("inf")]

# Values of VALUES with which a field may load, beside its own; True is no number in this table.
RATES = [None, 0]
LOADS = {
    "head_dim": [None],
    "num_key_value_heads": [None],
    "max_position_embeddings": [10**9],
    "initializer_range": [0],
    "initializer_factor": [0, 1.5],
    "pad_token_id": [None, -1, 0],
    "attention_bias": [True],
    "tie_word_embeddings": [True],
    "rope_theta": [None, 1.5, 10**9],
    "rope_local_base_freq": [1.5, 10**9],
    "rope_scaling": [None, {}],
    "original_max_position_embeddings": [10**9],
    "no_rope_layers": [None],
    "mlp_bias": [True],
    "attention_multiplier": [1.5],
    "embedding_multiplier": [1.5],
    "residual_multiplier": [1.5],
    "logits_scaling": [1.5],
    "sliding_window": [None, 10**9],
    "layer_types": [None],
    "use_sliding_window": [True],
    "max_window_layers": [0, 10**9],
    "hidden_activation": [None],
    "hidden_act": [None],
    "query_pre_attn_scalar": [1.5, 10**9],
    "attn_logit_softcapping": [None, 1.5, 10**9],
    "final_logit_softcapping": [None, 1.5, 10**9],
    "scale_attn_weights": [True],
    "attn_pdrop": RATES,
    "embd_pdrop": RATES,
    "resid_pdrop": RATES,
    "dropout_rate": RATES,
    "classifier_dropout": RATES,
    "cls_dropout": RATES,
    "pooler_dropout": RATES,
    "hidden_dropout_prob": RATES,
    "attention_probs_dropout_prob": RATES,
    "num_decoder_layers": [None],
    "relative_attention_max_distance": [10**9],
    "decoder_start_token_id": [None, 0],
    "eos_token_id": [0],
    "id2label": [None],
    "relative_attention": [True],
    "max_relative_positions": [None, -1, 0, 10**9],
    "share_att_key": [True],
    "attention_head_size": [None],
    "conv_act": [None],
    "pos_att_type": [None, []],
}
FIELDS = [(kind, field) for kind, config in CONFIGS.items() for field in config]


@pytest.mark.parametrize("kind, field", FIELDS, ids=[f"{kind}-{field}" for kind, field in FIELDS])
def test_a_value_is_refused_or_loads(folders, tmp_path, kind, field):
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder)
    for value in VALUES:
        write_config(folder, {"model_type": kind, **CONFIGS[kind], field: value})
        sentence = _sentence(folder, first_task(kind))
        loads = any(value is other or value == other for other in LOADS.get(field, ()))
        assert sentence is not None or loads, (value, "loads")


@pytest.mark.parametrize("kind, field", FIELDS, ids=[f"{kind}-{field}" for kind, field in FIELDS])
def test_a_missing_value_is_transformers_default(folders, tmp_path, kind, field):
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder)
    config = {"model_type": kind, **CONFIGS[kind]}
    del config[field]
    write_config(folder, config)
    sentence = _sentence(folder, first_task(kind))
    assert sentence is None or "config.json" in sentence


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tiny_models_load(folders, kind):
    assert _sentence(folders(kind), first_task(kind)) is None


NEST = '{"a": ' + "[" * 100000


def _holding(content):
    return lambda path: path.write_bytes(content)


def _edited(**changes):
    def edit(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _loop(path):
    path.unlink()
    path.symlink_to(path.name)


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _outside(path):
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def _elsewhere(path):
    path.unlink()
    path.symlink_to(__file__)


def _device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 4.0}
ROPE |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8}
BAD_CONFIGS = {
    "empty": (_holding(b""), "config.json is not valid JSON"),
    "binary": (_holding(b"\xff\xfe\x00" * 9), "config.json is not valid JSON"),
    "nested": (_holding(NEST.encode()), "is not valid JSON .RecursionError"),
    "a number of 9999 digits": (_holding(b'{"a": ' + b"1" * 9999 + b"}"), "is not valid JSON"),
    "null": (_holding(b"null"), "does not hold a JSON object but None"),
    "huge": (_holding(b" " * (64 * 2**20 + 1)), "has more than 67108864 bytes"),
    "a pipe": (_fifo, "config.json is no regular file"),
    "a folder": (_folder, "config.json is no regular file"),
    "a link to itself": (_loop, "config.json cannot be looked up"),
    "a link outside": (_outside, "config.json is a link that leaves the folder"),
    "a link to a device": (_device, "config.json is no regular file"),
    "a list for the type": (_edited(model_type=["llama"]), r"model_type is \['llama'\]; accepted"),
    "an object for the type": (_edited(model_type={}), "model_type is {}; accepted: llama"),
    "a long type": (_edited(model_type="a" * 9999), r"model_type is 'a+\.\.\.a+'; accepted"),
    "another file": (_edited(configuration_files=["../x.json"], hidden_size=-1), "hidden_size is"),
    "layers without end": (_edited(num_hidden_layers=10**9), "layers is 1000000000; accepted: a w"),
    "more layers than weights": (_edited(num_hidden_layers=9999), r"missing: .*\{2,3,.*\.\.\.\}"),
    "fewer layers than weights": (_edited(num_hidden_layers=1), "unexpected: model.layers.1"),
    "heads that do not divide": (_edited(num_attention_heads=3, head_dim=None), "config.json"),
    "key heads that do not divide": (
        _edited(num_attention_heads=4, num_key_value_heads=3), "accepted: a multiple of num_key_va"
    ),
    "an odd head": (_edited(head_dim=3), "head_dim is 3; accepted: an even number"),
    "a head of 2**20": (_edited(head_dim=2**20), "head_dim is 1048576; accepted: an even number"),
    "a padding token too high": (_edited(pad_token_id=19), "pad_token_id is 19; accepted: null, o"),
    "labels without end": (_edited(num_labels=10**9), "num_labels is 1000000000; accepted: null,"),
    "no labels": (_edited(id2label={}), "id2label is {}; accepted: null, an object of names"),
    "labels with a gap": (_edited(id2label={"0": "a", "2": "b"}), "id2label is .*; accepted: null"),
    "labels of numbers": (_edited(id2label={"0": 1}), "id2label is {'0': 1}; accepted: null"),
    "labels of text": (_edited(id2label={"x": "a"}), "id2label is {'x': 'a'}; accepted: null"),
    "a list of labels": (_edited(id2label=["a"]), r"id2label is \['a'\]; accepted: null"),
    "rotation of text": (_edited(rope_parameters="x"), "rope_parameters is 'x'; accepted: null, a"),
    "a base of text": (_edited(rope_parameters={"rope_theta": "x"}), "rope_theta is 'x'; accepted"),
    "a factor of 0": (
        _edited(rope_scaling={"type": "linear", "factor": 0}), "rope_scaling's factor is 0; accept"
    ),
    "no factor": (_edited(rope_scaling={"type": "linear"}), "config.json"),
    "a list for the rotation's type": (
        _edited(rope_parameters={"rope_type": [], "rope_theta": 1e4}), r"rope_type is \[\]; accept"
    ),
    "half a rotation": (_edited(partial_rotary_factor=0.5), "partial_rotary_factor is not 1; acc"),
    "equal frequencies": (_edited(rope_parameters=ROPE), "high_freq_factor is 4.0; accepted: more"),
    "an element type of text": (_edited(torch_dtype="x"), "is not a valid llama configuration"),
    "a quantized model": (_edited(quantization_config={}), "has a quantization_config; accepted"),
    "an activation": (_edited(hidden_act="os.system"), "activation is 'os.system'; accepted: silu"),
}  # fmt: skip


@pytest.mark.parametrize("spoil, match", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_configuration_is_refused(llama, spoil, match):
    spoil(llama / "config.json")
    sentence = _sentence(llama, "causal-lm")
    assert sentence is not None and re.search(match, sentence), sentence


BAD_FAMILIES = {
    "mistral with layer types": (
        "mistral", {"layer_types": ["full_attention"] * 2}, "has layer_types; accepted: mistral"
    ),
    "a layer type too few": ("gemma2", {"layer_types": ["full_attention"]}, "config.json"),
    "an unknown layer type": ("qwen3", {"layer_types": ["x", "y"]}, "config.json"),
    "both directions": ("gemma", {"use_bidirectional_attention": True}, "accepted: causal attenti"),
    "a partial rotation of one": (
        "phi3", {"partial_rotary_factor": 0.25, "rope_scaling": None}, "is 0.25; accepted: a number"
    ),
    "a factor too few": (
        "phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0, 2.0]}},
        "config.json",
    ),
    "a factor of text": (
        "phi3", {"rope_scaling": {"type": "su", "short_factor": ["x"], "long_factor": [1.0, 2.0]}},
        r"short_factor is \['x'\]; accepted: null, a list of numbers",
    ),
    "no factors": ("phi3", {"rope_scaling": {"type": "su"}}, "config.json"),
    "a theta by layer": (
        "gemma3_text", {"rope_parameters": {"full_attention": {"rope_theta": "x"}}},
        "rope_theta is 'x'; accepted",
    ),
    "a pattern of 0": (
        "gemma3_text", {"sliding_window_pattern": 0, "layer_types": None},
        "sliding_window_pattern is 0; accepted: a whole number from 1",
    ),
    "more experts than there are": (
        "mixtral", {"num_experts_per_tok": 4}, "is 4; accepted: at most num_local_experts, which"
    ),
    "experts without end": ("mixtral", {"num_local_experts": 10**9}, "is 1000000000; accepted"),
    "noise of the router": ("mixtral", {"router_jitter_noise": 0.1}, "is 0.1; accepted: 0"),
    "rotations of text": ("smollm3", {"no_rope_layers": ["x", 1]}, "accepted: null, a list of 0"),
    "a layer too many": ("smollm3", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers is a list of 3"),
    "a text part of text": ("gemma3", {"text_config": "x"}, "text_config is 'x'; accepted: an obj"),
    "a text part without end": (
        "gemma3", {"text_config": {"num_hidden_layers": 10**9}},
        "text_config's num_hidden_layers is 1000000000; accepted",
    ),
    "another text part": (
        "gemma3", {"text_config": {**CONFIGS["llama"], "model_type": "llama"}},
        "text_config's model_type is 'llama'; accepted: gemma3_text",
    ),
    "GPT-2's heads": ("gpt2", {"n_head": 3}, "n_embd is 8; accepted: a multiple of n_head, which"),
    "GPT-2's layers": ("gpt2", {"n_layer": 10**9}, "n_layer is 1000000000; accepted"),
    "GPT-2's other name": ("gpt2", {"num_hidden_layers": 10**9}, "num_hidden_layers is 10000000"),
    "GPT-2's switch": ("gpt2", {"scale_attn_weights": "no"}, "is 'no'; accepted: true, false"),
    "T5's odd buckets": ("t5", {"relative_attention_num_buckets": 7}, "is 7; accepted: a multiple"),
    "T5's two buckets": ("t5", {"relative_attention_num_buckets": 2}, "is 2; accepted: a multiple"),
    "T5's distance": ("t5", {"relative_attention_max_distance": 4}, "is 4; accepted: more than ha"),
    "T5's start": ("t5", {"decoder_start_token_id": 19}, "is 19; accepted: a whole number from 0"),
    "T5 without an end": ("t5", {"eos_token_id": None}, "eos_token_id is None; accepted: a whole"),
    "T5's ends": ("t5", {"eos_token_id": []}, r"eos_token_id is \[\]; accepted: null, one or"),
    "T5's gate": ("t5", {"feed_forward_proj": "gated-x"}, "activation is 'x'; accepted: silu"),
    "BERT as a decoder": ("bert", {"is_decoder": True}, "a decoder; accepted: encoders"),
    "BERT's heads": ("bert", {"num_attention_heads": 3}, "hidden_size is 8; accepted: a multiple"),
    "BERT's positions": ("bert", {"position_embedding_type": "rope"}, "is 'rope'; accepted: absol"),
    "RoBERTa without padding": ("roberta", {"pad_token_id": None}, "is None; accepted: a whole nu"),
    "RoBERTa's positions": ("roberta", {"pad_token_id": 15}, "is 15; accepted: a whole number fro"),
    "DeBERTa's scores": ("deberta-v2", {"pos_att_type": ["p2p"]}, "accepted: of c2p and p2c"),
    "DeBERTa's buckets": ("deberta-v2", {"position_buckets": 1}, "is 1; accepted: 0, or from 2"),
    "DeBERTa's many buckets": ("deberta-v2", {"position_buckets": 64}, "is 64; accepted: 0, or fr"),
    "DeBERTa's groups": ("deberta-v2", {"conv_groups": 3}, "accepted: a multiple of conv_groups"),
    "DeBERTa's even width": ("deberta-v2", {"conv_kernel_size": 4}, "accepted: 0, or an odd numbe"),
}  # fmt: skip


@pytest.mark.parametrize("kind, changes, match", BAD_FAMILIES.values(), ids=BAD_FAMILIES)
def test_a_family_refuses_a_value(folders, tmp_path, kind, changes, match):
    folder = write_config(tmp_path / kind, {"model_type": kind, **CONFIGS.get(kind, {}), **changes})
    if kind in CONFIGS:
        (folder / WEIGHTS).write_bytes((folders(kind) / WEIGHTS).read_bytes())
    sentence = _sentence(folder, first_task(kind))
    assert sentence is not None and re.search(match, sentence), sentence


def _header(change):
    """A file whose header is changed, its data left alone."""

    def spoil(path):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        change(header)
        encoded = json.dumps(header).encode()
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])

    return spoil


def _tensors(change):
    def spoil(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return spoil


def _tensor(name, value):
    return _tensors(lambda tensors: tensors.update({name: value}))


def _with(value, dtype=np.float32, place=0):
    array = np.full(8, 0.01, dtype)
    array[place] = value
    return array


def _only_index(weight_map, *more):
    def spoil(path):
        path.rename(path.with_name("a.safetensors"))
        for change in more:
            change(path.with_name("a.safetensors"))
        (path.parent / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return spoil


NORM = "model.norm.weight"
ONE = np.ones(1, "f")
KERNEL = "model.layers.1.mlp.down_proj.weight"
NOT_FINITE = f"{NORM} in .*{WEIGHTS} has NaN or infinite numbers; accepted: finite weights"
BAD_WEIGHTS = {
    "missing": (os.unlink, f"has neither {WEIGHTS} nor {INDEX}; accepted"),
    "empty": (_holding(b""), f"{WEIGHTS} is not a whole safetensors file"),
    "a header of 2**60 bytes": (_holding(b"\x00" * 7 + b"\x10{}"), "truncated or damaged"),
    "no tensor": (_holding(b"\x02" + b"\x00" * 7 + b"{}"), "missing: .*model.embed_tokens.weight"),
    "a pipe": (_fifo, f"{WEIGHTS} is no regular file"),
    "a folder": (_folder, f"{WEIGHTS} is no regular file"),
    "a device": (_device, f"{WEIGHTS} is no regular file"),
    "a link to itself": (_loop, f"{WEIGHTS} cannot be looked up"),
    "a link outside": (_outside, f"{WEIGHTS} is a link that leaves the folder; accepted: a file"),
    "overlapping tensors": (
        _header(lambda h: h[NORM].update(data_offsets=[0, 32])), "truncated or damaged"
    ),
    "offsets beyond the end": (
        _header(lambda h: h[NORM].update(data_offsets=[0, 2**40])), "truncated or damaged"
    ),
    "negative offsets": (
        _header(lambda h: h[NORM].update(data_offsets=[-32, 0])), "truncated or damaged"
    ),
    "a huge shape": (_header(lambda h: h[NORM].update(shape=[2**62, 8])), "truncated or damaged"),
    "an unknown type": (_header(lambda h: h[NORM].update(dtype="X9")), "truncated or damaged"),
    "whole numbers in place": (_header(lambda h: h[NORM].update(dtype="I32")), "stored as I32; ac"),
    "I64": (_tensor(NORM, np.ones(8, np.int64)), "stored as I64; accepted: F64, F32, F16, BF16"),
    "truths": (_tensor(NORM, np.ones(8, bool)), "stored as BOOL; accepted: F64"),
    "one missing": (_tensors(lambda t: t.pop(NORM)), f"missing: {NORM}; accepted"),
    "one too many": (_tensor("model.x", np.ones(2, "f")), "unexpected: model.x; accepted"),
    "many too many": (
        _tensors(lambda t: t.update({f"x{i}y": np.ones(1, "f") for i in range(999)})),
        "unexpected: .*and 987 more; accepted",
    ),
    "a long name": (_tensor("a" * 9999, np.ones(2, "f")), r"unexpected: 'a+\.\.\.a+'; accepted"),
    "a name with lines": (_tensor("a\nb", np.ones(2, "f")), r"unexpected: 'a\\nb'; accepted"),
    "no element": (_tensor(NORM, np.ones(0, "f")), r"misshapen: model.norm.weight \[0\] instead"),
    "no axis": (_tensor(NORM, np.array(1.0, "f")), r"misshapen: model.norm.weight \[\] instead"),
    "transposed": (_tensor(KERNEL, np.ones((12, 8), "f")), r"misshapen: .*down_proj.weight \[12,"),
    "both names of a norm": (
        _tensors(lambda t: t.update({f"x.LayerNorm.{n}": ONE for n in ("gamma", "weight")})),
        "has both x.LayerNorm.*; accepted: one tensor for each parameter",
    ),
    "nan": (_tensor(NORM, _with(np.nan)), NOT_FINITE),
    "inf": (_tensor(NORM, _with(np.inf, place=7)), NOT_FINITE),
    "-inf": (_tensor(NORM, _with(-np.inf)), NOT_FINITE),
    "nan in float64": (_tensor(NORM, _with(np.nan, np.float64)), NOT_FINITE),
    "nan in float16": (_tensor(NORM, _with(np.nan, np.float16)), NOT_FINITE),
    "-inf in bfloat16": (_tensor(NORM, _with(-np.inf, ml_dtypes.bfloat16)), NOT_FINITE),
    "nan in a stacked kernel": (
        _tensor(KERNEL, np.full((8, 12), np.nan, "f")), f"{KERNEL} in .* has NaN or infinite"
    ),
    "beyond float32": (
        _tensor(NORM, _with(1e300, np.float64)), f"{NORM} in .* beyond the range of float32; acc"
    ),
    "a pickle": (lambda p: p.rename(p.with_name("x.bin")), "has x.bin .*pickled weights are refus"),
    "an index of a list": (_only_index([]), r"has no weight_map .*but \[\]; accepted"),
    "an index of numbers": (_only_index({"x": 3}), r"has no weight_map .*; accepted"),
    "an index of nothing": (_only_index({}), r"has no weight_map .*but {}; accepted"),
    "an index outside": (_only_index({"x": "../a.safetensors"}), r"names \.\./a.safetensors; acc"),
    "an absolute index": (_only_index({"x": "/a.safetensors"}), "names /a.safetensors; accepted"),
    "an index with a NUL": (_only_index({"x": "a\0.safetensors"}), r"names 'a\\x00.safetensors';"),
    "an index to nothing": (_only_index({"x": "b.safetensors"}), "b.safetensors, which the folder"),
    "an index to a link": (
        _only_index({"x": "a.safetensors"}, _outside), "a.safetensors is a link that leaves the fo"
    ),
    "an index to a pipe": (_only_index({"x": "a.safetensors"}, _fifo), "is no regular file; accep"),
    "a misplacing index": (_only_index({"x": "a.safetensors"}), "places x in files that do not"),
}  # fmt: skip


@pytest.mark.parametrize("spoil, match", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_are_refused(llama, spoil, match):
    spoil(llama / WEIGHTS)
    sentence = _sentence(llama, "causal-lm")
    assert sentence is not None and re.search(match, sentence), sentence


def test_the_largest_finite_weights_load(llama):
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        _tensor(NORM, _with(ml_dtypes.finfo(dtype).max, dtype))(llama / WEIGHTS)
        assert _sentence(llama, "causal-lm") is None


def test_numbers_beyond_float16_are_refused_there_alone(llama):
    _tensor(NORM, _with(1e6))(llama / WEIGHTS)
    with pytest.raises(BadInput, match=f"{NORM} in .* beyond the range of float16; accepted"):
        load_checkpoint(llama, dtype="float16")
    assert _sentence(llama, "causal-lm") is None


@pytest.fixture
def hub(llama, tmp_path):
    """The tiny Llama as the hub's cache keeps it: links from a snapshot to blobs."""
    snapshot = tmp_path / "models--x--y" / "snapshots" / "0123"
    blobs = tmp_path / "models--x--y" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (llama / "tokenizer.json").write_text("{}")
    for number, path in enumerate(sorted(llama.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_links_of_the_hub_are_followed(hub, tmp_path):
    loaded = load_checkpoint(hub)
    saved = save_pretrained(tmp_path / "saved", loaded.params, source=hub)
    assert (saved / "tokenizer.json").read_text() == "{}"
    assert not (saved / "tokenizer.json").is_symlink()
    assert fingerprint(hub) == fingerprint(tmp_path / "llama")


def test_a_folder_may_be_a_link(llama, tmp_path):
    (tmp_path / "link").symlink_to(llama)
    assert _sentence(tmp_path / "link", "causal-lm") is None


KNOWN = {"tokenizer.json", "vocab.txt", "generation_config.json", "chat_template.jinja"}


def test_known_files_alone_are_saved(llama, tmp_path):
    for name in (*KNOWN, "vocab_secret", "tokenizer.py", "x.model"):
        (llama / name).write_text(name)
    (llama / "vocab_link").symlink_to("/etc/passwd")
    (llama / "tokenizer_old").mkdir()
    (llama / "additional_chat_templates").mkdir()
    (llama / "additional_chat_templates" / "short.jinja").write_text("x")
    params = load_checkpoint(llama).params
    saved = save_pretrained(tmp_path / "saved", params, source=llama)
    assert {path.name for path in saved.iterdir()} == KNOWN | {
        "config.json", WEIGHTS, "additional_chat_templates"
    }  # fmt: skip
    assert (saved / "additional_chat_templates" / "short.jinja").read_text() == "x"


COPIED = {
    "a link outside": (_elsewhere, "is a link that leaves the folder; accepted: a file in the fol"),
    "a link to a device": (_device, "is no regular file; accepted: a regular file"),
    "a pipe": (_fifo, "is no regular file; accepted: a regular file"),
    "a folder": (_folder, "is no regular file; accepted: a regular file"),
    "a dangling link": (_loop, "cannot be looked up .*; accepted: a regular file"),
}
COPIED_NAMES = ["tokenizer.json", "vocab.json", "additional_chat_templates/x.jinja"]


@pytest.mark.parametrize("name", COPIED_NAMES)
@pytest.mark.parametrize("spoil, match", COPIED.values(), ids=COPIED)
def test_a_file_to_copy_is_refused_at_load(llama, name, spoil, match):
    path = llama / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    spoil(path)
    sentence = _sentence(llama, "causal-lm")
    assert sentence is not None and re.search(f"{name} {match}", sentence), sentence


SOURCES = {
    "a user who does not exist": "~nobody_here/model",
    "a long name": "a" * 5000,
    "a NUL": "a\0b",
    "lines": "a\nb",
    "a file": "{llama}/config.json",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_source_is_refused(llama, source):
    with pytest.raises(BadInput, match=r"is neither a folder nor a model.*accepted: a Hug") as info:
        load_model(source.format(llama=llama))
    assert "\n" not in str(info.value) and len(str(info.value)) < 1000


def test_a_model_from_scratch_must_fit_into_memory(tmp_path):
    sizes = {"hidden_size": 2**30, "vocab_size": 2**30, "num_hidden_layers": 9999}
    folder = write_config(tmp_path / "x", {"model_type": "llama", **CONFIGS["llama"], **sizes})
    with pytest.raises(BadInput, match=r"a llama model of .* GiB of memory; accepted: smaller siz"):
        init_params(load_model(folder), jax.random.key(0))


def test_a_fingerprint_changes_with_each_part(llama, tmp_path):
    first = fingerprint(llama)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(shutil.copytree(llama, tmp_path / "elsewhere")) == first

    weights = llama / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    second = fingerprint(llama)
    _edited(rms_norm_eps=1e-5)(llama / "config.json")
    assert len({first, second, fingerprint(llama)}) == 3


RUNS = {
    "nan": (WEIGHTS, _tensor(NORM, _with(np.nan)), NOT_FINITE),
    "layers": ("config.json", _edited(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "a link": ("tokenizer_config.json", _outside, "tokenizer_config.json is a link that leaves"),
}


@pytest.mark.parametrize("name, spoil, match", RUNS.values(), ids=RUNS)
def test_a_run_is_refused(refused, run_arguments, tiny_llama, tmp_path, name, spoil, match):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    if match is NOT_FINITE:
        spoil = _tensors(lambda tensors: tensors[NORM].fill(np.nan))
    spoil(folder / name)
    arguments = run_arguments(tmp_path / "run", "--model.source", str(folder))
    assert re.search(match, refused(["train", *arguments]))
