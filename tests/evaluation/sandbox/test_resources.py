"""Programs that take too much: time, memory, output, files, processes; nothing is left of them."""

import tempfile
import time

import pytest

from balora_jax.evaluation.sandbox import levels
from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.programs import run_programs
from balora_jax.evaluation.sandbox.supervisor.folder import delete

LIMITS = Limits(seconds=3, cpu_seconds=10, memory_bytes=2**28, processes=16, files=300)
# Should a limit fail, the bombs end by themselves before they harm the machine.
BOMB = """
import os, time
end = time.monotonic() + 4
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""
DETACHING_BOMB = BOMB.replace("os.fork()", "os.fork() or os.setsid()")
GREEDY_FAMILY = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(b'x') * (60 * 2**20)
        time.sleep(6)
        os._exit(0)
time.sleep(6)
"""
EXCESSES = {
    "loop": ("while True: pass", {"timed out"}),
    "sleep": ("import time\ntime.sleep(60)", {"timed out"}),
    "deaf_loop": (
        "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass",
        {"timed out"},
    ),
    "stops_itself": ("import os\nos.kill(os.getpid(), 19)", {"timed out"}),
    "memory": ("data = bytearray(10**10)", {"out of memory"}),
    "growing_memory": ("data = []\nwhile True: data.append(bytearray(2**20))", {"out of memory"}),
    "memory_of_all": (GREEDY_FAMILY, {"out of memory"}),
    "output": ("while True: print('x' * 10**5)", {"too much output"}),
    "errors": ("import sys\nwhile True: sys.stderr.write('x' * 10**5)", {"too much output"}),
    "large_file": (
        "with open('x', 'wb') as f:\n    for _ in range(10**4): f.write(bytes(10**6))",
        {"too much output"},
    ),
    "large_files": (
        "for n in range(200):\n    with open(f'{n}', 'wb') as f: f.write(bytes(10**7))",
        {"too much output"},
    ),
    "million_files": (
        "for n in range(10**6): open(f'{n}', 'w').close()",
        {"too much output"},
    ),
    "deep_folders": (
        "import os\nfor _ in range(10**6): os.mkdir('d'); os.chdir('d')",
        {"too much output"},
    ),
    "fork_bomb": (BOMB, {"timed out", "too many processes"}),
    "detaching_bomb": (DETACHING_BOMB, {"timed out", "too many processes"}),
    "threads": (
        "import threading, time\n"
        "for _ in range(100): threading.Thread(target=time.sleep, args=(6,)).start()\n"
        "time.sleep(6)",
        # At the kernel's limit Python raises an exception and waits for its threads.
        {"failed", "timed out", "too many processes"},
    ),
}
DAEMON = """
import os, signal, time
if os.fork() == 0:
    try:
        os.setsid()
    except PermissionError:
        pass
    if os.fork() == 0:
        for number in set(signal.Signals) - {9, 19}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("name", EXCESSES)
def test_excess_is_stopped(level, name, left_behind):
    program, statuses = EXCESSES[name]
    begin = time.monotonic()
    [outcome] = run_programs([program], limits=LIMITS, workers=1, level=level)
    assert outcome.status in statuses, outcome
    assert time.monotonic() - begin < 20
    assert left_behind() == []


def test_the_processor_time_of_a_program_ends(level):
    limits = Limits(seconds=20, cpu_seconds=1)
    for program in ("while True: pass", EXCESSES["deaf_loop"][0]):
        [outcome] = run_programs([program], limits=limits, workers=1, level=level)
        assert outcome.status == "timed out"
        assert "processor" in outcome.detail


def test_a_daemon_ends_with_its_program(level, left_behind):
    [outcome] = run_programs([DAEMON], limits=LIMITS, workers=1, level=level)
    assert outcome.status == "passed"
    assert left_behind() == []


def test_unlimited_recursion_ends(level):
    program = """
import sys
sys.setrecursionlimit(10**9)
class Deep:
    def __repr__(self): return repr([self])
repr(Deep())
"""
    [outcome] = run_programs([program], limits=LIMITS, workers=1, level=level)
    assert outcome.status in {"failed", "out of memory", "timed out"}


def test_no_folder_is_left(level, monkeypatch, open_folder):
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    program = """
import os
os.makedirs('a/b')
open('a/b/c', 'w').write('x')
os.symlink('/etc', 'a/link')
os.chmod('a/b', 0)
os.chmod('a', 0)
"""
    deep = "import os\nfor _ in range(250): os.mkdir('d'); os.chdir('d')"
    outcomes = run_programs([program, deep], limits=LIMITS, workers=1, level=level)
    assert [outcome.status for outcome in outcomes] == ["passed", "passed"]
    assert list(open_folder.iterdir()) == []


def test_deleting_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "folder_link").symlink_to(outside)
    (folder / "link").symlink_to(outside / "kept")
    delete(str(folder))
    assert not folder.exists()
    assert (outside / "kept").read_text() == "x"


def test_probing_a_level_is_done_once():
    levels.strongest_level()
    assert levels.strongest_level.cache_info().currsize == 1
