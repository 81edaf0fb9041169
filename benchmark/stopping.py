"""Stopping on a signal, surely, and giving a machine back in time.

A signal to stop raises KeyboardInterrupt wherever the interpreter is. Inside a C callback (a just-in-time compiler, a
garbage collector hook) such an exception is printed and lost, so the request is also remembered, and work that goes on asks
for it between its steps.

A signal that announces the end (SIGUSR2 of a scheduler before its time limit, or at preemption) is only remembered: training
goes on to the end of its step, saves a checkpoint and raises `Preempted`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_asked_by: signal.Signals | None = None
_preempted_by: signal.Signals | None = None
_told: list[Callable[[], None]] = []


class Preempted(Exception):
    """The machine is wanted back: a run has saved what it has and goes on from there when it is started again."""


def listen(*numbers: signal.Signals) -> None:
    """From now on these signals stop the process's work; earlier requests of any kind are forgotten. Main thread only."""
    global _asked_by, _preempted_by
    _asked_by = _preempted_by = None
    for number in numbers:
        signal.signal(number, _heard)


def preempt_on(*numbers: signal.Signals) -> None:
    """From now on these signals announce the end of the process; earlier announcements are forgotten. Main thread only."""
    global _preempted_by
    _preempted_by = None
    for number in numbers:
        signal.signal(number, _announced)


@contextlib.contextmanager
def tell_of_preemption(told: Callable[[], None]) -> Iterator[None]:
    """Call a function when the end is announced, for a process whose work goes on in others."""
    _told.append(told)
    try:
        yield
    finally:
        _told.remove(told)


def _heard(number: int, _frame: FrameType | None) -> None:
    global _asked_by
    _asked_by = signal.Signals(number)
    raise KeyboardInterrupt(f"stopped by {_asked_by.name}")


def _announced(number: int, _frame: FrameType | None) -> None:
    global _preempted_by
    _preempted_by = signal.Signals(number)
    for told in list(_told):
        told()


def stop_if_asked(preemption: bool = True) -> None:
    """KeyboardInterrupt if a signal has asked to stop, also if its exception was lost; Preempted if one announced the end.

    Args:
        preemption: False for work that saves a checkpoint first (`preemption_asked`).
    """
    if _asked_by is not None:
        raise KeyboardInterrupt(f"stopped by {_asked_by.name}")
    if preemption and _preempted_by is not None:
        raise Preempted(f"{_preempted_by.name} announced the end; nothing was left to save")


def preemption_asked() -> str | None:
    """The name of the signal that has announced the end, None if none has."""
    return _preempted_by.name if _preempted_by is not None else None
