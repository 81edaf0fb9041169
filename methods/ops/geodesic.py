"""Exact geodesic (shortest path) distances on the 8-connected grid of an image, compiled with numba.

A heap Dijkstra per source set. All sources of a set start at distance 0, so one run gives the minimum over them (PSPS runs
one Dijkstra per labelled pixel and takes the minimum afterwards; the result is the same).

The kernels compile on their first call, are cached on disk and release the GIL, so that callers may run images in threads:
`batched_geodesic_distances` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(row, column) offsets of the 8 neighbours, row-major without the centre: the order of the last axis of edge costs."""

_BUCKETS = 1024


def geodesic_distances(edge_costs: np.ndarray | Tensor, sources: Sequence[np.ndarray | Tensor]) -> np.ndarray | Tensor:
    """Shortest-path cost from each source set to every cell of a directed 8-connected grid.

    Args:
        edge_costs: (h, w, 8) non-negative, read as float32; ``[r, c, k]`` is the cost of leaving cell (r, c) towards its
            k-th neighbour in the order of `NEIGHBOURS`. Infinite = no edge. Edges that leave the grid are ignored, whatever
            their value.
        sources: n arrays (k, 2) of integer (row, column), each a source set. An empty set gives inf everywhere.

    Returns:
        (n, h, w) float32, 0 at the sources and inf where no path leads; sums are taken in float64. A NumPy array, or a CPU
        tensor if ``edge_costs`` is one. No gradient.

    Raises:
        ValueError: negative or NaN cost inside the grid, wrong shape, or a source outside the grid.
    """
    is_tensor = isinstance(edge_costs, Tensor)
    costs = _as_numpy(edge_costs, "edge_costs")
    if costs.ndim != 3 or costs.shape[2] != 8 or 0 in costs.shape:
        raise ValueError(f"Edge costs of a grid have shape (height, width, 8), got {tuple(costs.shape)}.")
    height, width = costs.shape[:2]
    cells, starts = _source_cells(sources, height, width)
    outgoing, valid = _inside_costs(np.ascontiguousarray(costs, dtype=np.float32))
    if not valid:
        raise ValueError("Edge costs must be non-negative numbers; at least one edge inside the grid is negative or NaN.")
    distances = _dijkstra(outgoing, width, cells, starts).reshape(len(sources), height, width)
    return torch.from_numpy(distances) if is_tensor else distances


def batched_geodesic_distances(
    edge_costs: Sequence[Tensor], sources: Sequence[Sequence[np.ndarray | Tensor]]
) -> list[Tensor]:
    """`geodesic_distances` of several images, in as many threads as torch uses.

    Args:
        edge_costs: B tensors (h_i, w_i, 8) on one device; grids may differ in size. They move to the CPU in one transfer.
        sources: for each image, its source sets on the CPU.

    Returns:
        B tensors (n_i, h_i, w_i) float32 on the device of the costs.
    """
    if not edge_costs:
        return []
    device = edge_costs[0].device
    flat = torch.cat([costs.detach().float().flatten() for costs in edge_costs]).cpu()
    parts = flat.split([costs.numel() for costs in edge_costs])
    on_cpu = [part.view(costs.shape) for part, costs in zip(parts, edge_costs, strict=True)]
    with ThreadPoolExecutor(min(len(on_cpu), torch.get_num_threads())) as pool:
        maps = list(pool.map(geodesic_distances, on_cpu, sources))
    moved = torch.cat([m.flatten() for m in maps]).to(device)
    return [part.view(m.shape) for part, m in zip(moved.split([m.numel() for m in maps]), maps, strict=True)]


def _as_numpy(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    if values.device.type != "cpu":
        raise ValueError(f"Geodesic distances run on the CPU, but {name} is on {values.device}; move it with .cpu() first.")
    values = values.detach()
    return (values.float() if values.is_floating_point() else values).numpy()


def _source_cells(sources: Sequence[np.ndarray | Tensor], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat cell indices of all sets behind one another, and where each set starts: (total,) and (n + 1,) int64."""
    cells = []
    for index, source in enumerate(sources):
        places = _as_numpy(source, f"source set {index}")
        if places.size == 0:
            cells.append(np.empty(0, dtype=np.int64))
            continue
        if places.ndim != 2 or places.shape[1] != 2 or not np.issubdtype(places.dtype, np.integer):
            raise ValueError(
                f"Source set {index} must be (k, 2) integer rows and columns, got {places.dtype} of shape {places.shape}."
            )
        rows, cols = places[:, 0].astype(np.int64), places[:, 1].astype(np.int64)
        if rows.min() < 0 or cols.min() < 0 or rows.max() >= height or cols.max() >= width:
            raise ValueError(f"Source set {index} has a cell outside the {height} x {width} grid.")
        cells.append(rows * width + cols)
    starts = np.cumsum([0, *(len(c) for c in cells)], dtype=np.int64)
    return np.concatenate(cells) if cells else np.empty(0, dtype=np.int64), starts


@njit(nogil=True, cache=True)
def _inside_costs(costs: np.ndarray) -> tuple[np.ndarray, bool]:
    """(h * w, 8) float32 costs with inf on edges that leave the grid, and whether all others are non-negative numbers."""
    height, width = costs.shape[0], costs.shape[1]
    outgoing = np.full((height * width, 8), np.float32(np.inf), dtype=np.float32)
    valid = True
    for row in range(height):
        for col in range(width):
            k = 0
            for down in range(-1, 2):
                for right in range(-1, 2):
                    if down == 0 and right == 0:
                        continue
                    if 0 <= row + down < height and 0 <= col + right < width:
                        cost = costs[row, col, k]
                        valid = valid and cost >= 0  # False for NaN as well
                        outgoing[row * width + col, k] = cost
                    k += 1
    return outgoing, valid


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
def _dijkstra(outgoing: np.ndarray, width: int, cells: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n, h * w) float32 distances; ``outgoing`` (h * w, 8) has inf where an edge leaves the grid.

    Because of those inf no neighbour needs a bounds test: the distances are stored with a margin of ``width + 1`` cells at
    both ends, so that a neighbour index that wraps around is read but never relaxed.

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
