"""Scribbles, clicks and the labelled pixels of label maps: drawing, files and what a run records of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.data.errors import DataError
from benchmark.data.label_maps import LabelMaps, read_label_map, sparse_label_map, write_label_map
from benchmark.data.points_file import PointsFile
from benchmark.data.scenes import Scenes
from benchmark.data.sources import build_source
from benchmark.data.sparse_labels import (
    draw_sparse_labels,
    ensure_sparse_labels,
    sample_clicks,
    sample_scribble,
    sparse_supervision,
    write_sparse_labels,
)
from tests.benchmark.data.test_label_maps import config_of, root  # noqa: F401 a fixture

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))).filter(np.any)


@given(masks, st.integers(0, 1000))
def test_a_scribble_is_a_thin_connected_curve_inside_its_mask(mask, seed):
    xy = sample_scribble(mask, seed)
    assert xy.dtype == np.int64 and len(xy) >= 1
    assert mask[xy[:, 1], xy[:, 0]].all()
    assert len(np.unique(xy, axis=0)) == len(xy)
    assert np.array_equal(xy, sample_scribble(mask, seed))


def test_neighbours_follow_each_other_and_a_scribble_has_some_length():
    rows, cols = np.mgrid[:40, :40]
    disc = (rows - 20) ** 2 + (cols - 20) ** 2 <= 17**2
    lengths = []
    for seed in range(30):
        xy = sample_scribble(disc, seed)
        assert np.abs(np.diff(xy, axis=0)).max() == 1
        lengths.append(len(xy))
        assert len(xy) < 0.1 * disc.sum()  # thin
    assert np.median(lengths) > 12 and len(set(lengths)) > 5
    ring = disc & ((rows - 20) ** 2 + (cols - 20) ** 2 >= 13**2)
    assert all(ring[y, x] for x, y in sample_scribble(ring, 1))
    assert sample_scribble(np.eye(1, dtype=bool), 0).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="empty mask"):
        sample_scribble(np.zeros((3, 3), dtype=bool), 0)


@given(arrays(np.int64, (9, 11), elements=st.integers(0, 3)), st.integers(1, 60), st.integers(0, 100))
def test_clicks_are_on_labelled_pixels_and_fewer_are_the_first_of_more(ids, count, seed):
    clicks = sample_clicks(ids, count, seed)
    assert len(clicks) == min(count, (ids > 0).sum())
    assert (ids[clicks[:, 1], clicks[:, 0]] > 0).all() and len(np.unique(clicks, axis=0)) == len(clicks)
    assert np.array_equal(clicks[: count // 2], sample_clicks(ids, max(1, count // 2), seed)[: count // 2])


def test_clicks_are_uniform_over_the_image():
    ids = np.ones((20, 20), dtype=np.int64)
    ids[:, 15:] = 2
    share = np.mean([(ids[c[:, 1], c[:, 0]] == 2).mean() for c in (sample_clicks(ids, 50, seed) for seed in range(200))])
    assert share == pytest.approx(0.25, abs=0.02)


SCENES = Scenes(5, 3, "train", size=48)


def test_scribbles_of_scenes_stay_on_their_targets():
    points = draw_sparse_labels(SCENES, "scribbles", 1, seed=4)
    points.check()
    for index, record in enumerate(SCENES.records):
        annotation, labels = SCENES.read_annotation(record), points.labels_of(index)
        assert labels.ids.tolist() == [s["id"] for s in annotation.segments]
        for (x, y), target in zip(labels.xy.tolist(), labels.target.tolist(), strict=True):
            assert annotation.ids[y, x] == labels.ids[target]
        assert np.bincount(labels.target.numpy()).min() >= 1
    assert draw_sparse_labels(SCENES, "scribbles", 1, seed=4).fingerprint == points.fingerprint
    assert draw_sparse_labels(SCENES, "scribbles", 1, seed=5).fingerprint != points.fingerprint


@pytest.mark.parametrize("count", [1, 20])
def test_clicks_of_scenes_have_the_class_of_their_pixel(count):
    points = draw_sparse_labels(SCENES, "clicks", count, seed=0)
    for index, record in enumerate(SCENES.records):
        annotation, labels = SCENES.read_annotation(record), points.labels_of(index)
        label_of = {s["id"]: SCENES.categories.label_of(s["category_id"]) for s in annotation.segments}
        assert len(labels.xy) == count and len(set(labels.classes.tolist())) == labels.num_targets
        for (x, y), label in zip(labels.xy.tolist(), labels.point_classes.tolist(), strict=True):
            assert label == label_of[annotation.ids[y, x]]


def settings(strategy, count=1, seed=0):
    return {"strategy": strategy, "count": count, "seed": seed}


def test_a_draw_is_kept_and_read_again_unless_something_differs(tmp_path):
    first = ensure_sparse_labels(SCENES, tmp_path, "train", settings("clicks", 7))
    assert len(list(tmp_path.glob("*.npz"))) == 1
    again = ensure_sparse_labels(SCENES, tmp_path, "train", settings("clicks", 7))
    assert isinstance(again, PointsFile) and again.path == first.path and again.fingerprint == first.fingerprint
    for other in (settings("clicks", 8), settings("clicks", 7, seed=1), settings("scribbles")):
        assert ensure_sparse_labels(SCENES, tmp_path, "train", other).fingerprint != first.fingerprint
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_label_maps_become_points_and_the_same_files_again(tmp_path, root):  # noqa: F811
    """A sparse map is read and written back unchanged, by way of the points that training loads."""
    config = config_of(root)
    source = build_source(config, "train")
    points = ensure_sparse_labels(source, tmp_path / "points", "train", settings("labelled"))
    labels = points.labels_of(0)
    names = [points.categories[label].name for label in labels.point_classes.tolist()]
    assert dict(zip(map(tuple, labels.xy.tolist()), names, strict=True)) == {
        (0, 0): "ground", (1, 0): "cat", (2, 0): "dog"
    }
    written = write_sparse_labels(points, tmp_path / "again")
    assert [path.name for path in written] == ["a.png", "b.png"]
    for path, original in zip(written, (root / "points" / "a.png", root / "points" / "city" / "b.png"), strict=True):
        assert np.array_equal(read_label_map(path), read_label_map(original))
        assert path.read_bytes() == original.read_bytes()
    val = ensure_sparse_labels(build_source(config, "val"), tmp_path / "points", "val", settings("labelled"))
    assert len(val) == 2 and not len(val.point_x) and val.fingerprint != points.fingerprint


def test_scribble_files_are_read_and_written_back_unchanged(tmp_path, root):  # noqa: F811
    rng = np.random.default_rng(0)
    for name in ("a", "city/b"):
        xy = sample_scribble(np.ones((6, 8), dtype=bool), int(rng.integers(99)))[:20]
        classes = np.full(len(xy), rng.integers(3))
        write_label_map(root / "points" / f"{name}.png", sparse_label_map(xy, classes, (6, 8), 3))
    source = build_source(config_of(root), "train")
    assert isinstance(source, LabelMaps)
    written = write_sparse_labels(draw_sparse_labels(source, "labelled", 1, 0), tmp_path / "again")
    for path, name in zip(written, ("a", "city/b"), strict=True):
        assert path.read_bytes() == (root / "points" / f"{name}.png").read_bytes()


def test_clicks_from_dense_maps_are_files_in_the_convention(tmp_path, root):  # noqa: F811
    """As for Cityscapes: drawn from the training maps, written as 20clicks/..., read as sparse maps."""
    source = build_source(config_of(root), "val")
    points = draw_sparse_labels(source, "clicks", 5, 0)
    folder = tmp_path / "5clicks"
    for path, record in zip(write_sparse_labels(points, folder), source.records, strict=True):
        labels, truth = read_label_map(path), source.read_annotation(record).ids
        assert (labels < 3).sum() == 5 and (labels[labels < 3] + 1 == truth[labels < 3]).all() and (labels == 3).sum() == 43
    only_a = {"list": None, "images": "images/{name}.jpg", "labels": str(folder / "{name}.png"), "sparse": True}
    (root / "images" / "city" / "b.jpg").unlink()
    again = build_source(config_of(root, train=only_a, name="again"), "train")
    assert draw_sparse_labels(again, "labelled", 1, 0).labels_of(0).xy.shape == (5, 2)


def test_files_need_the_ids_of_label_maps(tmp_path):
    with pytest.raises(ValueError, match=r"need the category ids 1\.\."):
        write_sparse_labels(draw_sparse_labels(SCENES, "clicks", 1, 0), tmp_path)


def test_a_file_that_mixes_conventions_stops_the_draw(tmp_path, root):  # noqa: F811
    write_label_map(root / "points" / "a.png", np.zeros((6, 8), dtype=np.uint8))
    with pytest.raises(DataError, match=r"points/a\.png is 100 % zeros, but 0 is a class"):
        ensure_sparse_labels(build_source(config_of(root), "train"), tmp_path / "p", "train", settings("labelled"))
    assert not list((tmp_path / "p").glob("*")) if (tmp_path / "p").exists() else True


def test_a_record_says_what_was_read():
    assert sparse_supervision(settings("uniform", 10)) == {"kind": "points", "points_per_target": 10}
    assert sparse_supervision(settings("clicks", 20)) == {"kind": "20 clicks", "points_per_target": None}
    assert sparse_supervision(settings("scribbles")) == {"kind": "scribbles", "points_per_target": None}
