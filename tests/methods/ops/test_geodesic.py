import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.speed.plain import scipy_distances as single_source_distances
from methods.ops.geodesic import NEIGHBOURS, batched_geodesic_distances, geodesic_distances
from methods.ops.grid_dijkstra import dijkstra_distances, grid_graph
from methods.ops.grid_sweeps import MOST_SWEEPS, swept_distances


def edges_of(costs):
    """(from, to, cost) of every edge inside the grid, as three flat arrays."""
    height, width = costs.shape[:2]
    found = [
        (row * width + col, (row + down) * width + col + right, costs[row, col, k])
        for row in range(height) for col in range(width) for k, (down, right) in enumerate(NEIGHBOURS)
        if 0 <= row + down < height and 0 <= col + right < width
    ]
    start, end, cost = zip(*found, strict=True) if found else ((), (), ())
    return np.array(start, dtype=int), np.array(end, dtype=int), np.array(cost, dtype=float)


def scipy_distances(costs, sources):
    """Minimum over single-source SciPy runs on the explicit sparse graph (explicit zeros stay edges, inf are left out)."""
    height, width = costs.shape[:2]
    cells = np.asarray(sources)
    runs = single_source_distances(grid_graph(costs), cells[:, 0] * width + cells[:, 1])
    return runs.min(axis=0).reshape(height, width)


@st.composite
def grids(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "zeros", "wide", "equal", "holes"]))
    costs = rng.random((height, width, 8))
    if kind == "zeros":
        costs *= rng.random(costs.shape) < 0.3
    elif kind == "wide":
        costs = 10.0 ** rng.uniform(-9, 6, costs.shape)
    elif kind == "equal":
        costs[:] = draw(st.sampled_from([0.0, 0.5, 1e-6]))
    elif kind == "holes":
        costs[rng.random(costs.shape) < 0.4] = np.inf
    cells = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    sources = draw(st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=3))
    return costs.astype(np.float32), [np.array(s) for s in sources]


@given(grids())
@settings(deadline=None, max_examples=150)
def test_equals_scipy_on_directed_grids(case):
    costs, sources = case
    found = geodesic_distances(costs, sources)
    assert found.dtype == np.float32
    for distances, source in zip(found, sources, strict=True):
        np.testing.assert_allclose(distances, scipy_distances(costs, source), rtol=2e-6, atol=0)


@given(grids())
@settings(deadline=None, max_examples=50)
def test_triangle_inequality_and_zero_at_the_sources(case):
    costs, sources = case
    start, end, cost = edges_of(costs.astype(np.float64))
    for distances, source in zip(geodesic_distances(costs, sources), sources, strict=True):
        assert (distances[source[:, 0], source[:, 1]] == 0).all()
        flat = distances.ravel().astype(np.float64)
        assert (flat[end] <= (flat[start] + cost) * (1 + 1e-6)).all()


@given(grids())
@settings(deadline=None, max_examples=50)
def test_several_sources_are_the_minimum_of_single_ones(case):
    costs, sources = case
    single = geodesic_distances(costs, [cell[None] for cell in sources[0]])
    np.testing.assert_array_equal(geodesic_distances(costs, sources[:1])[0], single.min(axis=0))


def test_larger_grid_with_a_wide_range_of_costs():
    rng = np.random.default_rng(3)
    costs = (rng.random((70, 45, 8)) * np.where(rng.random((70, 45, 1)) < 0.2, 50.0, 0.01)).astype(np.float32)
    source = np.array([[2, 3], [60, 40]])
    np.testing.assert_allclose(geodesic_distances(costs, [source])[0], scipy_distances(costs, source), rtol=2e-6)


def test_edges_that_leave_the_grid_are_ignored_whatever_they_hold():
    costs = np.random.default_rng(0).random((5, 6, 8)).astype(np.float32)
    expected = geodesic_distances(costs, [np.array([[2, 2]])])
    for value in (np.nan, -1.0, np.inf, 0.0):
        spoiled = costs.copy()
        for k, (down, right) in enumerate(NEIGHBOURS):
            rows = [r for r in range(5) if not 0 <= r + down < 5]
            cols = [c for c in range(6) if not 0 <= c + right < 6]
            spoiled[rows, :, k] = value
            spoiled[:, cols, k] = value
        np.testing.assert_array_equal(geodesic_distances(spoiled, [np.array([[2, 2]])]), expected)


def test_an_empty_set_is_infinitely_far_and_no_set_gives_no_map():
    costs = np.ones((3, 4, 8), dtype=np.float32)
    found = geodesic_distances(costs, [np.empty((0, 2), dtype=np.int64), np.array([[0, 0]]), []])
    assert np.isinf(found[0]).all() and np.isinf(found[2]).all()
    assert found[1].max() == 3
    assert geodesic_distances(costs, []).shape == (0, 3, 4)


