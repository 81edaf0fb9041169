"""Exact geodesic (shortest path) distances on the 8-connected grid of an image.

Compiled sweeps over the grid settle all source sets at once (`methods.ops.grid_sweeps`); where they do not within a limit,
SciPy's Dijkstra finds the same distances, bit for bit. All sources of a set start at distance 0, which gives the minimum
over them (PSPS runs one Dijkstra per labelled pixel and takes the minimum afterwards; the result is the same).

The sweeps compile on their first call, are cached on disk and release the GIL, so that callers may run images in threads:
`batched_geodesic_distances` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.ops.grid_dijkstra import NEIGHBOURS, dijkstra_distances
from methods.ops.grid_sweeps import MOST_LANES, swept_distances
from methods.ops.parallel import in_threads, threads_for_calls

__all__ = ["NEIGHBOURS", "batched_geodesic_distances", "geodesic_distances"]


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
    costs = np.ascontiguousarray(costs, dtype=np.float32)
    incoming, valid = _incoming_costs(costs)
    if not valid:
        raise ValueError("Edge costs must be non-negative numbers; at least one edge inside the grid is negative or NaN.")
    distances = swept_distances(incoming, width, cells, starts)
    if distances is None:
        distances = dijkstra_distances(costs, cells, starts)
    distances = distances.reshape(len(sources), height, width)
    return torch.from_numpy(distances) if is_tensor else distances


def batched_geodesic_distances(
    edge_costs: Sequence[Tensor], sources: Sequence[Sequence[np.ndarray | Tensor]]
) -> list[Tensor]:
    """`geodesic_distances` of several images in threads, which share the sources of an image where there are more of them.

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
    shares = [_dealt(each, -(-threads_for_calls() // len(on_cpu))) for each in sources]
    tasks = [(costs, share) for costs, dealt in zip(on_cpu, shares, strict=True) for share in dealt]
    found = iter(in_threads(geodesic_distances, *zip(*tasks, strict=True)))
    maps = [torch.cat([next(found) for _ in dealt]) for dealt in shares]
    moved = torch.cat([m.flatten() for m in maps]).to(device)
    return [part.view(m.shape) for part, m in zip(moved.split([m.numel() for m in maps]), maps, strict=True)]


def _dealt(sources: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Source sets in one to ``most`` shares, in order; what fits into the lanes of one sweep stays together."""
    count = max(1, min(most, -(-len(sources) // MOST_LANES)))
    return [sources[len(sources) * i // count : len(sources) * (i + 1) // count] for i in range(count)]


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
def _incoming_costs(costs: np.ndarray) -> tuple[np.ndarray, bool]:
    """(h * w, 8) float32 cost of entering each cell from each neighbour, inf where there is none, and whether all others
    are non-negative numbers."""
    height, width = costs.shape[0], costs.shape[1]
    incoming = np.full((height * width, 8), np.float32(np.inf), dtype=np.float32)
    valid = True
    for row in range(height):
        for col in range(width):
            k = 0
            for down in range(-1, 2):
                for right in range(-1, 2):
                    if down == 0 and right == 0:
                        continue
                    if 0 <= row + down < height and 0 <= col + right < width:
                        cost = costs[row + down, col + right, 7 - k]
                        valid = valid and cost >= 0  # False for NaN as well
                        incoming[row * width + col, k] = cost
                    k += 1
    return incoming, valid
