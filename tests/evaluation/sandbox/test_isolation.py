"""Programs that reach outside: files, the environment, the network, other processes."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from balora_jax.evaluation.sandbox import program as one_program
from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.program import PYTHON
from balora_jax.evaluation.sandbox.programs import run_programs

LIMITS = Limits(seconds=5)
# Readable by all users, unlike an interpreter in a home folder.
SYSTEM_PYTHON = "/usr/bin/python3"


def run(text, level, **values):
    """The outcome of a program, which has the values as variables."""
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    source = "\n".join([*lines, textwrap.dedent(text)])
    [outcome] = run_programs([source], limits=LIMITS, workers=1, level=level)
    return outcome


def test_files_outside_are_neither_written_nor_read(safe_level, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("kept")
    outcome = run(
        """
        import os, shutil
        def refused(function, *arguments):
            try:
                function(*arguments)
            except OSError:
                return True
        assert refused(open, secret)
        assert refused(open, secret, 'w')
        assert refused(os.remove, secret)
        assert refused(shutil.rmtree, folder)
        assert refused(open, os.__file__, 'a')
        assert refused(os.remove, os.__file__)
        assert not [path for path in hidden if os.path.exists(path)]
        """,
        safe_level,
        secret=str(secret),
        folder=str(tmp_path),
        hidden=_files_at_home(safe_level),
    )
    assert outcome.status == "passed", outcome
    assert secret.read_text() == "kept"


def _files_at_home(level):
    """The contents of the home folder that a program must not see."""
    home = pathlib.Path.home()
    if level == "other user" and home.stat().st_mode & 0o001:
        return []
    return [str(path) for path in home.iterdir() if path not in pathlib.Path(PYTHON).parents]


def test_namespaces_show_python_alone(namespaces):
    outcome = run(
        """
        import os
        assert not {'home', 'tmp', 'proc', 'sys', 'var', 'mnt', 'opt'} & set(os.listdir('/'))
        assert set(os.listdir('/dev')) <= {'null', 'zero', 'full', 'random', 'urandom'}
        assert os.listdir('.') == []
        for place in ('/', '/usr', '/dev', '/usr/..'):
            try:
                open(place + '/new', 'w')
            except OSError as error:
                assert error.errno in (13, 30), error
            else:
                raise AssertionError(place)
        """,
        namespaces,
    )
    assert outcome.status == "passed", outcome


def test_the_environment_is_empty(level, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    outcome = run(
        """
        import os
        assert set(os.environ) <= {'HOME', 'TMPDIR', 'PYTHONHASHSEED', 'LC_CTYPE'}, os.environ
        """,
        level,
    )
    assert outcome.status == "passed", outcome


def test_no_descriptor_is_inherited(level, tmp_path):
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        outcome = run(
            """
            import os
            def is_open(number):
                try:
                    os.fstat(number)
                except OSError:
                    return False
                return True
            # Input, output, errors, and the channel to the supervisor.
            assert [n for n in range(1000) if is_open(n)] == [0, 1, 2, 3]
            """,
            level,
        )
    assert outcome.status == "passed", outcome


def test_there_is_no_network(level):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        outcome = run(
            """
            import socket
            socket.create_connection(('127.0.0.1', port), timeout=2)
            """,
            level,
            port=server.getsockname()[1],
        )
        assert outcome.status == "failed"
        assert re.search("Network is unreachable|Operation not permitted", outcome.detail)
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_rights_are_left(safe_level):
    outcome = run(
        """
        import ctypes, os, resource
        libc = ctypes.CDLL(None, use_errno=True)
        assert os.getuid() != 0
        def refused(function, *arguments):
            try:
                function(*arguments)
            except (OSError, ValueError):
                return True
        assert refused(os.setuid, 0)
        assert refused(os.chroot, '.')
        assert refused(resource.setrlimit, resource.RLIMIT_CPU, (10**6, 10**6))
        assert libc.mount(b'none', b'.', b'tmpfs', 0, None) == -1
        """,
        safe_level,
    )
    assert outcome.status == "passed", outcome


def test_namespaces_cannot_be_nested(namespaces):
    outcome = run(
        """
        import ctypes
        assert ctypes.CDLL(None).unshare(0x10000000) == -1
        """,
        namespaces,
    )
    assert outcome.status == "passed", outcome


def test_signals_reach_no_other_process(safe_level):
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
    try:
        attack = f"""
import os
for pid in ({os.getpid()}, os.getppid(), -{os.getpgrp()}):
    try:
        os.kill(pid, {int(signal.SIGUSR1)})
    except OSError:
        pass