@pytest.mark.parametrize("value", [-1e-6, np.nan])
def test_negative_and_nan_costs_are_refused(value):
    costs = np.ones((4, 4, 8), dtype=np.float32)
    costs[1, 2, 3] = value
    with pytest.raises(ValueError, match="negative or NaN"):
        geodesic_distances(costs, [np.array([[0, 0]])])


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 9), (0, 4, 8), (1, 4, 4, 8)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        geodesic_distances(np.ones(shape, dtype=np.float32), [])


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_a_source_outside_the_grid_is_refused(cell):
    with pytest.raises(ValueError, match="outside"):
        geodesic_distances(np.ones((3, 4, 8), dtype=np.float32), [np.array([[0, 0]]), np.array([cell])])


@pytest.mark.parametrize("source", [np.array([0, 0]), np.array([[0, 0, 0]]), np.array([[0.0, 0.0]])])
def test_malformed_sources_are_refused(source):
    with pytest.raises(ValueError, match="Source set 0"):
        geodesic_distances(np.ones((3, 4, 8), dtype=np.float32), [source])


def test_a_tensor_gives_a_tensor_without_gradient():
    costs = torch.rand(6, 5, 8, requires_grad=True)
    sources = [torch.tensor([[1, 1]]), torch.zeros(0, 2, dtype=torch.int64)]
    found = geodesic_distances(costs, sources)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32 and not found.requires_grad
    np.testing.assert_array_equal(found.numpy(), geodesic_distances(costs.detach().numpy(), [s.numpy() for s in sources]))
    assert isinstance(geodesic_distances(costs.detach().bfloat16(), sources), torch.Tensor)


def test_a_batch_equals_its_images():
    torch.manual_seed(0)
    costs = [torch.rand(6, 5, 8), torch.rand(9, 4, 8), torch.rand(3, 3, 8)]
    sources = [[torch.tensor([[1, 1]]), torch.tensor([[0, 0], [5, 4]])], [], [torch.tensor([[2, 2]])]]
    found = batched_geodesic_distances(costs, sources)
    assert [f.shape for f in found] == [(2, 6, 5), (0, 9, 4), (1, 3, 3)]
    for one, cost, source in zip(found, costs, sources, strict=True):
        assert torch.equal(one, geodesic_distances(cost, source))
    assert batched_geodesic_distances([], []) == []


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_a_lone_image_shares_its_sources_among_threads(count):
    torch.manual_seed(count)
    costs, sources = torch.rand(9, 7, 8), [torch.randint(7, (1, 2)) for _ in range(count)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        (found,) = batched_geodesic_distances([costs], [sources])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, geodesic_distances(costs, sources))


def entering(costs):
    """(h * w, 8) cost of entering each cell from each neighbour; inf outside the grid."""
    height, width = costs.shape[:2]
    result = np.full((height * width, 8), np.inf, np.float32)
    for start, end, cost in zip(*edges_of(costs), strict=True):
        result[end, NEIGHBOURS.index((start // width - end // width, start % width - end % width))] = cost
    return result


@given(grids(), st.integers(0, 40))
@settings(deadline=None, max_examples=100)
def test_sweeps_and_dijkstra_agree_to_the_last_bit(case, count):
    """Whatever the number of sources: of lanes that nobody uses, and of groups of lanes."""
    costs, sources = case
    height, width = costs.shape[:2]
    rng = np.random.default_rng(count)
    sets = [rng.integers(0, height * width, rng.integers(0, 4)) for _ in range(count)]
    sets += [source @ np.array([width, 1]) for source in sources]
    cells, starts = np.concatenate(sets).astype(np.int64), np.cumsum([0, *map(len, sets)])
    swept = swept_distances(entering(costs), width, cells, starts, most_sweeps=10_000)
    np.testing.assert_array_equal(swept, dijkstra_distances(costs, cells, starts))


def corridor(height):
    """Steps through a corridor that turns at both ends of every other row: (height, 6, 8), elsewhere no edge."""
    rows = [[(y, x) for x in (range(6) if y % 4 == 0 else range(5, -1, -1))] for y in range(0, height, 2)]
    path = [cell for y, row in enumerate(rows) for cell in [*row, (2 * y + 1, row[-1][1])]]
    costs = np.full((height, 6, 8), np.inf, np.float32)
    for (y, x), (down, right) in pairwise(path):
        costs[y, x, NEIGHBOURS.index((down - y, right - x))] = 0.5
    return costs, path


def test_paths_that_wind_too_much_for_sweeps():
    height = 2 * MOST_SWEEPS
    costs, path = corridor(height)
    assert swept_distances(entering(costs), 6, np.array([0]), np.array([0, 1])) is None
    distances = geodesic_distances(costs, [np.array([[0, 0]])])[0]
    expected = np.full((height, 6), np.inf)
    for steps, cell in enumerate(path):
        expected[cell] = 0.5 * steps
    np.testing.assert_array_equal(distances, expected)


def test_importing_compiles_nothing():
    script = (
        "from methods.ops import geodesic as g, grid_sweeps as s; "
        "assert not (s._sweep.signatures or g._incoming_costs.signatures)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
