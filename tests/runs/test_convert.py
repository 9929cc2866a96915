"""Pickled weights converted to safetensors: the same numbers, no code run, bad input refused."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import balora_jax
from balora_jax.cli import main
from balora_jax.models.hf import pickled
from balora_jax.runs import convert


def _refusal(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    return sentence


@pytest.fixture
def model(tiny_llama, tmp_path):
    """A copy of the tiny Llama whose weights are pickled, and those weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    weights = load_torch(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder, weights


def _convert(source, out):
    main(["convert", str(source), "--out", str(out)])


@pytest.mark.parametrize("place", [".", "pytorch_model.bin"])
def test_a_converted_model_trains_and_has_the_same_weights(
    model, tiny_llama, run_arguments, tmp_path, capsys, place
):
    folder, _ = model
    _convert(folder / place, tmp_path / "out")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    expected = load_file(tiny_llama / "model.safetensors")
    actual = load_file(tmp_path / "out" / "model.safetensors")
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])
    names = {path.name for path in tiny_llama.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    if place == ".":
        more = ["--model.source", str(tmp_path / "out"), "--training.steps", "1"]
        main(["train", *run_arguments(tmp_path / "run", *more)])


def test_the_refusal_of_a_pickle_names_the_command(model, run_arguments, tmp_path, capsys):
    folder, _ = model
    more = ["--model.source", str(folder)]
    sentence = _refusal(["train", *run_arguments(tmp_path / "run", *more)], capsys)
    assert sentence.endswith(f"balora convert {folder} --out NEW_FOLDER")
    (folder / "pytorch_model.bin").rename(folder / "my weights.pt")
    sentence = _refusal(["train", *run_arguments(tmp_path / "run", *more)], capsys)
    assert sentence.endswith(f"balora convert '{folder / 'my weights.pt'}' --out NEW_FOLDER")
    _convert(folder / "my weights.pt", tmp_path / "out")
    balora_jax.load_pretrained(tmp_path / "out")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_format_and_type_is_read(model, tmp_path, dtype, new_format):
    folder, weights = model
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    path = folder / "pytorch_model.bin"
    torch.save(cast, path, _use_new_zipfile_serialization=new_format)
    _convert(folder, tmp_path / "out")
    written = load_torch(tmp_path / "out" / "model.safetensors")
    for name, tensor in cast.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor)


def _in_parts(folder, weights):
    """Write the weights in two files with an index."""
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / pickled.INDEX_FILE
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index, weight_map


def test_a_model_in_parts(model, tmp_path):
    folder, weights = model
    _in_parts(folder, weights)
    _convert(folder, tmp_path / "out")
    written = load_torch(tmp_path / "out" / "model.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda weight_map: {"weight_map": {"a": "../../x.bin"}}, "accepted: .bin files in the"),
        (lambda weight_map: {"weight_map": {"a": "x.py"}}, "accepted: .bin files in the"),
        (lambda weight_map: {"weight_map": {"a": "gone.bin"}}, "has no gone.bin"),
        (lambda weight_map: {"weight_map": {}}, "has no weight_map"),
        (lambda weight_map: {"weight_map": 5}, "has no weight_map"),
        (
            lambda weight_map: {
                "weight_map": weight_map | {"more": "pytorch_model-00001-of-00002.bin"}
            },
            "names more, which the files do not have",
        ),
    ],
)
def test_a_bad_index_is_refused(model, tmp_path, capsys, change, sentence):
    folder, weights = model
    index, weight_map = _in_parts(folder, weights)
    index.write_text(json.dumps(change(weight_map)))
    assert sentence in _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def _set_tied(folder, tied):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_written_once_or_as_config_wants_them(model, tmp_path, capsys, tied):
    folder, weights = model
    _set_tied(folder, tied)
    embedding = weights["model.embed_tokens.weight"]
    # In the order of a model: the embedding comes first.
    ordered = {"model.embed_tokens.weight": embedding} | weights | {"lm_head.weight": embedding}
    torch.save(ordered, folder / "pytorch_model.bin")
    _convert(folder, tmp_path / "out")
    written = load_torch(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["model.embed_tokens.weight"], embedding)
    assert ("lm_head.weight" in written) != tied
    said = "left out, being the same tensors as others: lm_head.weight"
    assert (said in capsys.readouterr().err) == tied
    _, params = balora_jax.load_pretrained(tmp_path / "out")
    assert ("lm_head" in params) != tied


def test_the_head_is_left_out_whatever_the_order_and_by_the_type(model, tmp_path, capsys):
    """A config.json that says nothing leaves it to the model type: a Llama's head is its own."""
    folder, weights = model
    embedding = weights["model.embed_tokens.weight"]
    ordered = {"lm_head.weight": embedding} | {
        name: tensor for name, tensor in weights.items() if name != "lm_head.weight"
    }
    torch.save(ordered, folder / "pytorch_model.bin")
    _set_tied(folder, True)
    _convert(folder, tmp_path / "tied")
    assert "lm_head.weight" in capsys.readouterr().err
    written = load_torch(tmp_path / "tied" / "model.safetensors")
    assert "model.embed_tokens.weight" in written and "lm_head.weight" not in written
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    _convert(folder, tmp_path / "both")
    written = load_torch(tmp_path / "both" / "model.safetensors")
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(written)


