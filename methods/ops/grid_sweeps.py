"""Shortest paths on the 8-connected grid of an image by sweeps, for many sources at once; compiled with numba.

A sweep goes through all cells in one order and lets each take a cheaper way from those four of its neighbours that it has
just passed. Four orders, one for each side of the grid, follow one another until nothing changes. A path settles within one
sweep as long as its steps lead into one half-plane, so that a few dozen sweeps are enough on the cost maps of images.

What is left is the smallest fixed point of ``d(v) = min_u d(u) + c(u, v)``. Dijkstra's algorithm finds the same one, bit for
bit: a rounded sum does not fall when its terms grow, so that the least of all paths' sums is one number in any order.

A cell has a *lane* for each source. The lanes are one vector of the processor: four costs serve them all, and neither a
queue nor a branch depends on the numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np import arrayobj

MOST_SWEEPS = 128
"""After so many the paths wind too much (a maze), and Dijkstra's algorithm takes over."""

MOST_LANES, _STEP = 16, 4
"""The most lanes, and what their number is a multiple of."""


def swept_distances(
    incoming: np.ndarray, width: int, cells: np.ndarray, starts: np.ndarray, most_sweeps: int = MOST_SWEEPS
) -> np.ndarray | None:
    """Distance of every cell from each of n source sets.

    Args:
        incoming: (h * w, 8) float32 cost of entering a cell from each neighbour, not negative, inf where there is none.
        width: of the grid.
        cells: flat indices of the cells of all sets, one set behind another.
        starts: (n + 1,) where each set starts.
        most_sweeps: give up after so many, counted in rounds of four.

    Returns:
        (n, h * w) float32, sums in float64, inf where no path leads; None unless a last round changed nothing.
    """
    count = len(starts) - 1
    result = np.empty((count, len(incoming)), dtype=np.float32)
    groups = -(-count // MOST_LANES)
    for group in range(groups):
        first, last = count * group // groups, count * (group + 1) // groups
        lanes = (0,) * (-(-(last - first) // _STEP) * _STEP)
        if not _sweep(incoming, width, cells, starts[first : last + 1], lanes, most_sweeps, result[first:last]):
            return None
    return result


@intrinsic
def _relax(typing_context, distances, lanes, cell, far, far_cost, side, side_cost, other, other_cost, last, last_cost):
    """The distances of a cell become the least of themselves and of four ways through a neighbour, in all lanes.

    Written down in the compiler's own vectors, because loops over the lanes are not vectorised: nothing tells the compiler
    that the cells differ. ``last`` is the cell that was relaxed just before; what comes of it is needed latest.

    Args:
        distances: (cells * lanes,) float64.
        lanes: a tuple with one element for each lane; only its length counts.
        cell, far, side, other, last: numbers of cells; the costs, float32, are those of entering ``cell`` from them.

    Returns:
        Whether a lane has changed.
    """
    number, cost = types.intp, types.float32
    signature = types.boolean(distances, lanes, number, number, cost, number, cost, number, cost, number, cost)
    width = lanes.count

    def generate(context: Any, builder: ir.IRBuilder, typed: Any, arguments: tuple) -> ir.Value:
        data = arrayobj.make_array(typed.args[0])(context, builder, arguments[0]).data
        double, index = ir.DoubleType(), ir.IntType(32)
        vector = ir.VectorType(double, width)
        unset = ir.Constant(vector, ir.Undefined)

        def place(of_cell: ir.Value) -> ir.Value:
            start = builder.mul(of_cell, ir.Constant(of_cell.type, width))
            return builder.bitcast(builder.gep(data, [start]), vector.as_pointer())

        def load(of_cell: ir.Value) -> ir.Value:
            values = builder.load(place(of_cell))
            values.align = 8
            return values

        def everywhere(value: ir.Value) -> ir.Value:
            first = builder.insert_element(unset, builder.fpext(value, double), ir.Constant(index, 0))
            return builder.shuffle_vector(first, unset, ir.Constant(ir.VectorType(index, width), [0] * width))

        def least(one: ir.Value, two: ir.Value) -> ir.Value:
            return builder.select(builder.fcmp_ordered("<", one, two), one, two)

        here = load(arguments[2])
        ways = [builder.fadd(load(arguments[k]), everywhere(arguments[k + 1])) for k in (3, 5, 7, 9)]
        best = least(ways[3], least(least(ways[0], ways[1]), least(ways[2], here)))
        builder.store(best, place(arguments[2])).align = 8
        changed = builder.bitcast(builder.fcmp_ordered("<", best, here), ir.IntType(width))
        return builder.icmp_unsigned("!=", changed, ir.Constant(changed.type, 0))

    return signature, generate


@njit(nogil=True, cache=True)
def _sweep(
    incoming: np.ndarray, width: int, cells: np.ndarray, starts: np.ndarray, lanes: tuple, most_sweeps: int, out: np.ndarray
) -> bool:
    """Fill ``out`` (n, h * w) float32 for n source sets, at most one for each of ``lanes``; False if the last round of four
    sweeps still changed something.

    The distances have a margin of ``width + 1`` cells at both ends, which the cost of entering from there, inf, keeps out:
    no neighbour needs a bounds test.
    """
    count, step, margin = incoming.shape[0], len(lanes), width + 1
    height = count // width
    d = np.full((count + 2 * margin) * step, np.inf)
    for lane in range(starts.shape[0] - 1):
        for cell in cells[starts[lane] : starts[lane + 1]]:
            d[(cell + margin) * step + lane] = 0.0
    settled = False
    for _ in range(0, most_sweeps, 4):
        changed = False
        for i in range(count):  # from above
            c, cost = i + margin, incoming[i]
            changed |= _relax(
                d, lanes, c, c - width - 1, cost[0], c - width, cost[1], c - width + 1, cost[2], c - 1, cost[3]
            )
        for i in range(count - 1, -1, -1):  # from below
            c, cost = i + margin, incoming[i]
            changed |= _relax(
                d, lanes, c, c + width + 1, cost[7], c + width, cost[6], c + width - 1, cost[5], c + 1, cost[4]
            )
        for x in range(width):  # from the left
            for i in range((height - 1) * width + x, -1, -width):
                c, cost = i + margin, incoming[i]
                changed |= _relax(
                    d, lanes, c, c - width - 1, cost[0], c - 1, cost[3], c + width - 1, cost[5], c + width, cost[6]
                )
        for x in range(width - 1, -1, -1):  # from the right
            for i in range(x, count, width):
                c, cost = i + margin, incoming[i]
                changed |= _relax(
                    d, lanes, c, c - width + 1, cost[2], c + 1, cost[4], c + width + 1, cost[7], c - width, cost[1]
                )
        if not changed:
            settled = True
            break
    for lane in range(out.shape[0]):
        for i in range(count):
            out[lane, i] = d[(i + margin) * step + lane]
    return settled
