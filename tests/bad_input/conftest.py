"""The check that every row of the tables of bad input goes through."""

import pathlib

import pytest

from balora_jax.cli import main


def _files(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """The files of a folder with their sizes and times of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == ".lock":
            continue
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def refused(capsys, tmp_path):
    """(arguments) -> the sentence of a command that is refused; nothing in tmp_path is written."""

    def check(arguments: list[str]) -> str:
        before = _files(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        errors = capsys.readouterr().err
        assert exit_info.value.code == 2, errors
        assert "Traceback" not in errors
        *others, sentence = errors.splitlines()
        assert sentence.startswith("balora: "), errors
        assert not any(line.startswith("balora: ") for line in others), errors
        assert len(sentence) <= 2000, "a sentence that nobody reads"
        assert _files(tmp_path) == before, "something was written"
        return sentence

    return check
