"""Images, points and masks move together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from benchmark.data.transforms import Geometry, Transform, resized
from methods.base.types import PointLabels

sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)


def labels(xy, target=None):
    xy = torch.tensor(xy, dtype=torch.int64).reshape(-1, 2)
    target = torch.arange(len(xy)) if target is None else torch.tensor(target)
    count = int(target.max()) + 1 if len(target) else 0
    return PointLabels(xy, target, torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.bool),
                       torch.arange(count))


@pytest.mark.parametrize(("size", "expected"), [
    ((375, 500), (600, 800)), ((333, 500), (600, 901)), ((500, 333), (901, 600)), ((200, 1000), (267, 1333)),
    ((600, 800), (600, 800)), ((1, 5000), (1, 1333)),
])
def test_sizes(size, expected):
    assert resized(size, 600, 1333) == expected


@given(st.tuples(st.integers(20, 900), st.integers(20, 900)), st.integers(100, 900))
def test_sizes_are_those_of_mmcv(size, short):
    from mmcv.image.geometric import rescale_size

    width, height = rescale_size(size[::-1], (1333, short))
    assert resized(size, short, 1333) == (height, width)


@given(sizes, sizes, st.booleans(), st.data())
def test_points_stay_inside_and_identity_moves_nothing(old, new, flipped, data):
    xy = [(data.draw(st.integers(0, old[1] - 1)), data.draw(st.integers(0, old[0] - 1))) for _ in range(4)]
    moved = Geometry(old, new, flipped).points(labels(xy)).xy
    assert (moved >= 0).all() and (moved[:, 0] < new[1]).all() and (moved[:, 1] < new[0]).all()
    assert Geometry(old, old, False).points(labels(xy)).xy.tolist() == [list(p) for p in xy]


@given(sizes, st.data())
def test_flip_twice_is_the_identity(size, data):
    xy = torch.tensor([[data.draw(st.integers(0, size[1] - 1)), data.draw(st.integers(0, size[0] - 1))]])
    flip = Geometry(size, size, True)
    assert torch.equal(flip.coordinates(flip.coordinates(xy)), xy)
    assert flip.coordinates(xy).tolist() == [[size[1] - 1 - int(xy[0, 0]), int(xy[0, 1])]]


@given(sizes, sizes, st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_ids_are_the_nearest_pixel_centre(old, new, flipped, seed):
    """Against brute force in exact fractions."""
    ids = np.random.default_rng(seed).integers(0, 9, old)
    moved = Geometry(old, new, flipped).ids(ids, labels([])).numpy()
    expected = np.array([[ids[(2 * r + 1) * old[0] // (2 * new[0]), (2 * c + 1) * old[1] // (2 * new[1])]
                          for c in range(new[1])] for r in range(new[0])])
    assert np.array_equal(moved, expected[:, ::-1] if flipped else expected)


@pytest.mark.parametrize(("old", "new"), [
    ((30, 40), (60, 80)), ((33, 50), (60, 91)), ((64, 48), (40, 30)), ((7, 5), (23, 17)),
])
def test_ids_agree_with_torch_nearest_exact(old, new):
    ids = np.random.default_rng(0).integers(0, 200, old)
    expected = functional.interpolate(torch.tensor(ids).double()[None, None], size=new, mode="nearest-exact")
    assert torch.equal(Geometry(old, new, False).ids(ids, labels([])), expected[0, 0].long())


def test_a_point_keeps_its_target_when_shrinking_loses_its_pixel():
    ids = np.zeros((32, 32), dtype=np.int64)
    ids[0, 0], ids[9:13, 9:13] = 1, 2
    geometry = Geometry((32, 32), (8, 8), True)
    moved = geometry.points(labels([(0, 0), (9, 9), (12, 12)], [0, 1, 1]))
    assert moved.xy.tolist() == [[7, 0], [5, 2], [4, 3]]
    result = geometry.ids(ids, moved)
    assert result[0, 7] == 1 and result[2, 5] == 2 and result[3, 4] == 2
    assert (geometry.ids(ids, labels([])) == 1).sum() == 0  # the resampling alone had lost it


def test_two_targets_in_one_cell_keep_both_points():
    ids = np.array([[1, 2], [0, 0]])
    geometry = Geometry((2, 2), (1, 1), False)
    moved = geometry.points(labels([(1, 0), (0, 0)], [1, 0]))
    assert moved.xy.tolist() == [[0, 0], [0, 0]] and moved.target.tolist() == [1, 0]
    assert geometry.ids(ids, moved).tolist() == [[1]]


def test_image_resize_is_bilinear_between_pixel_centres():
    """A linear ramp stays the ramp of the pixel centres, away from the border."""
    pixels = np.repeat((np.arange(20, dtype=np.uint8) * 10)[None, :, None], 4, axis=0).repeat(3, axis=2)
    image = Geometry((4, 20), (6, 30), False).image(pixels)
    assert image.shape == (3, 6, 30) and image.dtype == torch.float32
    centres = (torch.arange(30) + 0.5) * 20 / 30 - 0.5
    assert torch.allclose(image[1, 2, 1:-1] * 255, 10 * centres[1:-1], atol=1e-3)
    flipped = Geometry((4, 20), (6, 30), True).image(pixels)
    assert torch.equal(flipped, image.flip(-1)) and flipped.is_contiguous()


def test_image_of_the_same_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image = Geometry((5, 7), (5, 7), False).image(pixels)
    assert np.array_equal((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), pixels)


def test_random_choices_come_from_the_generator():
    transform = Transform.from_config({"short": 600, "long": 1333, "short_range": [480, 512, 544], "flip": 0.5})
    draws = [transform.draw((375, 500), np.random.default_rng(seed)) for seed in range(300)]
    assert draws == [transform.draw((375, 500), np.random.default_rng(seed)) for seed in range(300)]
    assert {d.size[0] for d in draws} == {480, 512, 544} and 110 < sum(d.flipped for d in draws) < 190
    assert {d.size for d in draws} == {resized((375, 500), short, 1333) for short in (480, 512, 544)}
    fixed = transform.for_evaluation()
    drawn = {fixed.draw((375, 500), np.random.default_rng(seed)) for seed in range(50)}
    assert drawn == {Geometry((375, 500), (600, 800), False)}


def test_config_defaults_and_errors():
    assert Transform.from_config({"short": 96, "long": 96, "short_range": None}) == Transform(96, 96, None, 0.5)
    with pytest.raises(ValueError, match="must be positive, they are short 0"):
        Transform(0, 5)
    with pytest.raises(ValueError, match=r"flip probability must be in \[0, 1\], it is 2"):
        Transform(5, 5, flip=2)
