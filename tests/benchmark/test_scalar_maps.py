"""Maps of numbers as 8-bit grayscale: what comes back, and at which places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from benchmark.scalar_maps import MOST_CELLS, STEPS, gray_map

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.inf, -np.inf, np.nan])


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=VALUES))
def test_values_come_back_within_half_a_step(values):
    stored = gray_map(values)
    back, finite = stored.values(), np.isfinite(values)
    assert stored.gray.dtype == np.uint8 and back.shape == values.shape and back.dtype == np.float32
    assert (np.isfinite(back) == finite).all() and ((stored.gray > 0) == finite).all()
    if not finite.any():
        assert stored.low is None and stored.high is None
        return
    assert (stored.low, stored.high) == (values[finite].min(), values[finite].max())
    rounding = 1e-6 * max(abs(stored.low), abs(stored.high))
    assert np.abs(back[finite] - values[finite]).max() <= (stored.high - stored.low) / STEPS / 2 + rounding


def test_the_ends_use_the_whole_range_and_equal_values_are_low():
    assert gray_map(np.array([[2.0, 5.0, np.inf]])).gray.tolist() == [[1, 255, 0]]
    flat = gray_map(np.full((2, 3), 0.1))
    assert (flat.gray == 1).all() and flat.low == flat.high == 0.1 and (flat.values() == np.float32(0.1)).all()


@pytest.mark.parametrize("size", [(MOST_CELLS, 40), (300, 200), (129, 1000), (1000, 3), (1, 400)])
def test_a_fine_map_is_sampled_at_the_centres_of_fewer_cells(size):
    """A plane, whose values are their places in shares of the image."""
    places = [(np.arange(side) + 0.5) / side for side in size]
    for axis, plane in enumerate(np.meshgrid(*places, indexing="ij")):
        stored = gray_map(plane)
        height, width = stored.gray.shape
        assert max(stored.gray.shape) == min(MOST_CELLS, max(size))
        scale = max(stored.gray.shape) / max(size)
        assert abs(height - scale * size[0]) <= 0.5 or height == 1
        assert abs(width - scale * size[1]) <= 0.5 or width == 1
        count, side = stored.gray.shape[axis], size[axis]
        expected = (np.arange(count) + 0.5) / count
        found = stored.values().mean(axis=1 - axis)
        assert np.abs(found - expected).max() <= 0.5 / side + 1 / STEPS
