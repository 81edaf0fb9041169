"""A signal stops work even where the exception that it raises is lost."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from benchmark import stopping


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopping.listen(signal.SIGINT, signal.SIGTERM)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping.listen()  # forget what was asked here


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # the interpreter handles it between two instructions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_at_once_and_is_remembered(number):
    stopping.stop_if_asked()
    with pytest.raises(KeyboardInterrupt, match=number.name):
        send(number)
    with pytest.raises(KeyboardInterrupt, match=number.name):
        stopping.stop_if_asked()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_inside_a_c_callback_is_lost_and_still_stops():
    ctypes.CFUNCTYPE(None)(lambda: send(signal.SIGTERM))()  # no exception comes out of here
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        stopping.stop_if_asked()


def test_listening_again_forgets():
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    stopping.listen(signal.SIGINT, signal.SIGTERM)
    stopping.stop_if_asked()
