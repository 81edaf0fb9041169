"""How many calls on small arrays use the threads of this process: images of a batch, heads of an attention."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

_calls_threads: ContextVar[int | None] = ContextVar("calls_threads", default=None)
_worker = threading.local()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Tensor operations on the CPU take one thread each meanwhile; `in_threads` takes as many as before.

    For many operations on the maps of one image: waking a second thread for each of them costs more than it gains. The
    number of threads belongs to the process, so that one thread at a time may be in here.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    token = _calls_threads.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _calls_threads.reset(token)


def threads_for_calls() -> int:
    """How many threads `in_threads` takes: as many as torch (``torch.set_num_threads``) outside of `one_thread_each`."""
    return _calls_threads.get() or torch.get_num_threads()


def in_threads(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    """``list(map(function, *arguments))`` in `threads_for_calls` threads, in each of which tensor operations take one.

    Args:
        function: releases the GIL for most of its time. Within it, calls of `in_threads` follow one another.
        arguments: for each argument, its values.

    Raises:
        The error of the first call that has one, once all calls have ended.
    """
    calls = list(zip(*arguments, strict=True))
    threads = threads_for_calls()
    if min(threads, len(calls)) <= 1 or getattr(_worker, "busy", False):
        return [function(*call) for call in calls]
    futures = [_pool(threads).submit(function, *call) for call in calls]
    wait(futures)
    return [future.result() for future in futures]


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which tensor operations take one thread. Kept, because a training step asks for them several times."""
    of_process = torch.get_num_threads()
    pool, everybody = ThreadPoolExecutor(threads, thread_name_prefix="calls"), threading.Barrier(threads)
    wait([pool.submit(_start, everybody) for _ in range(threads)])
    torch.set_num_threads(of_process)  # what a thread sets is also the process's number, for threads to come
    return pool


def _start(everybody: threading.Barrier) -> None:
    _worker.busy = True
    torch.get_num_threads()  # torch gives a thread the process's number once, here; after that its own one stays
    torch.set_num_threads(1)
    everybody.wait()  # every thread of the pool has to come here


def _forget() -> None:
    """A forked process has none of the threads and is in nobody's `one_thread_each`."""
    _pool.cache_clear()
    _calls_threads.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
