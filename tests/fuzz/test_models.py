"""Random and mutated model folders: loaded, or refused in one sentence."""

import json
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from model_folders import CONFIGS, first_task, write_model

from balora_jax.errors import BadInput
from balora_jax.models import load_checkpoint, load_model
from balora_jax.models.hf.config_file import RULES

KINDS = sorted(CONFIGS)
numbers = st.integers(-2, 20) | st.floats() | st.sampled_from([2**31, 10**9, 10**30])
values = json_values | numbers | st.booleans()
names = st.sampled_from([*sorted(RULES), "model_type", "dtype", "problem_type", "auto_map"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """model type -> the bytes of config.json and of the weights of a tiny folder."""
    written = {}
    for kind in KINDS:
        folder = write_model(tmp_path_factory.mktemp("models") / kind, kind)
        written[kind] = [
            (folder / name).read_bytes() for name in ("config.json", "model.safetensors")
        ]
    return written


def _load(load, contents, kind):
    """Load a folder of the two files' bytes; None if it is refused, in one sentence."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file, content in zip(("config.json", "model.safetensors"), contents, strict=True):
            (folder / file).write_bytes(content)
        try:
            return load(folder, task=first_task(kind))
        except BadInput as error:
            sentence = str(error)
            assert "\n" not in sentence and len(sentence) < 3000
            assert name in sentence or "task is" in sentence
            return None


def _changed(config, changes):
    return json.dumps({**json.loads(config), **changes}).encode()


@fuzz
@given(st.sampled_from(KINDS), st.dictionaries(names, values, min_size=1, max_size=3))
def test_changed_configurations(files, kind, changes):
    config, weights = files[kind]
    _load(load_model, (_changed(config, changes), weights), kind)


@fuzz
@given(st.sampled_from(KINDS), st.dictionaries(names, numbers, min_size=1, max_size=1))
def test_changed_numbers_before_the_weights(files, kind, changes):
    config, weights = files[kind]
    loaded = _load(load_checkpoint, (_changed(config, changes), weights), kind)
    if loaded is not None:
        leaves = jax.tree.leaves(loaded.params)
        assert sum(leaf.size for leaf in leaves) < 10_000
        assert all(np.isfinite(leaf).all() for leaf in leaves)


@fuzz
@given(st.dictionaries(names, values) | json_values)
def test_random_configurations(files, config):
    content = json.dumps(config).encode("utf-8", "surrogatepass")
    _load(load_model, (content, files["llama"][1]), "llama")


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes(files, content):
    config, weights = files["llama"]
    assert _load(load_checkpoint, (content, weights), "llama") is None
    assert _load(load_checkpoint, (config, content), "llama") is None


@fuzz
@given(st.integers(0, 2**31), st.binary(min_size=1, max_size=8), st.booleans())
def test_changed_bytes_of_the_weights(files, place, change, is_cut):
    config, weights = files["llama"]
    place %= len(weights)
    rest = b"" if is_cut else weights[place + len(change) :]
    loaded = _load(load_checkpoint, (config, weights[:place] + change + rest), "llama")
    if loaded is not None:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params))


@fuzz
@given(st.data())
def test_changed_headers(files, data):
    config, weights = files["llama"]
    size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    types = st.sampled_from(["F64", "F16", "BF16", "I64", "F8_E4M3", "BOOL", "U16"])
    shapes = st.lists(st.integers(-1, 100) | st.integers(), max_size=4)
    header[name][field] = data.draw(types | shapes | json_values)
    encoded = json.dumps(header).encode("utf-8", "surrogatepass")
    content = len(encoded).to_bytes(8, "little") + encoded + weights[8 + size :]
    _load(load_checkpoint, (config, content), "llama")


@fuzz
@given(json_values | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(), st.text())}))
def test_random_indexes(files, index):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config.json").write_bytes(files["llama"][0])
        content = json.dumps(index).encode("utf-8", "surrogatepass")
        (folder / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(BadInput) as info:
            load_checkpoint(folder)
        assert "\n" not in str(info.value) and len(str(info.value)) < 3000
