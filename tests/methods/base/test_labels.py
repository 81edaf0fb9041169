"""Boxes of id maps, on the CPU and as other devices find them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import labels
from methods.base.labels import boxes_of


@st.composite
def id_maps(draw):
    """An id map, its number of targets (some of them empty) and the valid part."""
    height, width, count = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 5))
    cells = draw(st.lists(st.integers(0, count), min_size=height * width, max_size=height * width))
    size = draw(st.integers(1, height)), draw(st.integers(1, width))
    return torch.tensor(cells).view(height, width), count, size


@settings(deadline=None)
@given(id_maps())
def test_boxes_are_the_extents_of_the_targets(case):
    ids, count, (height, width) = case
    boxes = boxes_of(ids, count, (height, width))
    assert boxes.shape == (count, 4) and boxes.dtype == torch.float32
    for target, box in enumerate(boxes.tolist(), 1):
        places = [(y, x) for y in range(height) for x in range(width) if ids[y, x] == target]
        if places:
            rows, cols = zip(*places, strict=True)
            assert box == [min(cols), min(rows), max(cols) + 1, max(rows) + 1]
        else:
            assert box == [width / 4, height / 4, 3 * width / 4, 3 * height / 4]


@settings(deadline=None)
@given(id_maps())
def test_scattering_pixels_finds_the_same_extents(case):
    ids, count, size = case
    valid = ids[: size[0], : size[1]]
    if count:
        assert torch.equal(labels._scattered_extents(valid, count), labels._extents(valid, count))
