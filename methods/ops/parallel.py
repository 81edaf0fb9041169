"""How work on the images of a batch uses the threads of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

_images_threads: ContextVar[int | None] = ContextVar("images_threads", default=None)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Tensor operations on the CPU take one thread each meanwhile; `in_threads` takes as many as before.

    For many operations on the maps of one image: waking a second thread for each of them costs more than it gains.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    token = _images_threads.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _images_threads.reset(token)


def threads_for_images() -> int:
    """How many threads `in_threads` takes."""
    return _images_threads.get() or torch.get_num_threads()


def in_threads(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    """``list(map(function, *arguments))``, in as many threads as torch uses (``torch.set_num_threads``) outside of
    `one_thread_each`.

    Args:
        function: releases the GIL for most of its time, and does not come back here: its calls wait for free threads.
        arguments: for each argument, its values.
    """
    calls = list(zip(*arguments, strict=True))
    threads = threads_for_images()
    if min(threads, len(calls)) <= 1:
        return [function(*call) for call in calls]
    return list(_pool(threads).map(lambda call: function(*call), calls))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept, because a training step asks for it several times."""
    return ThreadPoolExecutor(threads, thread_name_prefix="images")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a loader's process has none of these threads
