"""A folder in a bucket and its copy: what is sent, in which order, and by whom."""

import pathlib

import fsspec
import pytest

from balora_jax.errors import BadInput, OutputError
from balora_jax.training import checksums
from balora_jax.training.bucket import Bucket, as_named, open_bucket, opened

ADDRESS = "memory://bucket/run"


@pytest.fixture
def files():
    """The files of a bucket that is empty."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def _names(files):
    names = (path.removeprefix("/bucket/run/") for path in files.find("/bucket/run"))
    return sorted(name for name in names if name != ".owner")


def _write(folder, **contents):
    for name, text in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def bucket(files, tmp_path):
    """A bucket that this run has claimed."""
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    bucket.check()
    bucket.fetch()
    bucket.claim()
    return bucket


def test_what_has_changed_is_sent(bucket, files, monkeypatch):
    _write(bucket.copy, config="1", checkpoints__1__state="2", plots__loss="3")
    bucket.push()
    assert _names(files) == ["checkpoints/1/state", "config", "plots/loss"]
    sent = []
    put = type(files).put
    monkeypatch.setattr(
        type(files), "put", lambda self, *names: sent.extend(names[1]) or put(self, *names)
    )
    bucket.push()
    assert sent == []
    _write(bucket.copy, config="more")
    (bucket.copy / "plots" / "loss").unlink()
    bucket.push()
    assert sent == ["/bucket/run/config"]
    assert files.cat("/bucket/run/config") == b"more"
    assert _names(files) == ["checkpoints/1/state", "config"]


def test_a_copy_is_the_same_as_the_bucket(bucket, files, tmp_path):
    _write(bucket.copy, config="1", checkpoints__1__state="2")
    bucket.push()
    other = Bucket(ADDRESS + "/", tmp_path / "other")
    _write(other.copy, stale="x", checkpoints__2__state="x")
    (other.copy / ".lock").write_text("locked")
    other.fetch()
    found = sorted(path for path in other.copy.rglob("*") if path.is_file())
    names = [path.relative_to(other.copy).as_posix() for path in found]
    assert names == [".lock", "checkpoints/1/state", "config"]
    other.claim()
    (other.copy / "config").unlink()
    other.push()
    assert _names(files) == ["checkpoints/1/state"]


@pytest.mark.parametrize("sent", range(6))
def test_a_push_that_is_cut_off_leaves_nothing_that_seems_whole(bucket, files, monkeypatch, sent):
    """A checkpoint without all of its files is known by its checksums; the older one is there."""
    _write(bucket.copy, config="1", checkpoints__1__a="2", checkpoints__1__b="2")
    checksums.write_checksums(bucket.copy / "checkpoints" / "1")
    bucket.push()
    _write(bucket.copy, metrics="3", checkpoints__2__a="4", checkpoints__2__b="5")
    _write(bucket.copy, **{"summary.json": "{}"})
    checksums.write_checksums(bucket.copy / "checkpoints" / "2")
    for path in (bucket.copy / "checkpoints" / "1").iterdir():
        path.unlink()

    left = [sent]
    put_file = type(files).put_file

    def failing(self, *arguments, **options):
        if not left[0]:
            raise ConnectionError("cut off")
        left[0] -= 1
        put_file(self, *arguments, **options)

    monkeypatch.setattr(type(files), "put_file", failing)
    if sent < 5:
        with pytest.raises(OutputError, match="cut off"):
            bucket.push()
    else:
        bucket.push()
    monkeypatch.undo()
    other = Bucket(ADDRESS, bucket.copy.with_name("other"))
    other.fetch()
    whole = {
        step: (other.copy / "checkpoints" / step).is_dir()
        and checksums.check_checksums(other.copy / "checkpoints" / step)
        for step in ("1", "2")
    }
    assert whole["1"] if sent < 5 else not whole["1"]
    if whole["2"]:
        assert whole["2"].checked
        assert (whole["2"].fault is None) == (sent >= 4)
    assert (other.copy / "summary.json").exists() == (sent == 5)


def test_a_run_that_lost_the_folder_ends(bucket, files, tmp_path):
    _write(bucket.copy, config="1")
    bucket.push()
    other = Bucket(ADDRESS, tmp_path / "other")
    other.fetch()
    other.claim()
    _write(bucket.copy, config="mine")
    with pytest.raises(OutputError, match="is written by another run now"):
        bucket.push()
    assert files.cat("/bucket/run/config") == b"1"
    _write(other.copy, config="theirs")
    other.push()
    assert files.cat("/bucket/run/config") == b"theirs"


def test_nothing_is_sent_before_the_claim(files, tmp_path):
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    bucket.check()
    bucket.fetch()
    _write(bucket.copy, config="1")
    bucket.push()
    assert files.find("/bucket/run") == []


def test_a_command_adds_and_deletes_nothing(bucket, files, tmp_path):
    _write(bucket.copy, config="1", plots__loss="2")
    bucket.push()
    reader = Bucket(ADDRESS, tmp_path / "reader")
    reader.fetch()
    (reader.copy / "plots" / "loss").unlink()
    _write(reader.copy, evaluation__report="3")
    reader.add()
    assert _names(files) == ["config", "evaluation/report", "plots/loss"]


def test_what_a_run_has_not_finished_stays_here(bucket, files):
    _write(bucket.copy, **{".adapter-host-1.part/x": "1", ".lock": "2", "config": "3"})
    _write(bucket.copy, **{"checkpoints/4.orbax-checkpoint-tmp-7/state": "4"})
    bucket.push()
    assert _names(files) == ["config"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b", "a\\b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(files, tmp_path, name, monkeypatch):
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    monkeypatch.setattr(type(files), "find", lambda self, root: [f"{root}/{name}"])
    with pytest.raises(BadInput, match="accepted: the files of a run alone"):
        bucket.fetch()
    assert list(tmp_path.rglob("*evil*")) == []


def test_a_file_that_is_deleted_meanwhile_is_no_fault(bucket, files, tmp_path, monkeypatch):
    """As an older checkpoint, by the run that writes: the folder is listed again."""
    _write(bucket.copy, config="1")
    bucket.push()
    find = type(files).find
    listed = []

    def with_gone(self, root):
        listed.append(root)
        return [*find(self, root), *([f"{root}/gone"] if len(listed) == 1 else [])]

    monkeypatch.setattr(type(files), "find", with_gone)
    other = Bucket(ADDRESS, tmp_path / "other")
    other.fetch()
    assert [path.name for path in other.copy.iterdir()] == ["config"]
    assert len(listed) == 2


def test_an_open_folder_is_found_by_its_address(tmp_path):
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    assert open_bucket("a/path") is None
    with opened(bucket):
        assert open_bucket(ADDRESS) is open_bucket(f"{ADDRESS}/") is bucket
        assert as_named(bucket.copy / "plots" / "loss.png") == f"{ADDRESS}/plots/loss.png"
        assert as_named(pathlib.Path("/elsewhere")) == "/elsewhere"
    with pytest.raises(BadInput, match="is an address; accepted here: a path"):
        open_bucket(ADDRESS)
