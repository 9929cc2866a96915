"""A folder in a bucket and its copy: what is sent, in which order, and by whom."""

import errno
import pathlib
import shutil
import threading

import pytest

from balora_jax.errors import BadInput, OutputError
from balora_jax.training import checksums
from balora_jax.training.bucket import Bucket, _stamps, as_named, open_bucket, opened

ADDRESS = "memory://bucket/run"


@pytest.fixture
def files(memory_files):
    return memory_files


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
    if sent < 5:
        assert whole["1"].checked and whole["1"].fault is None
    else:
        assert not whole["1"]
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


def test_a_folder_that_another_run_writes_is_not_claimed(bucket, files, tmp_path):
    """It has sent a checkpoint since this one read the folder."""
    other = Bucket(ADDRESS, tmp_path / "other")
    other.fetch()
    _write(bucket.copy, checkpoints__6__state="6")
    bucket.push()
    _write(other.copy, config="theirs")
    with pytest.raises(BadInput, match="has changed since this run read it"):
        other.claim()
    other.push()
    assert _names(files) == ["checkpoints/6/state"]


@pytest.mark.parametrize("deleted", range(6))
def test_another_configuration_never_stands_beside_old_checkpoints(bucket, files, deleted):
    """As output.overwrite begins, and is cut off between two deletions."""
    _write(bucket.copy, **{"config.yaml": "old", "summary.json": "{}", "metrics.jsonl": ""})
    _write(bucket.copy, checkpoints__1__a="1", checkpoints__1__b="2")
    checksums.write_checksums(bucket.copy / "checkpoints" / "1")
    bucket.push()
    again = Bucket(ADDRESS, bucket.copy.with_name("again"))
    again.fetch()
    for name in ("summary.json", "metrics.jsonl"):
        (again.copy / name).unlink()
    shutil.rmtree(again.copy / "checkpoints")
    _write(again.copy, **{"config.yaml": "another"})

    left = [deleted]
    rm_file = type(files).rm_file

    def failing(self, path):
        if not left[0]:
            raise ConnectionError("cut off")
        left[0] -= 1
        rm_file(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(files), "rm_file", failing)
        if deleted < 5:
            with pytest.raises(OutputError, match="cut off"):
                again.claim()
        else:
            again.claim()
    seen = Bucket(ADDRESS, bucket.copy.with_name("seen"))
    seen.fetch()
    checkpoint = seen.copy / "checkpoints" / "1"
    if deleted < 5:
        assert (seen.copy / "config.yaml").read_text() == "old"
        assert not (seen.copy / "summary.json").exists() or deleted == 0
        if checkpoint.exists():
            check = checksums.check_checksums(checkpoint)
            assert check.checked and (check.fault is None) == (deleted < 2)
    else:
        assert (seen.copy / "config.yaml").read_text() == "another"
        assert [path.name for path in seen.copy.iterdir()] == ["config.yaml"]


def test_a_checkpoint_that_is_deleted_meanwhile_is_no_fault(bucket, files, monkeypatch):
    _write(bucket.copy, config="1", checkpoints__1__state="2", checkpoints__2__state="3")
    put = type(files).put

    def deleting(self, ours, theirs):
        shutil.rmtree(bucket.copy / "checkpoints" / "1", ignore_errors=True)
        put(self, ours, theirs)

    monkeypatch.setattr(type(files), "put", deleting)
    bucket.push()
    assert _names(files) == ["checkpoints/2/state", "config"]


def test_folders_that_are_deleted_while_they_are_listed(tmp_path):
    """As orbax does with older checkpoints."""
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    _write(bucket.copy, config="1")
    done = threading.Event()

    def come_and_go():
        while not done.is_set():
            _write(bucket.copy, **{f"checkpoints/{n}/state/d/{n}": "x" for n in range(5)})
            shutil.rmtree(bucket.copy / "checkpoints")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert "config" in _stamps(bucket.copy)
    finally:
        done.set()
        thread.join()


def test_a_disk_that_is_full_is_no_fault_of_the_bucket(bucket, files, monkeypatch):
    _write(bucket.copy, config="1")
    bucket.push()

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(files), "get", full)
    with pytest.raises(OutputError, match="cannot hold a copy of memory://bucket/run"):
        bucket.fetch()


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


def test_a_command_replaces_a_folder_as_a_whole(bucket, files, tmp_path):
    _write(bucket.copy, merged__old="1", plots__loss="2")
    bucket.push()
    reader = Bucket(ADDRESS, tmp_path / "reader")
    reader.fetch()
    (reader.copy / "merged" / "old").unlink()
    _write(reader.copy, merged__new="3")
    reader.add()
    assert _names(files) == ["merged/new", "plots/loss"]


def test_what_a_run_has_not_finished_stays_here(bucket, files):
    _write(bucket.copy, **{".adapter-host-1.part/x": "1", ".lock": "2", "config": "3"})
    _write(bucket.copy, **{"checkpoints/4.orbax-checkpoint-tmp-7/state": "4"})
    bucket.push()
    assert _names(files) == ["config"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b", "a\\b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(files, tmp_path, name, monkeypatch):
    bucket = Bucket(ADDRESS, tmp_path / "copy")
    monkeypatch.setattr(type(files), "find", lambda self, root, **_: {f"{root}/{name}": {}})
    with pytest.raises(BadInput, match="accepted: the files of a run alone"):
        bucket.fetch()
    assert list(tmp_path.rglob("*evil*")) == []


def test_a_file_that_is_deleted_meanwhile_is_no_fault(bucket, files, tmp_path, monkeypatch):
    """As an older checkpoint, by the run that writes: the folder is listed again."""
    _write(bucket.copy, config="1")
    bucket.push()
    find = type(files).find
    listed = []

    def with_gone(self, root, **options):
        listed.append(root)
        gone = {f"{root}/gone": {}} if len(listed) == 1 else {}
        return find(self, root, **options) | gone

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
        with opened(Bucket(ADDRESS, tmp_path / "inner")):
            assert open_bucket(ADDRESS) is not bucket
        assert open_bucket(ADDRESS) is bucket
    with pytest.raises(BadInput, match=f"^{ADDRESS}/config is damaged$"), opened(bucket):
        raise BadInput(f"{bucket.copy}/config is damaged")
    with opened(bucket):
        assert as_named(pathlib.Path("/elsewhere")) == "/elsewhere"
    with pytest.raises(BadInput, match="is an address; accepted here: a path"):
        open_bucket(ADDRESS)
