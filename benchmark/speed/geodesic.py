"""Section ``geodesic``: exact shortest paths on directed grids, against SciPy's Dijkstra on the same graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmark.speed.harness import Settings, closeness, compare, interleaved, pinned
from benchmark.speed.inputs import grid_costs, random_cells
from benchmark.speed.plain import scipy_distances
from benchmark.speed.rows import COMPARISONS, MEASUREMENTS, Table, measurement_row, ratios, summary
from benchmark.speed.targets import GEODESIC
from methods.ops.geodesic import batched_geodesic_distances, geodesic_distances
from methods.ops.grid_dijkstra import grid_graph

SIDES = (50, 128, 256)
SOURCES = 10
SCALING_SIDE, MANY_SOURCES, IN_A_ROW = 128, 32, 8
TOLERANCE = 2e-6
"""Of float32 results of float64 sums."""


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """Against SciPy in one thread, and the same work in more threads."""
    note = f"{SOURCES} sources, one thread each. SciPy works in float64 on a graph that it is given or has to make first."
    table = Table("Against SciPy", COMPARISONS, note)
    with pinned(1):
        for side in SIDES:
            settings.tell(f"shortest paths, {side} x {side}")
            table.rows.extend(_against_scipy(side, settings))
    yield table
    yield _scaling(settings)


def _against_scipy(side: int, settings: Settings) -> list[dict[str, Any]]:
    size = (side, side)
    costs, cells = grid_costs(size, seed=1).numpy(), random_cells(size, SOURCES, seed=2)
    graph, flat, sources = grid_graph(costs), cells @ np.array([side, 1]), [cell[None] for cell in cells]

    def agree(ours: np.ndarray, other: np.ndarray):
        return closeness(ours.reshape(other.shape), other, TOLERANCE)

    def ours() -> np.ndarray:
        return geodesic_distances(costs, sources)

    case, budget = f"{side} x {side}", settings.budget(3)
    return [
        compare(case, "dijkstra, its graph made before", ours, lambda: scipy_distances(graph, flat), agree, budget,
                settings.device, GEODESIC),
        compare(case, "graph and dijkstra", ours, lambda: scipy_distances(grid_graph(costs), flat), agree, budget,
                settings.device),
    ]  # fmt: skip


def _scaling(settings: Settings) -> Table:
    """Batches of images in 1, 2, 4, ... threads."""
    side, size = SCALING_SIDE, (SCALING_SIDE, SCALING_SIDE)
    counts = sorted({2**k for k in range(settings.threads.bit_length())} | {settings.threads})
    counts = [count for count in counts if count <= settings.threads]
    table = Table(
        "In threads", MEASUREMENTS,
        f"`batched_geodesic_distances` of images of {side} x {side}: how many times faster than with one thread. Threads "
        "share images; where there are more threads, the sources of an image that do not fit into the lanes of one sweep. "
        f"{IN_A_ROW} calls in a row are timed together: a core that has slept is slow to come.",
    )
    cases = {(1, SOURCES), (1, MANY_SOURCES), (4, SOURCES), (2 * settings.threads, SOURCES)}
    for images, count_of_sources in sorted(cases):
        case = f"images: {images}, sources: {count_of_sources}"
        settings.tell(f"shortest paths, {case}, threads: up to {settings.threads}")
        costs = [grid_costs(size, seed) for seed in range(images)]
        sources = [[cell[None] for cell in random_cells(size, count_of_sources, seed)] for seed in range(images)]

        def run(count: int, costs=costs, sources=sources) -> None:
            with pinned(count):
                for _ in range(IN_A_ROW):
                    batched_geodesic_distances(costs, sources)

        run(1)
        calls = {str(count): lambda count=count: run(count) for count in counts}
        in_a_row = interleaved(calls, settings.budget(3), settings.device)
        seconds = {name: [each / IN_A_ROW for each in taken] for name, taken in in_a_row.items()}
        for count in counts:
            faster = summary(ratios(seconds["1"], seconds[str(count)]))
            table.rows.append(measurement_row(
                f"{case}, threads: {count}", faster["median"], "x", seconds=summary(seconds[str(count)]),
                ratio=faster,
            ))  # fmt: skip
    return table
