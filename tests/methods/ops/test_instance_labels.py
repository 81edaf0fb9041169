import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.ops.instance_labels import instance_label_map
from methods.ops.rasterize import point_cells
from tests.methods.stand_ins import point_labels


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    input_size = (height + draw(st.integers(0, 9)), width + draw(st.integers(0, 9)))
    count = draw(st.integers(1, 5))
    pixel = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, count - 1))
    places = draw(st.lists(pixel, min_size=1, max_size=8, unique_by=lambda p: p[:2]))
    stride = draw(st.sampled_from([1, 3, 8]))
    grid = tuple(-(-side // stride) for side in input_size)
    return point_labels(places, [0] * count), (height, width), input_size, grid, draw(st.sampled_from([1, 3, 9, 17]))


def contenders(points, input_size, grid):
    """Cell -> targets with a labelled pixel in it."""
    found = {}
    for cell, target in zip(point_cells(points.xy, input_size, grid).tolist(), points.target.tolist(), strict=True):
        found.setdefault(tuple(cell), set()).add(target)
    return found


def by_loops(points, size, input_size, grid, side):
    """The same map cell by cell."""
    cells = torch.full(grid, -1)
    for i in range(grid[0]):
        for j in range(grid[1]):
            row, col = i * input_size[0] // grid[0], j * input_size[1] // grid[1]
            best = {}
            for (x, y), target in zip(points.xy.tolist(), points.target.tolist(), strict=True):
                if max(abs(row - y), abs(col - x)) <= side // 2 and row < size[0] and col < size[1]:
                    best[target] = min(best.get(target, 10**9), (row - y) ** 2 + (col - x) ** 2)
            nearest = [t for t, d in best.items() if d == min(best.values())]
            cells[i, j] = nearest[0] if len(nearest) == 1 else -1
    owners = contenders(points, input_size, grid)
    for cell, targets in owners.items():
        cells[cell] = next(iter(targets)) if len(targets) == 1 else -1
    elsewhere = [int((cells == t).sum()) for t in range(points.num_targets)]
    for cell, targets in owners.items():
        if len(targets) > 1:
            cells[cell] = min(targets, key=lambda t: (elsewhere[t], t))
    return cells


@given(cases())
def test_equals_a_loop_over_the_cells(case):
    assert torch.equal(instance_label_map(*case), by_loops(*case))


@given(cases())
def test_a_target_alone_in_a_cell_of_a_point_always_has_a_cell(case):
    points, _, input_size, grid, _ = case
    cells = instance_label_map(*case)
    for cell, targets in contenders(points, input_size, grid).items():
        assert int(cells[cell]) in targets
    alone = {next(iter(t)) for t in contenders(points, input_size, grid).values() if len(t) == 1}
    assert alone <= set(cells.unique().tolist())


def test_equal_distances_stay_unlabelled_and_the_nearer_point_wins():
    cells = instance_label_map(point_labels([(2, 0, 0), (6, 0, 1)], [0, 0]), (1, 9), (1, 9), (1, 9), 9)
    assert cells.tolist() == [[0, 0, 0, 0, -1, 1, 1, 1, 1]]


def test_several_pixels_of_one_target_are_no_conflict():
    cells = instance_label_map(point_labels([(2, 0, 0), (6, 0, 0)], [0]), (1, 9), (1, 9), (1, 9), 9)
    assert cells.tolist() == [[0] * 9]


def test_a_contested_cell_goes_to_the_target_that_has_no_other():
    points = point_labels([(3, 3, 0), (20, 3, 0), (5, 5, 1)], [0, 0])
    assert instance_label_map(points, (8, 24), (8, 24), (1, 3), 1).tolist() == [[1, -1, 0]]
    lost = point_labels([(3, 3, 0), (5, 5, 1)], [0, 0])
    assert instance_label_map(lost, (8, 24), (8, 24), (1, 3), 1).tolist() == [[0, -1, -1]]


def test_squares_end_at_the_valid_part():
    cells = instance_label_map(point_labels([(7, 7, 0)], [0]), (8, 8), (16, 16), (16, 16), 5)
    assert set(map(tuple, cells.eq(0).nonzero().tolist())) == {(r, c) for r in (5, 6, 7) for c in (5, 6, 7)}


def test_no_point_is_no_label_and_an_even_side_is_refused():
    assert (instance_label_map(point_labels([], []), (8, 8), (16, 16), (2, 2), 3) == -1).all()
    with pytest.raises(ValueError, match="odd number of pixels, got 4"):
        instance_label_map(point_labels([], []), (8, 8), (16, 16), (2, 2), 4)
