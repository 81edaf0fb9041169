"""Stopping on a signal, surely.

A signal raises KeyboardInterrupt wherever the interpreter is. Inside a C callback (a just-in-time compiler, a garbage
collector hook) such an exception is printed and lost, so the request is also remembered, and work that goes on asks for it
between its steps.
"""

from __future__ import annotations

import signal
from types import FrameType

_asked_by: signal.Signals | None = None


def listen(*numbers: signal.Signals) -> None:
    """From now on these signals stop the process's work; earlier requests are forgotten. Main thread only."""
    global _asked_by
    _asked_by = None
    for number in numbers:
        signal.signal(number, _heard)


def _heard(number: int, _frame: FrameType | None) -> None:
    global _asked_by
    _asked_by = signal.Signals(number)
    raise KeyboardInterrupt(f"stopped by {_asked_by.name}")


def stop_if_asked() -> None:
    """KeyboardInterrupt if a signal has asked to stop, also if its own exception was lost."""
    if _asked_by is not None:
        raise KeyboardInterrupt(f"stopped by {_asked_by.name}")
