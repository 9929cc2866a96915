"""Random and mutated PEFT folders: read whole, or refused in one sentence."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from balora_jax.adapters.peft_format import (
    adapter_shapes,
    conversion_note,
    load_adapter,
    load_whole_modules,
)
from balora_jax.errors import BadInput

SHAPES = {"q": (2, 4, 4), "v": (2, 4, 3)}
RANDOM = np.random.default_rng(0)
PARAMS = {
    "layers": {
        name: {"kernel": RANDOM.normal(size=shape).astype(np.float32)}
        for name, shape in SHAPES.items()
    }
}
OPTIONS = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "bias": "none",
    "fan_in_fan_out": False, "target_modules": ["q", "v"], "init_lora_weights": True,
    "modules_to_save": None, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
    "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None,
}  # fmt: skip
TENSORS = {
    f"base_model.model.layers.{layer}.{name}.lora_{factor}.weight": RANDOM.normal(
        size=(2, 4) if factor == "A" else (shape[-1], 2)
    ).astype(np.float32)
    for layer in (0, 1)
    for name, shape in SHAPES.items()
    for factor in "AB"
}
WHOLE = save(TENSORS)
HEADER = json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])
DATA = WHOLE[8 + int.from_bytes(WHOLE[:8], "little") :]


def _file(header):
    """A safetensors file of a header and the tensors' bytes."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + DATA


def _is_read(options, weights):
    """Read a folder of the two files' bytes; False if it is refused, in one sentence."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "adapter_config.json").write_bytes(options)
        (folder / "adapter_model.safetensors").write_bytes(weights)
        try:
            shapes = adapter_shapes(folder, PARAMS)
            conversion_note(folder)
            load_whole_modules(folder)
            lora = load_adapter(folder, PARAMS)
        except BadInput as error:
            sentence = str(error)
            assert "\n" not in sentence and "accepted: " in sentence and len(sentence) < 1500
            sentence.encode()
            return False
    for name, layer in lora["layers"].items():
        for factor, array in layer.items():
            assert np.isfinite(array).all()
            assert array.shape == shapes["layers"][name][factor].shape
    return True


def _written(options):
    return json.dumps(options).encode()


def test_the_folder_that_is_mutated_is_read():
    assert _is_read(_written(OPTIONS), WHOLE)
    assert _is_read(_written(OPTIONS), _file(HEADER))


@fuzz
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_random_bytes(options, weights):
    assert not _is_read(options, weights)
    assert not _is_read(_written(OPTIONS), weights)


@fuzz
@given(json_values)
def test_random_json(options):
    assert not _is_read(_written(options), WHOLE)


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), json_values, min_size=1, max_size=3))
def test_changed_options(changed):
    _is_read(_written(OPTIONS | changed), WHOLE)


STARTS = st.sampled_from(["pissa", "olora", "eva", "pissa_niter_3", "corda", "PiSSA", "x", 0, {}])


@fuzz
@given(STARTS, st.floats(), st.booleans(), st.booleans())
def test_changed_starts(start, alpha, stabilized, transposed):
    changed = {"init_lora_weights": start, "lora_alpha": alpha, "use_rslora": stabilized,
               "fan_in_fan_out": transposed}  # fmt: skip
    _is_read(_written(OPTIONS | changed), WHOLE)


# Regular expressions out of their parts, most of them wrong.
PARTS = [
    *"qv01.*+?|()[]^$\\{},-", "layers", "(?:", "(?=", "(?P<a>", "{2,}", r"\d", "\n", "\ud800"
]  # fmt: skip
PATTERNS = st.lists(st.sampled_from(PARTS), max_size=8).map("".join) | st.text(max_size=8)
RANKS = st.dictionaries(PATTERNS, st.integers(-1, 3), max_size=3)


@fuzz
@given(PATTERNS, st.lists(PATTERNS, max_size=2), RANKS, st.none() | st.integers(-1, 2))
def test_changed_patterns(pattern, names, ranks, index):
    for changed in (
        {"target_modules": pattern},
        {"exclude_modules": pattern},
        {"exclude_modules": names},
        {"rank_pattern": ranks, "alpha_pattern": ranks},
        {"modules_to_save": names},
        {"layers_to_transform": index, "layers_pattern": names},
    ):
        _is_read(_written(OPTIONS | changed), WHOLE)


@fuzz
@given(st.text(max_size=20), json_values)
def test_further_options(name, value):
    _is_read(_written({name: value} | OPTIONS), WHOLE)


@pytest.mark.parametrize("name", ["options", "weights"])
@fuzz
@given(st.data())
def test_changed_bytes(name, data):
    """Some bytes are replaced, or the end is cut off or lengthened."""
    files = {"options": _written(OPTIONS), "weights": WHOLE}
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    tail = data.draw(st.binary(max_size=20))
    whole = data.draw(st.booleans())
    _is_read(**(files | {name: bytes(content if whole else content[:end] + tail)}))


@fuzz
@given(st.data())
def test_changed_headers(data):
    """Entries of the safetensors header get other names, types, shapes and places."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        field = data.draw(st.sampled_from(["name", "dtype", "shape", "data_offsets", "entry"]))
        if field == "name":
            header[data.draw(st.text(max_size=30))] = header.pop(name)
        elif field == "entry" or not isinstance(header[name], dict):
            header[name] = data.draw(json_values)
        elif field == "dtype":
            header[name]["dtype"] = data.draw(st.sampled_from(["F64", "F16", "I8", "F8_E4M3", "?"]))
        else:
            numbers = st.lists(st.integers(-1, 2**64), max_size=4) | st.lists(st.integers(0, 64))
            header[name][field] = data.draw(numbers)
    _is_read(_written(OPTIONS), _file(header))


@fuzz
@given(st.data())
def test_changed_tensors(data):
    """Whole files in which tensors have other shapes, types, names or values."""
    tensors = dict(TENSORS)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(TENSORS)))
        shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
        dtype = data.draw(st.sampled_from(["f4", "f8", "f2", "i4", "?", "u1"]))
        value = data.draw(st.sampled_from([0, 1, 6e4, float("nan"), float("inf")]))
        with np.errstate(invalid="ignore"):
            changed = np.full(shape, value).astype(dtype)
        renamed = data.draw(st.sampled_from([name, name.replace("lora_A", "lora_B"), "score.bias"]))
        if data.draw(st.booleans()):
            tensors.pop(name, None)
        tensors[renamed] = changed
    _is_read(_written(OPTIONS), save(tensors))
