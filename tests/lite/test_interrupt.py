from __future__ import annotations

import os
import signal
import threading

import pytest

from hvlite.lite.interrupt import SIGNALS, StopFlag


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_the_second_leaves(number: signal.Signals) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with StopFlag(lambda: told.append("once")).installed() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert told == ["once"]
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopFlag().installed() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), StopFlag().installed():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_another_thread_has_no_signals_but_may_be_stopped() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopFlag().installed() as stop:
            stop.request()
            stop.request()
            found.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
