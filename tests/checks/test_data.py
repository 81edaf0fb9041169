"""Numeric checks of data, points and transforms, by number (2-6). Each compares with a number or a bound that was computed
independently of this project."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.data.coco import decode_ids, encode_ids
from benchmark.data.points import STRATEGIES, draw_points, pixel_weights, sample_points
from benchmark.data.scenes import Scenes
from benchmark.data.transforms import Geometry
from methods.base.types import PointLabels


def disc(radius: float, centre: tuple[float, float], size: int) -> np.ndarray:
    rows, cols = np.mgrid[:size, :size]
    return (cols - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2


def test_check_2_id_codec():
    colour = np.array([[[1, 2, 3]]], dtype=np.uint8)
    assert decode_ids(colour).item() == 197121
    assert np.array_equal(encode_ids(np.array([[197121]])), colour)


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_check_3_every_target_has_its_points(strategy, count):
    source = Scenes(12, 1, "train", size=64, small_share=0.6)
    points = draw_points(source, strategy, count, seed=0)
    for index, record in enumerate(source.records):
        annotation, labels = source.read_annotation(record), points.labels_of(index)
        assert labels.ids.tolist() == [s["id"] for s in annotation.segments]
        for target, segment in enumerate(annotation.segments):
            x, y = labels.xy[labels.target == target].unbind(1)
            assert len(x) == min(count, segment["area"])
            assert (annotation.ids[y, x] == segment["id"]).all()


def test_check_3_same_seed_same_hash_and_strategies_differ(tmp_path):
    source = Scenes(6, 1, "train", size=64)
    prints = {}
    for strategy in STRATEGIES:
        for seed in (0, 1):
            points = draw_points(source, strategy, 1, seed)
            assert draw_points(source, strategy, 1, seed).fingerprint == points.fingerprint
            prints[points.fingerprint] = (points.point_x.tolist(), points.point_y.tolist())
    assert len(prints) == 6 and len({str(xy) for xy in prints.values()}) == 6


MOMENTS = {"uniform": (0.4991, 0.6661), "border_biased": (0.6655, 0.7993), "center_biased": (0.3333, 0.5333)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_check_4_moments_of_the_probabilities(strategy):
    mask = disc(60, (64, 64), 129)
    assert mask.sum() == 11289
    xy = np.argwhere(mask)[:, ::-1]
    weights = pixel_weights(xy, strategy)
    distance = np.hypot(*(xy - 64).T) / 60
    expected = MOMENTS[strategy]
    assert np.average(distance**2, weights=weights) == pytest.approx(expected[0], abs=6e-5)
    assert np.average(distance, weights=weights) == pytest.approx(expected[1], abs=6e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_check_4_moments_of_the_draws(strategy):
    mask = disc(60, (64, 64), 129)
    drawn = np.concatenate([sample_points(mask, 1, strategy, seed) for seed in range(2000)])
    distance = np.hypot(*(drawn - 64).T) / 60
    for values, expected in zip((distance**2, distance), MOMENTS[strategy], strict=True):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


def test_check_5_pixels_of_no_weight_are_drawn_last():
    mask = disc(3, (4, 4), 9)
    centre, farthest = [4, 4], [[4, 1], [4, 7], [1, 4], [7, 4]]
    for seed in range(300):
        border = sample_points(mask, 29, "border_biased", seed).tolist()
        assert len(border) == mask.sum() == 29 and border[-1] == centre
        center = sample_points(mask, 29, "center_biased", seed).tolist()
        assert sorted(center[-4:]) == sorted(farthest)


def test_check_5_small_masks_are_topped_up_uniformly():
    plus = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    assert len(sample_points(plus, 5, "border_biased", 0)) == 5
    last = [tuple(sample_points(plus, 10, "center_biased", seed)[1].tolist()) for seed in range(400)]
    assert {last.count(xy) > 60 for xy in ((1, 0), (0, 1), (2, 1), (1, 2))} == {True}  # the centre, then any of four
    single = np.zeros((4, 4), dtype=bool)
    single[2, 3] = True
    for strategy in STRATEGIES:
        assert sample_points(single, 10, strategy, 1).tolist() == [[3, 2]]


def _all_points(mask: np.ndarray) -> PointLabels:
    xy = torch.from_numpy(np.argwhere(mask)[:, ::-1].copy())
    return PointLabels(xy, torch.zeros(len(xy), dtype=torch.int64), torch.zeros(1, dtype=torch.int64),
                       torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=torch.int64))


NOTHING = PointLabels(torch.zeros(0, 2, dtype=torch.int64), *(torch.zeros(0, dtype=torch.int64),) * 4)


@pytest.mark.parametrize("radius", [1, 3, 10])
@pytest.mark.parametrize("scale", [1.0, 1.07, 1.3, 1.6, 1.8018, 2.0, 3.3])
@pytest.mark.parametrize("flipped", [False, True])
def test_check_6_enlarging_and_flipping_keeps_every_point_in_its_mask(radius, scale, flipped):
    mask = disc(radius, (11.3, 12.1), 25)
    size = round(25 * scale)
    geometry = Geometry((25, 25), (size, round(25 * 1.5 * scale)), flipped)
    x, y = geometry.points(_all_points(mask)).xy.unbind(1)
    assert (geometry.ids(mask.astype(int), NOTHING)[y, x] == 1).all()  # without setting the points' pixels


@pytest.mark.parametrize("radius", [3, 10])
@pytest.mark.parametrize("scale", [0.5, 0.62, 0.8, 0.95])
def test_check_6_shrinking_is_off_by_one_pixel_at_most_and_the_own_pixel_is_set(radius, scale):
    mask = disc(radius, (14.3, 13.1), 30)
    geometry = Geometry((30, 30), (round(30 * scale),) * 2, False)
    points = _all_points(mask)
    moved = geometry.points(points)
    columns = np.broadcast_to(np.arange(30), (30, 30))
    for axis, plane in ((0, columns), (1, columns.T)):
        source = geometry.ids(plane, NOTHING)[moved.xy[:, 1], moved.xy[:, 0]]
        assert (source - points.xy[:, axis]).abs().max() <= 1
    plain = geometry.ids(mask.astype(int), NOTHING)[moved.xy[:, 1], moved.xy[:, 0]]
    assert (plain == 1).float().mean() > 0.7
    assert (geometry.ids(mask.astype(int), moved)[moved.xy[:, 1], moved.xy[:, 0]] == 1).all()


@pytest.mark.parametrize(("scale", "radius", "rate"), [(0.8, 3, 0.92), (0.8, 10, 0.98), (0.8, 60, 0.996),
                                                       (0.5, 3, 0.81), (0.5, 10, 0.95), (0.5, 60, 0.99)])
def test_check_6_hit_rate_of_shrinking(scale, radius, rate):
    size, hits = 200, []
    geometry = Geometry((size, size), (round(size * scale),) * 2, False)
    for shift in np.random.default_rng(0).uniform(0, 5, size=(20, 2)):
        mask = disc(radius, tuple(95 + shift), size)
        x, y = geometry.points(_all_points(mask)).xy.unbind(1)
        hits.append((geometry.ids(mask.astype(int), NOTHING)[y, x] == 1).float().mean().item())
    assert np.mean(hits) == pytest.approx(rate, abs=0.02)