def test_a_full_disk_is_a_sentence(model, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise SafetensorError("Error: I/O error: No space left on device (os error 28)")

    folder, _ = model
    monkeypatch.setattr(convert.models, "write_checkpoint", fail)
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(folder), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "could not be written (No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


ODD = {
    "the name of safetensors' own entry": lambda: {"__metadata__": torch.ones(2)},
    "half a character": lambda: {"\ud800": torch.ones(2)},
    "a view without end": lambda: {"a": torch.zeros(1).expand(10**6, 10**6)},
}


@pytest.mark.parametrize("case", ODD)
def test_tensors_that_cannot_be_written_are_refused(model, tmp_path, capsys, case):
    folder, _ = model
    torch.save(ODD[case](), folder / "pytorch_model.bin")
    sentence = _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert "which are no dense tensors of numbers" in sentence
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_is_found(model, tmp_path, capsys):
    folder, _ = model
    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.ones(4096)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(bytes(torch.ones(64).numpy().tobytes())) + 40
    content[place] ^= 1
    path.write_bytes(content)
    sentence = _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert "is damaged" in sentence and "accepted: a whole file" in sentence


def test_parts_of_one_tensor_are_written_whole(model, tmp_path):
    folder, weights = model
    name = "model.embed_tokens.weight"
    larger = torch.cat([weights[name], weights[name] + 1])
    transposed = weights["lm_head.weight"].T.contiguous().T
    views = {name: larger[: len(weights[name])], "lm_head.weight": transposed}
    torch.save(weights | views, folder / "pytorch_model.bin")
    _convert(folder, tmp_path / "out")
    written = load_torch(tmp_path / "out" / "model.safetensors")
    for name, tensor in weights.items():
        assert torch.equal(written[name], tensor)


class Malicious:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["beside", "instead", "as a name"])
def test_code_in_a_pickle_is_not_run(model, tmp_path, capsys, place, new_format):
    folder, weights = model
    mark = tmp_path / "mark"
    bad = Malicious(os.mkdir, str(mark))
    values = {"beside": weights | {"x": bad}, "instead": bad, "as a name": {bad: weights}}[place]
    path = folder / "pytorch_model.bin"
    torch.save(values, path, _use_new_zipfile_serialization=new_format)
    sentence = _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert f"{path} calls posix.mkdir, and is refused: a pickle can run any code" in sentence
    assert not mark.exists() and not (tmp_path / "out").exists()


NOT_WEIGHTS = {
    "a list": [torch.ones(2)],
    "a tensor": torch.ones(2),
    "no tensors": {},
    "a checkpoint": {"state_dict": {"a": torch.ones(2)}, "epoch": 3},
    "numbers for names": {1: torch.ones(2)},
    "sparse": {"a": torch.eye(2).to_sparse()},
    "complex": {"a": torch.ones(2, dtype=torch.complex64)},
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_other_contents_are_refused(model, tmp_path, capsys, what):
    folder, _ = model
    torch.save(NOT_WEIGHTS[what], folder / "pytorch_model.bin")
    sentence = _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert "pytorch_model.bin holds" in sentence and "accepted:" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02.", None])
def test_damaged_files_are_refused(model, tmp_path, capsys, content):
    folder, _ = model
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    sentence = _refusal(["convert", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert str(path) in sentence and "accepted: a" in sentence and "fault of balora" not in sentence


def test_other_sources_and_outputs_are_refused(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    out = tmp_path / "out"

    def sentence(source, target=out):
        return _refusal(["convert", str(source), "--out", str(target)], capsys)

    assert "does not exist" in sentence(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "has neither pytorch_model.bin nor" in sentence(tmp_path / "empty")
    assert "is no file of pickled weights" in sentence(folder / "config.json")
    assert "is in " in sentence(folder, folder / "inside")
    shutil.copyfile(folder / "pytorch_model.bin", tmp_path / "alone.bin")
    assert "has no config.json" in sentence(tmp_path / "alone.bin")
    (tmp_path / "empty" / "pytorch_model.bin").symlink_to(folder / "pytorch_model.bin")
    assert "is a link that leaves the folder" in sentence(tmp_path / "empty")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("")
    assert "exists and is not empty" in sentence(folder)
    assert "--out must be given" in _refusal(["convert", str(folder)], capsys)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_pytorch_is_asked_for(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    arguments = ["convert", str(folder), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.5.1+cpu")
    assert "PyTorch 2.5.1+cpu does not read pickled weights safely" in _refusal(arguments, capsys)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentence = _refusal(arguments, capsys)
    assert 'which is not installed; accepted: pip install "balora-jax[convert]"' in sentence
    assert not pathlib.Path(tmp_path / "out").exists()
