"""Adapters on the hub: their files alone, what is missing on repetition, and what is refused."""

import json

import huggingface_hub
import numpy as np
import pytest
from fake_hub import serving
from safetensors.numpy import save_file

from balora_jax.cli import main
from balora_jax.errors import BadInput, OutputError
from balora_jax.runs import push


@pytest.fixture
def hub(monkeypatch):
    with serving(monkeypatch) as served:
        yield served


@pytest.fixture
def adapter(tmp_path):
    """A folder with the files of an adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\nby balora-jax\n")
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones(1000, "f")}, folder / "adapter_model.safetensors")
    return folder


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _refusal(arguments, capsys, code=2):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


def test_a_folder_is_pushed_to_a_new_private_repository(hub, adapter, capsys):
    main(["push", "--adapter", str(adapter), "--to", "user/mine"])
    repository = hub.repositories["user/mine"]
    assert repository["private"] and repository["files"] == _files(adapter)
    assert capsys.readouterr().out.strip().endswith("/user/mine")


def test_a_repetition_sends_what_is_missing(hub, adapter):
    arguments = ["push", "--adapter", str(adapter), "--to", "user/mine"]
    hub.broken = "/commit/"
    with pytest.raises(SystemExit):
        main(arguments)
    sent = hub.uploaded
    assert sent > 4000 and not hub.repositories["user/mine"]["files"]
    hub.broken = "(?!)"
    main(arguments)
    # The weights were there already.
    assert hub.uploaded == sent and hub.commits == 1
    assert hub.repositories["user/mine"]["files"] == _files(adapter)
    main(arguments)
    assert hub.commits == 1
    (adapter / "README.md").write_text("by balora-jax, better")
    main(arguments)
    assert hub.commits == 2 and hub.uploaded == sent
    assert hub.repositories["user/mine"]["files"] == _files(adapter)


def test_a_public_repository_is_refused_unless_asked_for(hub, adapter, capsys):
    arguments = ["push", "--adapter", str(adapter), "--to", "user/mine"]
    hub.repositories["user/mine"] = {"private": False, "files": {}}
    sentence = _refusal(arguments, capsys)
    assert "user/mine is public, and the adapter is to be private" in sentence
    assert not hub.repositories["user/mine"]["files"]
    main([*arguments, "--private", "false"])
    assert hub.repositories["user/mine"]["files"]
    main(["push", "--adapter", str(adapter), "--to", "user/new", "--private", "false"])
    assert not hub.repositories["user/new"]["private"]


def test_nothing_but_an_adapters_files_is_pushed(hub, adapter, tmp_path, capsys):
    arguments = ["push", "--adapter", str(adapter), "--to", "user/mine"]
    secret = adapter / "secret.txt"
    secret.write_text("key")
    assert "holds secret.txt, which balora did not write" in _refusal(arguments, capsys)
    secret.rename(tmp_path / "vocab.txt")
    (adapter / "vocab.txt").symlink_to(tmp_path / "vocab.txt")
    assert "is a link that leaves the folder" in _refusal(arguments, capsys)
    (adapter / "vocab.txt").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors; accepted: adapter/" in _refusal(arguments, capsys)
    assert not hub.repositories


def test_without_a_network_the_command_is_said(hub, adapter, capsys):
    hub.broken = "preupload"
    arguments = ["push", "--adapter", str(adapter), "--to", "user/mine", "--private", "false"]
    sentence = _refusal(arguments, capsys, code=1)
    assert "nothing is lost, and this pushes what is missing: balora push --adapter" in sentence
    assert sentence.endswith(f"{adapter} --to user/mine --private false")


@pytest.mark.parametrize("name", ["mine", "user/mine/x", "user/", "../mine", "user/a b", "a/b--c",
    "user/mine.git", "user/" + "a" * 99, "-a/b", "https://huggingface.co/user/mine"])  # fmt: skip
def test_other_names_are_refused(run_arguments, adapter, tmp_path, capsys, name):
    train = ["train", *run_arguments(tmp_path / "run"), f"--output.push_to={name}"]
    for arguments in (train, ["push", "--adapter", str(adapter), f"--to={name}"]):
        assert "accepted: USER/REPO of letters" in _refusal(arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_names_are_those_that_the_hub_takes():
    from balora_jax.config.repositories import require_repository

    for name in ("user/mine", "Org-1/a.b_c-2", "u/m__n", "0/1"):
        require_repository("--to", name)
        huggingface_hub.utils.validate_repo_id(name)


def test_a_token_is_asked_for_before_anything_is_loaded(
    hub, run_arguments, adapter, tmp_path, monkeypatch, capsys
):
    more = ["--output.push_to", "user/mine", "--model.source", "/nowhere"]
    train = ["train", *run_arguments(tmp_path / "run", *more)]
    pushes = ["push", "--adapter", str(adapter), "--to", "user/mine"]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    for arguments in (train, pushes):
        sentence = _refusal(arguments, capsys)
        assert "there is no token of the hub; accepted: `hf auth login`" in sentence
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for arguments in (train, pushes):
        assert "HF_HUB_OFFLINE is set" in _refusal(arguments, capsys)
    assert not hub.requests and not (tmp_path / "run").exists()


def test_a_token_that_cannot_write_is_refused_before_training(hub, monkeypatch, capsys):
    hub.role = "read"
    with pytest.raises(BadInput, match="token of user may only read"):
        push.check_push("user/mine", private=True)
    hub.role = "write"
    monkeypatch.setattr(hub, "answer", lambda *_: (401, {"error": "Invalid username or password"}))
    with pytest.raises(BadInput, match="the hub refuses the token for user/mine"):
        push.check_push("user/mine", private=True)


def test_a_hub_that_does_not_answer_yet_is_a_note(hub, capsys):
    hub.broken = "whoami"
    push.check_push("user/mine", private=True)
    assert "note: the hub does not answer now" in capsys.readouterr().err
    hub.broken = "(?!)"
    push.check_push("user/mine", private=True)
    assert not hub.repositories and capsys.readouterr().err == ""
    hub.repositories["user/mine"] = {"private": False, "files": {}}
    with pytest.raises(BadInput, match="user/mine is public"):
        push.check_push("user/mine", private=True)
    push.check_push("user/mine", private=False)


def test_a_run_is_pushed_and_a_failure_costs_nothing(hub, run_arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["train", *run_arguments(folder, "--output.push_to", "user/mine")]
    hub.broken = "/commit/"
    sentence = _refusal(arguments, capsys, code=1)
    assert sentence.endswith(f"balora push --run {folder} --to user/mine")
    assert json.loads((folder / "summary.json").read_text())["steps"] == 6
    hub.broken = "(?!)"
    main(["push", "--run", str(folder), "--to", "user/mine"])
    pushed = hub.repositories["user/mine"]
    assert pushed["private"] and pushed["files"] == _files(folder / "adapter")
    # The base is a folder of this machine, which the hub takes for no model.
    assert b"base_model" not in pushed["files"]["README.md"].split(b"---")[1]
    pushed["files"].clear()
    main([*arguments, "--output.resume"])
    assert "pushed to http" in capsys.readouterr().out
    assert pushed["files"] == _files(folder / "adapter")


def test_what_has_no_adapter_is_refused(hub, run_arguments, tmp_path, capsys):
    more = ["--output.push_to", "user/mine", "--method", "full", "--adapter.init", "null"]
    sentence = _refusal(["train", *run_arguments(tmp_path / "run", *more)], capsys)
    assert "output.push_to is 'user/mine'; accepted: nothing under method full" in sentence
    compare = ["compare", "--out", str(tmp_path / "out"), *run_arguments(tmp_path / "run")]
    sentence = _refusal([*compare, "--output.push_to", "user/mine"], capsys)
    assert "accepted: nothing in a comparison" in sentence
    sentence = _refusal(["push", "--to", "user/mine"], capsys)
    assert "--run and --adapter: one of them must be given" in sentence
    sentence = _refusal(["push", "--run", str(tmp_path), "--to", "user/mine"], capsys)
    assert "is no run's folder" in sentence


def test_python_gets_the_failure_as_an_exception(hub, adapter):
    hub.broken = "create"
    options = push.PushOptions("user/mine", adapter=str(adapter))
    with pytest.raises(OutputError, match=r"could not be pushed to user/mine"):
        push.push_folder(options)
