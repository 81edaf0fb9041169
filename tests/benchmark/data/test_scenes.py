"""Synthetic scenes: deterministic, exact ground truth, and as difficult as configured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hsv

from benchmark.data import scenes as scenes_module
from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, ImageRecord, ImageSource
from benchmark.data.scenes import SceneImages, SceneRecipe, Scenes, draw_scene
from benchmark.data.shapes import SHAPES


def _things(source, annotation):
    return [s for s in annotation.segments if source.categories[source.categories.label_of(s["category_id"])].is_thing]


def test_segments_describe_the_ids_exactly():
    source = Scenes(count=24, seed=5, split="train", size=64, objects=(6, 12), touching=0.8)
    assert isinstance(source, AnnotatedSource)
    for record in source.records:
        annotation = source.read_annotation(record)
        assert annotation.ids.shape == (64, 64) == source.read_image(record).shape[:2]
        assert set(np.unique(annotation.ids)) == {s["id"] for s in annotation.segments} and (annotation.ids > 0).all()
        for segment in annotation.segments:
            rows, cols = np.nonzero(annotation.ids == segment["id"])
            assert segment["area"] == len(rows) >= 4
            assert segment["bbox"] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]


def test_a_scene_depends_on_seed_split_and_index_only():
    one, more = Scenes(3, 7, "train", size=48), Scenes(9, 7, "train", size=48)
    for record in reversed(one.records):
        assert np.array_equal(one.read_image(record), more.read_image(record))
        assert np.array_equal(one.read_annotation(record).ids, more.read_annotation(record).ids)
    others = [Scenes(3, 8, "train", size=48), Scenes(3, 7, "val", size=48)]
    for other in others:
        assert not np.array_equal(one.read_image(one.records[0]), other.read_image(other.records[0]))
    prints = {s.fingerprint for s in (one, more, *others, Scenes(3, 7, "train", size=48, noise=0.1))}
    assert len(prints) == 5 and Scenes(3, 7, "train", size=48).fingerprint == one.fingerprint


def test_images_alone_are_the_same_and_lead_to_no_mask():
    source = Scenes(4, 7, "val", size=48)
    images = SceneImages(source.records, 7, "val", size=48)
    assert isinstance(images, ImageSource) and not isinstance(images, AnnotatedSource)
    assert not hasattr(images, "read_annotation")
    for record in source.records:
        assert np.array_equal(images.read_image(record), source.read_image(record))


@pytest.mark.parametrize("record", [
    ImageRecord("train_000000", "train_000000.png", 48, 48), ImageRecord("val_000000", "val_000000.png", 64, 64),
    ImageRecord(17, "a.jpg", 48, 48),
])
def test_records_of_another_data_set_are_refused(record):
    with pytest.raises(DataError, match=f"{record.file_name} .* is no scene of split 'val' and size 48"):
        SceneImages([record], 7, "val", size=48)


def test_readers_get_copies():
    source = Scenes(1, 0, "train", size=48)
    record = source.records[0]
    before = source.read_image(record).copy()
    source.read_image(record)[:] = 0
    source.read_annotation(record).segments.clear()
    assert np.array_equal(source.read_image(record), before) and source.read_annotation(record).segments


def test_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(scenes_module, "CACHED_PIXELS", 3 * 48**2)
    source = Scenes(6, 0, "train", size=48)
    for record in source.records:
        source.read_image(record)
    assert list(source._draw._cache) == [record.file_name for record in source.records[-3:]]


def test_touching_puts_objects_of_one_class_side_by_side():
    def contacts(touching):
        source, count = Scenes(40, 3, "train", size=64, touching=touching, objects=(3, 4),
                               radius=(0.08, 0.2), stuff_only=0.0), 0
        for record in source.records:
            annotation = source.read_annotation(record)
            things = _things(source, annotation)
            for i, a in enumerate(things):
                grown = ndimage.binary_dilation(annotation.ids == a["id"])
                count += sum((grown & (annotation.ids == b["id"])).any() and a["category_id"] == b["category_id"]
                             for b in things[:i])
        return count
    assert contacts(0.9) >= 40 > 3 * contacts(0.0)


def test_object_range_small_share_and_stuff_only():
    rng = np.random.default_rng(0)

    def areas(**options):
        recipe = SceneRecipe(size=64, touching=0.0, **options)
        found = []
        for _ in range(25):
            _, ids, category_of = draw_scene(recipe, rng)
            found.append([(ids == i).sum() for i, c in category_of.items() if c < 20])
        return found

    assert all(not scene for scene in areas(stuff_only=1.0))
    three = areas(objects=(3, 3), stuff_only=0.0)
    assert max(map(len, three)) == 3 and np.mean([len(scene) for scene in three]) > 2.5
    small, large = (np.concatenate(areas(small_share=share, stuff_only=0.0)) for share in (1.0, 0.0))
    assert small.max() < np.pi * (0.145 * 64) ** 2 < np.median(large)


def test_every_shape_is_as_large_as_it_claims():
    """Pixel areas against the areas of the ideal figures."""
    side = 2 * 0.66 * np.sqrt(3)
    ideal = {"disc": np.pi, "bar": 2.4, "triangle": np.sqrt(3) / 4 * side**2,
             "star": np.pi * (0.9**2 + 0.3**2 / 2)}
    axis = (np.arange(600) + 0.5) / 600 * 2.8 - 1.4
    u, v = np.meshgrid(axis, axis)
    for shape in SHAPES:
        inside = shape.outline(u, v) < 0
        assert inside.mean() * 2.8**2 == pytest.approx(ideal[shape.name], rel=0.01)
        assert not inside[[0, -1]].any() and not inside[:, [0, -1]].any()


def test_classes_share_colours():
    """A class is not readable from colour alone once hues vary: neighbouring classes overlap."""
    source = Scenes(120, 1, "train", size=48, stuff_only=0.0, colour_jitter=0.04)
    hues: dict[str, list[float]] = {}
    for record in source.records:
        hue = rgb2hsv(source.read_image(record))[..., 0]
        annotation = source.read_annotation(record)
        for segment in _things(source, annotation):
            name = source.categories[source.categories.label_of(segment["category_id"])].name
            angle = 2 * np.pi * hue[annotation.ids == segment["id"]]
            hues.setdefault(name, []).append(np.angle(np.exp(1j * angle).mean()) / (2 * np.pi))
    ranges = {name: np.quantile(values, [0.03, 0.97]) for name, values in hues.items()}
    order = ["triangle", "disc", "bar", "star"]
    assert set(ranges) == set(order)
    for first, second in pairwise(order):
        assert ranges[first][1] > ranges[second][0] and np.median(hues[first]) < np.median(hues[second])


@pytest.mark.parametrize(("options", "sentence"), [
    ({"size": 8}, "at least 16 pixels"), ({"objects": (5, 2)}, r"two growing numbers from 1 on, it is \[5, 2\]"),
    ({"touching": 1.2}, "probability touching must be in"), ({"noise": -0.1}, "must not be negative"),
])
def test_impossible_recipes(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SceneRecipe(**options)


def test_empty_split():
    with pytest.raises(ValueError, match="at least one scene"):
        Scenes(0, 1, "train")
