"""Signals: one asks for a stop or ends the command with a message; ignored ones stay so."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from balora_jax.training.interrupt import StopRequest, ends_by_signal

ROOT = pathlib.Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Compiled code that runs for minutes, in which Python calls no handler.
COMPILED = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2**31 - 1)"
INTERPRETED = "[time.sleep(0.01) for _ in range(10_000)]"
SWALLOWING = """
class Swallowing:
    def __del__(self):
        for _ in range(10_000):
            time.sleep(0.01)
Swallowing()
"""
SCRIPT = """
import hashlib, os, signal, time
from balora_jax.training.interrupt import StopRequest, ends_by_signal
with ends_by_signal("somewhere; start again"), ends_by_signal("inside; go on"):
    print("ready", flush=True)
"""


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request):
    """A signal; its handler is restored after the test."""
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def _send(number):
    os.kill(os.getpid(), number)


def _start(body):
    """A process that is at `body`, in the context of a message."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + lines],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_signal_asks_and_the_same_again_acts_as_before(number):
    seen = []
    signal.signal(number, lambda *_: seen.append(number))
    with StopRequest() as stop:
        assert not stop.given
        _send(number)
        assert stop.given
        assert not seen
        _send(number)
        assert seen == [number]
    _send(number)
    assert seen == [number, number]


def test_another_signal_asks_too():
    """Systems send SIGTERM and SIGHUP one after the other."""
    with StopRequest() as stop:
        for number in SIGNALS:
            _send(number)
        assert stop.given


def test_a_hangup_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_by_signal(""), StopRequest() as stop:
            _send(signal.SIGHUP)
            assert not stop.given
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_of_the_program_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(True))
    try:
        with ends_by_signal(""):
            _send(signal.SIGTERM)
        assert seen == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize(
    "body",
    [INTERPRETED, COMPILED, SWALLOWING],
    ids=["interpreted", "compiled", "swallowing"],
)
def test_a_signal_ends_the_process_with_a_message(number, body):
    process = _start(body)
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors == f"balora: stopped by {number.name} inside; go on\n"
    assert out == ""


def test_after_a_request_the_same_signal_ends_the_process():
    body = """
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    print(stop.given, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
"""
    out, errors = _start(body).communicate(timeout=20)
    assert out == "True\n"
    assert errors == "balora: stopped by SIGTERM inside; go on\n"


def test_a_request_is_no_end_once_the_updates_are_over():
    body = """
for _ in range(200):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.given
print("over")
"""
    assert _start(body).communicate(timeout=20) == ("over\n", "")


def test_no_handler_is_replaced_in_another_thread():
    given = []

    def run():
        with ends_by_signal(""), StopRequest() as stop:
            given.append(stop.given)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert given == [False]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_handlers_return_after_an_exception():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="inside"), ends_by_signal(""), StopRequest():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in SIGNALS] == before
