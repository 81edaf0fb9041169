"""Dijkstra's algorithm on the 8-connected grid of an image, by SciPy.

It takes over where sweeps would take long (`methods.ops.grid_sweeps`), and is what they are compared with.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(row, column) offsets of the 8 neighbours, row-major without the centre: the order of the last axis of edge costs."""


def grid_graph(costs: np.ndarray) -> csr_matrix:
    """The directed graph of edge costs (h, w, 8), as `methods.ops.geodesic.geodesic_distances` takes them, read as float32.

    Edges that leave the grid and infinite ones are left out; a cost of 0 is an edge.
    """
    height, width = costs.shape[:2]
    cells = np.arange(height * width).reshape(height, width)
    starts, ends, weights = [], [], []
    for k, (down, right) in enumerate(NEIGHBOURS):
        rows = slice(max(0, -down), height - max(0, down))
        cols = slice(max(0, -right), width - max(0, right))
        starts.append(cells[rows, cols].ravel())
        ends.append(starts[-1] + down * width + right)
        weights.append(costs[rows, cols, k].ravel())
    start, end = np.concatenate(starts), np.concatenate(ends)
    weight = np.concatenate(weights).astype(np.float32).astype(np.float64)
    finite = np.isfinite(weight)
    return csr_matrix((weight[finite], (start[finite], end[finite])), shape=(cells.size,) * 2)


def dijkstra_distances(costs: np.ndarray, cells: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Distance of every cell from each of n source sets: the minimum over the cells of a set.

    Args:
        costs: (h, w, 8) float32 cost of leaving a cell towards each neighbour, not negative; inf where there is no edge.
        cells: flat indices of the cells of all sets, one set behind another.
        starts: (n + 1,) where each set starts.

    Returns:
        (n, h * w) float32, sums in float64, inf where no path leads and for an empty set.
    """
    graph = grid_graph(costs)
    distances = np.full((len(starts) - 1, graph.shape[0]), np.inf, dtype=np.float32)
    for row, first, last in zip(distances, starts[:-1], starts[1:], strict=True):
        if last > first:
            row[:] = dijkstra(graph, indices=cells[first:last], min_only=True)
    return distances
