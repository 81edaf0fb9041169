"""Counting the pairs of ids that meet in two id maps, compiled with numba: what every metric of segments starts from.

One pass over the pixels. Maps are piecewise constant, so that runs of equal pairs are counted and only their ends go into a
small hash table. The kernel compiles on its first call, is cached on disk and releases the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FIRST_CAPACITY = 1024
"""Slots of the table, a power of two; doubled as long as half of them do not hold all pairs."""


def pair_counts(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of pixels of every pair of ids that meet.

    Args:
        first, second: (n,) int64.

    Returns:
        (pairs, 2) int64 ids and (pairs,) int64 pixels, in no particular order.
    """
    capacity = _FIRST_CAPACITY
    while True:
        ids, pixels = np.empty((capacity, 2), dtype=np.int64), np.zeros(capacity, dtype=np.int64)
        if _count(first, second, ids, pixels):
            used = np.flatnonzero(pixels)
            return ids[used], pixels[used]
        capacity *= 2


@njit(nogil=True, cache=True)
def _add(a: int, b: int, amount: int, ids: np.ndarray, pixels: np.ndarray) -> bool:
    """Add to the count of a pair; True if that took a new slot."""
    last = pixels.shape[0] - 1
    mixed = a * 2654435761 + b * 40503
    slot = (mixed ^ (mixed >> 15) ^ (mixed >> 32)) & last  # the low bits of ids alone may all be the same
    while pixels[slot] > 0:
        if ids[slot, 0] == a and ids[slot, 1] == b:
            pixels[slot] += amount
            return False
        slot = (slot + 1) & last
    ids[slot, 0], ids[slot, 1], pixels[slot] = a, b, amount
    return True


@njit(nogil=True, cache=True)
def _count(first: np.ndarray, second: np.ndarray, ids: np.ndarray, pixels: np.ndarray) -> bool:
    """Fill the table; False if it is more than half full before the end."""
    used, start = 0, 0
    for i in range(1, first.shape[0] + 1):
        if i == first.shape[0] or first[i] != first[start] or second[i] != second[start]:
            used += _add(first[start], second[start], i - start, ids, pixels)
            if 2 * used > pixels.shape[0]:
                return False
            start = i
    return True
