"""Signals: the first asks for a stop, or ends the command with a sentence; ignored ones stay so."""

import os
import signal
import threading

import pytest

from balora_jax.training.interrupt import Stopped, StopRequest, raise_stopped, stop_means

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request):
    """A signal; its handler is restored after the test."""
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def _send(number):
    os.kill(os.getpid(), number)


def test_the_first_signal_asks_and_a_second_acts_as_before(number):
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


def test_a_hangup_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_stopped(), StopRequest() as stop:
            _send(signal.SIGHUP)
            assert not stop.given
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_the_updates_a_signal_raises_with_its_meaning(number):
    before = signal.getsignal(number)
    with (
        pytest.raises(Stopped, match=f"^stopped by {number.name} before the start; go on$"),
        raise_stopped(),
        stop_means("by the outer one"),
        stop_means("before the start; go on"),
    ):
        _send(number)
    assert signal.getsignal(number) is before


def test_without_a_meaning_the_signal_is_named():
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM$"), raise_stopped():
        _send(signal.SIGTERM)


def test_after_a_request_the_second_signal_raises():
    with pytest.raises(Stopped), raise_stopped(), StopRequest() as stop:
        _send(signal.SIGTERM)
        assert stop.given
        _send(signal.SIGTERM)


def test_no_handler_is_replaced_in_another_thread():
    given = []

    def run():
        with raise_stopped(), StopRequest() as stop:
            given.append(stop.given)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert given == [False]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_handlers_return_after_an_exception():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="inside"), raise_stopped(), StopRequest():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in SIGNALS] == before
