"""Consumers of the cells of a grid, against counting pixel by pixel."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.ops.rasterize import point_cells
from methods.ops.unit_transport import cell_demands

SIDES = st.integers(1, 40)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**31))
def test_each_cell_wants_as_many_units_as_it_has_consumers(height, width, rows, cols, seed):
    consumers = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    expected = np.zeros((rows, cols))
    for y, x in consumers.nonzero().tolist():
        expected[y * rows // height, x * cols // width] += 1
    found = cell_demands(consumers, (rows, cols))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, expected)


def test_points_lie_in_the_cells_that_count_them():
    consumers = torch.zeros(33, 47).bool()
    consumers[20, 31] = True
    (cell,) = point_cells(torch.tensor([[31, 20]]), (33, 47), (9, 13)).tolist()
    assert cell_demands(consumers, (9, 13)).nonzero().tolist() == [cell]
