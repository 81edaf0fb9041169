"""Dijkstra's algorithm on the 8-connected grid of an image, compiled with numba.

It takes over where sweeps would take long (`methods.ops.grid_sweeps`), and is what they are compared with.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_BUCKETS = 1024


@njit(nogil=True, cache=True)
def _push(keys: np.ndarray, nodes: np.ndarray, size: int, key: float, node: int) -> None:
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if keys[parent] <= key:
            break
        keys[place] = keys[parent]
        nodes[place] = nodes[parent]
        place = parent
    keys[place] = key
    nodes[place] = node


@njit(nogil=True, cache=True)
def _remove_first(keys: np.ndarray, nodes: np.ndarray, size: int) -> None:
    """Drop the root of a heap of ``size`` entries: its last entry sinks from the root."""
    key, node = keys[size - 1], nodes[size - 1]
    last = size - 2
    place, child = 0, 1
    while child <= last:
        if child < last and keys[child + 1] < keys[child]:
            child += 1
        if key <= keys[child]:
            break
        keys[place] = keys[child]
        nodes[place] = nodes[child]
        place = child
        child = 2 * place + 1
    keys[place] = key
    nodes[place] = node


@njit(nogil=True, cache=True)
def _bucket_width(outgoing: np.ndarray) -> float:
    """An eighth of the mean cheapest way out of a cell. It decides the speed only: a bucket then holds a few cells."""
    total = 0.0
    for cell in range(outgoing.shape[0]):
        cheapest = outgoing[cell].min()
        if cheapest < np.inf:
            total += cheapest
    return max(total / outgoing.shape[0] / 8, 1e-30)


@njit(nogil=True, cache=True)
def _bucket_of(key: float, base: float, per_width: float) -> int:
    """Bucket of a key, monotone in it; `_BUCKETS` is the overflow."""
    place = (key - base) * per_width
    return int(place) if place < _BUCKETS else _BUCKETS


@njit(nogil=True, cache=True)
def dijkstra(outgoing: np.ndarray, width: int, cells: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Distance of every cell from each of n source sets; a run with all of a set at 0 gives the minimum over them.

    Args:
        outgoing: (h * w, 8) float32 cost of leaving a cell towards each neighbour, not negative, inf where that leaves the
            grid.
        width: of the grid.
        cells: flat indices of the cells of all sets, one set behind another.
        starts: (n + 1,) where each set starts.

    Returns:
        (n, h * w) float32, inf where no path leads.

    Because of the inf at the border no neighbour needs a bounds test: the distances are stored with a margin of
    ``width + 1`` cells at both ends, so that a neighbour index that wraps around is read but never relaxed.

    The queue is a row of buckets of increasing keys. Only the current bucket is a heap; later buckets are unsorted lists
    that become the heap when their turn comes, without the entries that a shorter path has overtaken meanwhile. Cells are
    settled in exact order, and if all keys fall into one bucket this is the plain heap Dijkstra.
    """
    count, margin = outgoing.shape[0], width + 1
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    per_width = 1.0 / _bucket_width(outgoing)
    result = np.empty((starts.shape[0] - 1, count), dtype=np.float32)
    distance = np.empty(count + 2 * margin, dtype=np.float64)
    # a cell enters the queue at most once per incoming edge, and once as a source
    capacity = 9 * count + 1
    heap_keys, heap_nodes = np.empty(capacity, dtype=np.float64), np.empty(capacity, dtype=np.int32)
    list_keys, list_nodes = np.empty(capacity, dtype=np.float64), np.empty(capacity, dtype=np.int32)
    following = np.empty(capacity, dtype=np.int32)
    first = np.empty(_BUCKETS + 1, dtype=np.int32)
    for index in range(result.shape[0]):
        distance[:] = np.inf
        first[:] = -1
        base, bucket, size, listed = 0.0, 0, 0, 0
        for cell in cells[starts[index]:starts[index + 1]]:
            if distance[cell + margin] > 0:
                distance[cell + margin] = 0.0
                _push(heap_keys, heap_nodes, size, 0.0, cell)
                size += 1
        while True:
            while size > 0:
                here, cell = heap_keys[0], heap_nodes[0]
                _remove_first(heap_keys, heap_nodes, size)
                size -= 1
                if here > distance[cell + margin]:
                    continue  # a shorter path was found after this entry was made
                for k in range(8):
                    target = cell + steps[k]
                    there = here + outgoing[cell, k]
                    if there < distance[target + margin]:
                        distance[target + margin] = there
                        later = _bucket_of(there, base, per_width)
                        if later <= bucket:
                            _push(heap_keys, heap_nodes, size, there, target)
                            size += 1
                        else:
                            list_keys[listed], list_nodes[listed] = there, target
                            following[listed] = first[later]
                            first[later] = listed
                            listed += 1
            bucket += 1
            while bucket < _BUCKETS and first[bucket] < 0:
                bucket += 1
            if bucket == _BUCKETS:
                base = _refill(first, following, list_keys, list_nodes, distance, margin, per_width)
                if base == np.inf:
                    break
                bucket = 0
            entry = first[bucket]
            first[bucket] = -1
            while entry >= 0:
                if list_keys[entry] <= distance[list_nodes[entry] + margin]:
                    _push(heap_keys, heap_nodes, size, list_keys[entry], list_nodes[entry])
                    size += 1
                entry = following[entry]
        for cell in range(count):
            result[index, cell] = distance[cell + margin]
    return result


@njit(nogil=True, cache=True)
def _refill(
    first: np.ndarray, following: np.ndarray, keys: np.ndarray, nodes: np.ndarray,
    distance: np.ndarray, margin: int, per_width: float,
) -> float:
    """Spread the overflow over the (empty) buckets, starting from its smallest valid key, which is returned; inf if none."""
    base = np.inf
    entry = first[_BUCKETS]
    while entry >= 0:
        if keys[entry] <= distance[nodes[entry] + margin]:
            base = min(base, keys[entry])
        entry = following[entry]
    entry = first[_BUCKETS]
    first[_BUCKETS] = -1
    while entry >= 0:
        after = following[entry]
        if keys[entry] <= distance[nodes[entry] + margin]:
            bucket = _bucket_of(keys[entry], base, per_width)
            following[entry] = first[bucket]
            first[bucket] = entry
        entry = after
    return base
