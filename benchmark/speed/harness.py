"""Timing of calls side by side in one process.

Calls take turns (A B A B ...), so that a machine which slows down meanwhile slows all of them, and ratios are taken within a
round. Each call runs once before, untimed: kernels compile, caches fill, and the results are compared. The garbage collector
works between rounds only. On a GPU the device is waited for before and after each call.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmark.speed.rows import OURS, comparison_row, error_row
from benchmark.speed.targets import Target

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a comparison may take: at least ``least`` rounds, then as many as fit into ``seconds``, up to ``most``."""

    seconds: float
    least: int = 5
    most: int = 101

    def enough(self, rounds: int, elapsed: float) -> bool:
        """Whether another round would be one too many."""
        if rounds < self.least:
            return False
        return rounds >= self.most or elapsed + elapsed / rounds > self.seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command line asks of every section.

    Attributes:
        device: where tensors are.
        threads: of torch and of the compiled kernels, where nothing else is said.
        quick: few rounds of what is short.
        tell: called with a line about what is being measured.
    """

    device: torch.device
    threads: int
    quick: bool = False
    tell: Callable[[str], None] = print

    def budget(self, seconds: float, least: int = 5) -> Budget:
        """The budget of a comparison; a twentieth of it and one round if it has to be quick."""
        return Budget(seconds / 20, 1) if self.quick else Budget(seconds, least)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether two implementations give the same, and the figures that say so."""

    same: bool
    figures: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())


def closeness(ours: Any, other: Any, tolerance: float) -> Agreement:
    """Agreement of arrays of one shape: the largest difference is at most ``tolerance`` times the largest finite value.

    Infinite entries have to be in the same places.
    """
    first, second = (np.asarray(_on_cpu(values), dtype=np.float64) for values in (ours, other))
    if first.shape != second.shape:
        raise ValueError(f"Results of shape {first.shape} and {second.shape} cannot be compared.")
    finite = np.isfinite(first) & np.isfinite(second)
    difference = float(np.abs(first[finite] - second[finite]).max(initial=0.0))
    largest = float(np.abs(second[finite]).max(initial=0.0))
    same = bool((first == second)[~finite].all()) and difference <= tolerance * largest
    return Agreement(same, {"largest difference": difference, "largest value": largest})


def same_labels(ours: Any, other: Any, share: float) -> Agreement:
    """Agreement of label maps: at least ``share`` of their pixels are equal."""
    equal = float((np.asarray(_on_cpu(ours)) == np.asarray(_on_cpu(other))).mean())
    return Agreement(equal >= share, {"equal labels": equal})


def _on_cpu(values: Any) -> Any:
    return values.detach().cpu() if isinstance(values, torch.Tensor) else values


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call."""
    synchronise(device)
    start = clock()
    call()
    synchronise(device)
    return clock() - start


def interleaved(
    calls: Mapping[str, Callable[[], Any]], budget: Budget, device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call in each round; the calls of a round follow one another. Nothing is warmed up here."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rounds, began = 0, clock()
    with collector_between_rounds() as collect:
        while not budget.enough(rounds, clock() - began):
            for name, call in calls.items():
                seconds[name].append(timed(call, device, clock))
            rounds += 1
            collect()
    return seconds


@contextmanager
def collector_between_rounds() -> Iterator[Callable[[], Any]]:
    """Garbage is collected when the given function is called, and only then; what exists now is not looked at again."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def compare(
    case: str, against: str, ours: Callable[[], Any], other: Callable[[], Any], agree: Callable[[Any, Any], Agreement],
    budget: Budget, device: torch.device, target: Target | None = None, note: str = "",
) -> dict[str, Any]:
    """A row of two implementations of one thing; an error row if they do not agree.

    Args:
        case, against, target, note: of the row, see `benchmark.speed.rows.comparison_row`.
        ours, other: the calls. What they return is compared once and then dropped.
        agree: ``(result of ours, result of other) -> Agreement``.
        budget, device: see `interleaved`.
    """
    agreement = agree(ours(), other())
    if not agreement.same:
        return error_row(case, f"the results differ: {agreement}", against)
    seconds = interleaved({OURS: ours, against: other}, budget, device)
    return comparison_row(case, against, seconds, agreement.figures, target, note)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library is glibc: `benchmark` lets it keep what training frees."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Run with so many threads of torch, of our kernels, which go by it, and (with threadpoolctl) of every BLAS."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if find_spec("threadpoolctl") is None:
            yield
        else:
            from threadpoolctl import threadpool_limits

            with threadpool_limits(threads):
                yield
    finally:
        torch.set_num_threads(before)