"""
        # To all processes but itself: in both levels, those of this program.
        attack_all = f"import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\n{attack}"
        programs = ["import time\ntime.sleep(1)", attack, attack_all]
        outcomes = run_programs(programs, limits=LIMITS, workers=3, level=safe_level)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [outcome.status for outcome in outcomes] == ["passed"] * 3
    assert not received


def test_a_killed_supervisor_costs_one_outcome(level, left_behind):
    attack = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(1)\nassert False"
    outcomes = run_programs(["x = 1", attack, "x = 1"], limits=LIMITS, workers=1, level=level)
    statuses = [outcome.status for outcome in outcomes]
    assert statuses[0] == statuses[2] == "passed"
    assert statuses[1] in {"failed", "sandbox failed"}
    time.sleep(0.1)
    assert left_behind() == []


def test_the_group_of_the_supervisor_is_not_that_of_the_command(level):
    attack = "import os\nos.killpg(0, 9)"
    [outcome] = run_programs([attack], limits=LIMITS, workers=1, level=level)
    assert outcome.status == "failed"
    assert "SIGKILL" in outcome.detail


def test_a_supervisor_that_breaks_is_an_outcome(level, monkeypatch):
    monkeypatch.setattr(one_program, "SUPERVISOR", "raise ValueError('broken')")
    [outcome] = run_programs(["x = 1"], limits=LIMITS, workers=1, level=level)
    assert outcome.status == "sandbox failed"
    assert "broken" in outcome.detail


def test_a_folder_that_cannot_be_made_is_an_outcome(level, monkeypatch, tmp_path):
    def refuse(**_):
        raise OSError("no space")

    monkeypatch.setattr(one_program.tempfile, "mkdtemp", refuse)
    [outcome] = run_programs(["x = 1"], limits=LIMITS, workers=1, level=level)
    assert outcome.status == "sandbox failed"
    assert "no space" in outcome.detail


def test_an_exception_of_the_caller_ends_all(level, left_behind):
    def stop(index, outcome):
        raise RuntimeError("enough")

    begin = time.monotonic()
    programs = ["x = 1", *["import time\ntime.sleep(60)"] * 3]
    limits = Limits(seconds=60)
    with pytest.raises(RuntimeError, match="enough"):
        run_programs(programs, limits=limits, workers=2, on_done=stop, level=level)
    assert time.monotonic() - begin < 15
    assert left_behind() == []


COMMAND = """
import sys
from balora_jax.evaluation.sandbox import program
from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.programs import run_programs

level, program.PYTHON = sys.argv[1:]
daemon = "import os, time\\nos.fork()\\ntime.sleep(60)"
run_programs([daemon] * 2, limits=Limits(seconds=60), workers=2, level=level)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_programs_end_with_the_command(level, number, left_behind, open_folder):
    arguments = [sys.executable, "-c", COMMAND, level, one_program.PYTHON]
    environment = {**os.environ, "TMPDIR": str(open_folder)}
    command = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=environment)
    # The command, and for each program a supervisor, the program, and its daemon.
    expected = 1 + 2 * 3
    _wait_until(lambda: len(left_behind()) >= expected)
    command.send_signal(number)
    command.wait(timeout=15)
    _wait_until(lambda: not left_behind())
    assert list(open_folder.iterdir()) == []


def test_a_supervisor_that_starts_after_the_command_ended_leaves_no_folder(tmp_path):
    folder = tmp_path / "program"
    folder.mkdir()
    request = {"parent": 0, "folder": str(folder)}
    command = [sys.executable, "-c", one_program.SUPERVISOR, one_program.PACKAGES]
    subprocess.run([*command, json.dumps(request)], check=True)
    assert not folder.exists()


def _wait_until(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


AS_NOBODY = """
from balora_jax.evaluation.sandbox import levels
from balora_jax.evaluation.sandbox.outcomes import Limits
from balora_jax.evaluation.sandbox.programs import run_programs

assert levels.refusal("other user") is not None
family = "import os, time\\nfor _ in range(20):\\n    if os.fork() == 0: time.sleep(9)"
limits = Limits(seconds=9, processes=16)
programs = ["import os\\nassert os.getuid() == 65534", "import os\\nos.listdir('/proc')", family]
for outcome in run_programs(programs, limits=limits, workers=1, level="namespaces"):
    print(outcome.status, outcome.detail)
"""


def test_namespaces_need_no_root(namespaces):
    if os.getuid() != 0:
        pytest.skip("all other tests run without root already")
    try:
        result = subprocess.run(
            [SYSTEM_PYTHON, "-B", "-c", AS_NOBODY],
            env={"PYTHONPATH": str(pathlib.Path(__file__).parents[3])},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            user=65534,
            group=65534,
            extra_groups=[],
        )
    except OSError as error:
        pytest.skip(f"no interpreter that others can run: {error}")
    if "ModuleNotFoundError" in result.stderr:
        pytest.skip("other users cannot read this checkout")
    first, second, third = result.stdout.splitlines()
    assert first == "passed "
    assert second.startswith("failed FileNotFoundError")
    assert third.startswith("failed BlockingIOError")
