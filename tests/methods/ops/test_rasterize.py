import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from methods.ops.rasterize import (
    UNLABELLED,
    dilated_points,
    grid_size,
    grid_stride,
    point_cells,
    point_label_map,
    resample,
    scaled_odd,
)


@st.composite
def labelled(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    pixel = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 4))
    points = torch.tensor(draw(st.lists(pixel, min_size=1, max_size=8)))
    return (height, width), points[:, :2], points[:, 2], draw(st.sampled_from([1, 3, 9, 17]))


@given(labelled())
def test_squares_equal_a_max_pool_of_the_one_hot_points(case):
    size, xy, labels, dilation = case
    one_hot = torch.zeros(5, *size)
    one_hot[labels, xy[:, 1], xy[:, 0]] = 1
    pooled = F.max_pool2d(one_hot[None], dilation, stride=1, padding=dilation // 2)[0]
    assert torch.equal(dilated_points(xy, labels, 5, size, dilation), pooled.bool())


@given(labelled(), st.sampled_from([4, 8]), st.integers(0, 9), st.integers(0, 9))
def test_label_map_is_the_nearest_resize_with_every_point_kept(case, stride, below, right):
    size, xy, labels, dilation = case
    input_size = (size[0] + below, size[1] + right)
    grid = tuple(-(-side // stride) for side in input_size)
    found = point_label_map(xy, labels, size, input_size, grid, dilation)

    one_hot = torch.zeros(5, *size)
    one_hot[labels, xy[:, 1], xy[:, 0]] = 1
    squares = F.pad(F.max_pool2d(one_hot[None], dilation, 1, dilation // 2), (0, right, 0, below))
    resized = F.interpolate(squares, size=grid, mode="nearest")[0]
    expected = torch.where(resized.amax(dim=0) > 0, resized.argmax(dim=0), UNLABELLED)
    cells = point_cells(xy, input_size, grid)
    for cell in {tuple(c) for c in cells.tolist()}:
        here = [int(label) for label, c in zip(labels, cells.tolist(), strict=True) if tuple(c) == cell]
        expected[cell] = min(here)
    assert torch.equal(found, expected)


def test_no_points_label_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert (point_label_map(none.view(0, 2), none, (16, 16), (16, 16), (2, 2), 9) == UNLABELLED).all()


@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_cell_of_a_pixel_contains_it(height, width, rows, cols, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    row, col = point_cells(torch.tensor([[x, y]]), (height, width), (rows, cols))[0].tolist()
    assert row * height <= y * rows < (row + 1) * height
    assert col * width <= x * cols < (col + 1) * width


@pytest.mark.parametrize(
    "side, expected", [(600, 17), (480, 17), (800, 17), (479, 13), (320, 9), (128, 3), (96, 3), (40, 1), (1, 1)]
)
def test_the_dilation_scales_with_the_input(side, expected):
    assert scaled_odd(17, side) == expected
    assert scaled_odd(17, side, None) == 17


@given(st.integers(1, 50), st.integers(1, 3000))
def test_scaled_constants_are_the_nearest_odd_number(pixels, side):
    scaled = scaled_odd(pixels, side)
    assert scaled % 2 == 1 and scaled >= 1
    assert abs(scaled - pixels * (side / 600 if side < 480 else 1)) <= 1 or scaled == 1


def test_strides_follow_the_input():
    assert [grid_stride(side) for side in (96, 128, 129, 320, 321, 479, 480, 600, 800)] == [2, 2, 4, 4, 8, 8, 16, 16, 16]
    assert grid_size((600, 805), None) == (37, 50)
    assert grid_size((213, 320), None) == (53, 80)
    assert grid_size((600, 800), 8) == (75, 100)
    assert grid_size((3, 100), 16) == (1, 6)
    with pytest.raises(ValueError, match="stride"):
        grid_size((600, 800), 0)


@pytest.mark.parametrize("dilation", [0, 2, -1])
def test_even_dilations_are_refused(dilation):
    with pytest.raises(ValueError, match="odd"):
        dilated_points(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1, (4, 4), dilation)


def test_resampling_without_padding_is_interpolate():
    values = torch.rand(3, 10, 13)
    expected = F.interpolate(values[None], size=(7, 22), mode="bilinear", align_corners=False)[0]
    assert torch.equal(resample(values, (80, 104), (80, 104), (7, 22)), expected)


def test_resampling_the_valid_part_never_reads_padding():
    values = torch.rand(3, 10, 13)
    padded = F.pad(values, (0, 4, 0, 3), value=float("nan"))
    for grid in ((7, 22), (40, 52), (80, 104), (5, 6)):
        expected = F.interpolate(values[None], size=grid, mode="bilinear", align_corners=False)[0]
        found = resample(padded, (80, 104), (104, 136), grid)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_resampling_of_a_ramp_is_linear_where_the_valid_part_ends_inside_a_cell():
    ramp = (torch.arange(16) + 0.5).expand(1, 4, 16) * 8  # value = input column of the cell centre
    found = resample(ramp, (32, 60), (32, 128), (4, 15))[0, 0]
    centres = (torch.arange(15) + 0.5) * 4
    # left of the first and right of the last cell centre (60 of 64) the map is constant
    torch.testing.assert_close(found, centres.clamp(4, 60), atol=1e-4, rtol=0)


def test_a_map_without_channels_stays_without():
    assert resample(torch.zeros(0, 4, 4), (32, 32), (32, 32), (2, 2)).shape == (0, 2, 2)
