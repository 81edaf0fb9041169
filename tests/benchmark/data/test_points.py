"""Drawing points, and the file that carries them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from benchmark.data.errors import DataError
from benchmark.data.points import (
    STRATEGIES,
    PointsFile,
    draw_points,
    ensure_points,
    pixel_weights,
    sample_points,
    stable_seed,
)
from benchmark.data.scenes import Scenes
from tests.benchmark.data.conftest import toy_ids

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)).filter(np.any)


@given(masks, st.integers(1, 60), st.sampled_from(STRATEGIES), st.integers(0, 2**128 - 1))
def test_points_are_distinct_pixels_of_the_mask(mask, count, strategy, seed):
    points = sample_points(mask, count, strategy, seed)
    assert points.shape == (min(count, mask.sum()), 2) and points.dtype == np.int64
    assert mask[points[:, 1], points[:, 0]].all()
    assert len({tuple(p) for p in points.tolist()}) == len(points)


@given(masks, st.sampled_from(STRATEGIES), st.integers(0, 1000))
def test_fewer_points_are_the_first_of_more(mask, strategy, seed):
    all_of_them = sample_points(mask, mask.size, strategy, seed)
    for count in (1, 2, 5, 10):
        assert np.array_equal(sample_points(mask, count, strategy, seed), all_of_them[:count])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_first_and_second_draw_have_the_right_distribution(strategy):
    """Chi-square against successive draws without replacement, computed by hand."""
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, :5], mask[2, 1:3], mask[3, 5] = True, True, True
    rows, cols = np.nonzero(mask)
    place = {xy: i for i, xy in enumerate(zip(cols.tolist(), rows.tolist(), strict=True))}
    squared = (cols - cols.mean()) ** 2 + (rows - rows.mean()) ** 2
    weights = {"uniform": np.ones(8), "border_biased": squared, "center_biased": squared.max() - squared}[strategy]
    first = weights / weights.sum()
    given_first = weights[None, :] / (weights.sum() - weights[:, None]) * ~np.eye(8, dtype=bool)
    second = first @ given_first
    draws = [sample_points(mask, 2, strategy, seed).tolist() for seed in range(6000)]
    for position, expected in ((0, first), (1, second)):
        counts = np.bincount([place[tuple(points[position])] for points in draws], minlength=8)
        assert not counts[expected == 0].any()
        assert stats.chisquare(counts[expected > 0], 6000 * expected[expected > 0]).pvalue > 1e-3


def test_impossible_draws():
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(ValueError, match="empty mask"):
        sample_points(~mask, 1, "uniform", 0)
    with pytest.raises(ValueError, match="count is 0"):
        sample_points(mask, 0, "uniform", 0)
    with pytest.raises(ValueError, match="Unknown point strategy 'centre'; known are uniform, center_biased, border_biased"):
        pixel_weights(np.zeros((3, 2)), "centre")


def test_seeds_are_the_same_in_every_process_and_tell_types_apart():
    code = "from benchmark.data.points import stable_seed; print(stable_seed('coco', 17, 300, 'uniform', 0))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(other.stdout) == stable_seed("coco", 17, 300, "uniform", 0)
    assert len({stable_seed(1, 23), stable_seed(12, 3), stable_seed("1", 23), stable_seed(1, 23, 0)}) == 4


def test_targets_are_things_and_merged_stuff_without_crowd_and_void(folder):
    source = folder.read()
    points = draw_points(source, "uniform", 50, 0)
    assert points.target_image.tolist() == [0, 0, 0, 0, 1]
    assert points.target_segment.tolist() == [300, 70000, 5, 7, 4]  # 6 is grass as 5 is; 9 is crowd
    assert points.target_category.tolist() == [17, 90, 40, 17, 90]
    ids = toy_ids()
    drawn = [set(ids[points.point_y[points.point_target == t], points.point_x[points.point_target == t]]) for t in range(4)]
    assert drawn == [{300}, {70000}, {5, 6}, {7}]
    counts = np.bincount(points.point_target)
    assert counts.tolist() == [16, 50, 24, 12, 50]


def test_draws_depend_neither_on_order_nor_on_other_images(folder):
    points = draw_points(folder.read(), "border_biased", 3, 9)
    folder.content["images"].reverse()
    other = draw_points(folder.read(), "border_biased", 3, 9)
    for a, b in ((0, 1), (1, 0)):
        one, two = points.labels_of(a), other.labels_of(b)
        assert one.xy.tolist() == two.xy.tolist() and one.ids.tolist() == two.ids.tolist()


def test_images_without_targets_stay(folder):
    folder.content["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    points = draw_points(folder.read(), "uniform", 1, 0)
    assert len(points) == 2
    assert points.images_with_things().tolist() == [True, False]
    empty = points.labels_of(1)
    assert empty.num_targets == 0 and empty.xy.shape == (0, 2)


def test_progress_is_reported(folder):
    calls = []
    draw_points(folder.read(), "uniform", 1, 0, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]


def test_labels_have_contiguous_classes(folder):
    labels = draw_points(folder.read(), "uniform", 2, 0).labels_of(0)
    assert labels.classes.tolist() == [0, 1, 2, 0] and labels.is_thing.tolist() == [True, False, False, True]
    assert labels.target.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and labels.ids.tolist() == [300, 70000, 5, 7]
    ids = toy_ids()[labels.xy[:, 1], labels.xy[:, 0]]
    assert [{5: 5, 6: 5}.get(i, i) for i in ids] == labels.ids[labels.target].tolist()


def _content(points):
    names = ("target_image", "target_segment", "target_category", "point_target", "point_x", "point_y")
    return {name: getattr(points, name).tolist() for name in names}


def test_file_round_trip(folder, tmp_path):
    points = draw_points(folder.read(), "center_biased", 4, 3)
    points.save(tmp_path / "deep" / "p.npz")
    again = PointsFile.load(tmp_path / "deep" / "p.npz")
    assert _content(again) == _content(points) and again.fingerprint == points.fingerprint
    assert again.records == points.records and again.categories == points.categories
    assert (again.dataset, again.strategy, again.count, again.seed) == ("toy", "center_biased", 4, 3)
    assert again.source_fingerprint == folder.read().fingerprint
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["p.npz"]


def test_one_point_is_the_first_of_ten():
    source = Scenes(6, 2, "train", size=48)
    ten = draw_points(source, "uniform", 10, 1)
    assert ten.select(1).fingerprint == draw_points(source, "uniform", 1, 1).fingerprint
    assert ten.select(4).fingerprint == draw_points(source, "uniform", 4, 1).fingerprint
    assert ten.select(10).fingerprint == ten.fingerprint
    for count in (0, 11):
        with pytest.raises(ValueError, match=f"up to 10 points per target, {count} cannot be selected"):
            ten.select(count)


@given(st.permutations(range(5)), st.permutations(range(9)))
@settings(max_examples=20)
def test_columns_may_come_in_any_order(target_order, point_order):
    image, segment = np.array([0, 0, 1, 2, 2]), np.array([5, 3, 5, 1, 2])
    target = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])
    x = np.arange(9)
    where = np.argsort(target_order)
    points = PointsFile(
        "toy", "drawn by hand", 3, 0, "", Scenes.categories, Scenes(3, 0, "train", size=48).records,
        image[target_order], segment[target_order], np.full(5, 11), where[target][point_order],
        x[point_order], x[point_order],
    )
    assert points.target_image.tolist() == [0, 0, 1, 2, 2] and (np.diff(points.point_target) >= 0).all()
    for i in range(3):
        labels = points.labels_of(i)
        got = {s: sorted(labels.xy[labels.target == t, 0].tolist()) for t, s in enumerate(labels.ids.tolist())}
        assert got == {int(segment[t]): x[target == t].tolist() for t in np.flatnonzero(image == i)}


@pytest.fixture
def points(folder):
    return draw_points(folder.read(), "uniform", 2, 0)


def test_fingerprint_follows_the_content(points):
    moved = points.point_x.copy()
    moved[0] = (moved[0] + 1) % 16
    changes = ({"point_x": moved}, {"seed": 5}, {"dataset": "other"}, {"records": points.records[::-1]},
               {"target_category": points.target_category[::-1]})
    prints = {points.fingerprint, *(replace(points, **change).fingerprint for change in changes)}
    assert len(prints) == 6
    assert replace(points, path="elsewhere").fingerprint == points.fingerprint


@pytest.mark.parametrize(("x", "y"), [(16, 0), (0, 12), (-1, 3)])
def test_points_outside_the_image_are_named(points, tmp_path, x, y):
    replace(points, point_x=np.r_[x, points.point_x[1:]], point_y=np.r_[y, points.point_y[1:]]).save(tmp_path / "bad.npz")
    bad = PointsFile.load(tmp_path / "bad.npz")
    sentence = rf"bad\.npz: the point x={x}, y={y} lies outside image a\.jpg of 16 x 12 pixels"
    with pytest.raises(DataError, match=sentence):
        bad.labels_of(0)
    with pytest.raises(DataError, match=sentence):
        bad.check()
    assert bad.labels_of(1).num_targets == 1


def test_points_outside_a_later_image_are_found_by_check(points):
    x = points.point_x.copy()
    x[-1] = 8  # inside the first image, outside the second
    with pytest.raises(DataError, match=r"x=8, y=\d lies outside image b\.jpg of 8 x 10"):
        replace(points, point_x=x).check()


def test_unknown_category_is_named(points):
    bad = replace(points, target_category=np.r_[points.target_category[:-1], 55])
    for look in (bad.check, lambda: bad.labels_of(1)):
        with pytest.raises(DataError, match=r"data set 'toy': target 4 of image b\.jpg has the unknown category id 55"):
            look()
    assert bad.labels_of(0).num_targets == 4


@pytest.mark.parametrize(("change", "sentence"), [
    ({"point_x": np.zeros(3)}, "columns point_target, point_x, point_y must be lists of one length"),
    ({"target_image": np.array([0, 0, 0, 0, 2])}, r"column target_image must be in 0 \.\. 1"),
    ({"point_target": np.full(10, 5)}, r"column point_target must be in 0 \.\. 4"),
    ({"target_segment": np.array([300, 70000, 300, 7, 4])}, r"image a\.jpg has the target 300 twice"),
])
def test_contradicting_columns(points, change, sentence):
    with pytest.raises(DataError, match=sentence):
        replace(points, **change)


def test_unreadable_points_files(points, tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(DataError, match=r"points file .*p\.npz does not exist"):
        PointsFile.load(path)
    points.save(path)
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 3] ^= 255
    for content in (whole[: len(whole) // 2], b"", b"text", bytes(broken)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"p\.npz cannot be read"):
            PointsFile.load(path)
    np.savez(path, metadata=np.frombuffer(json.dumps({"format": 99}).encode(), np.uint8),
             **{name: np.array(column) for name, column in _content(points).items()})
    with pytest.raises(DataError, match=r"p\.npz has another format than 1: draw the points again"):
        PointsFile.load(path)
    np.savez(path, boxes=np.zeros(3))
    with pytest.raises(DataError, match=r"p\.npz cannot be read"):
        PointsFile.load(path)


def test_points_are_drawn_once(folder, tmp_path, monkeypatch):
    source = folder.read()
    drawn = ensure_points(source, tmp_path / "points", "uniform", 2, 0)
    assert drawn.path.exists()
    monkeypatch.setattr(source, "read_annotation", None)  # from here on, looking at a mask is an error
    found = ensure_points(source, tmp_path / "points", "uniform", 2, 0)
    assert found.fingerprint == drawn.fingerprint and found.path == drawn.path
    monkeypatch.undo()
    for settings_ in (("uniform", 3, 0), ("uniform", 2, 1), ("border_biased", 2, 0)):
        assert ensure_points(source, tmp_path / "points", *settings_).path != drawn.path
    folder.content["info"] = "changed"
    changed = ensure_points(folder.read(), tmp_path / "points", "uniform", 2, 0)
    assert changed.source_fingerprint != drawn.source_fingerprint and changed.path != drawn.path


def test_a_points_file_under_a_wrong_name_is_not_believed(folder, tmp_path):
    source = folder.read()
    drawn = ensure_points(source, tmp_path, "uniform", 2, 0)
    replace(drawn, seed=4).save(drawn.path)
    assert ensure_points(source, tmp_path, "uniform", 2, 0).seed == 0
    assert PointsFile.load(drawn.path).fingerprint == drawn.fingerprint
