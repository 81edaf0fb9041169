"""Torch data sets: what each supervision may see, and that randomness belongs to seed, epoch and index alone."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from benchmark.data.datasets import EvaluationDataset, MaskDataset, PointDataset, no_points
from benchmark.data.errors import DataError
from benchmark.data.points import draw_points
from benchmark.data.scenes import SceneImages, Scenes
from benchmark.data.sources import build_images
from benchmark.data.transforms import Transform
from methods.base.types import MaskBatch, MaskSample, PointBatch, PointSample, collate
from tests.benchmark.data.conftest import toy_ids

SAME = Transform(short=8, long=100, flip=0.0)
_forbidden: list[str] = []
_opened: list[str] = []


def _watch(event, arguments):
    if event == "open" and _forbidden and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if any(path.startswith(place) for place in _forbidden):
            _opened.append(path)


@pytest.fixture(scope="module", autouse=True)
def _audit():
    sys.addaudithook(_watch)  # sees every file that Python or a C library opens through it; cannot be removed


@pytest.fixture
def mask_trap(folder):
    """The list of ground truth files that were opened."""
    _forbidden[:] = [str(folder.root / "panoptic_train"), str(folder.json_path)]
    _opened.clear()
    yield _opened
    _forbidden.clear()


@pytest.fixture
def toy(folder):
    source = folder.read()
    return folder, source, draw_points(source, "uniform", 3, 0)


def test_point_samples_have_no_dense_field(toy):
    folder, _, points = toy
    sample = PointDataset(build_images(folder.config, "train", points.records), points, SAME, seed=0)[0]
    assert type(sample) is PointSample
    for name in ("target", "masks", "boxes", "segment_ids", "annotation"):
        with pytest.raises(AttributeError):
            getattr(sample, name)


def test_training_on_points_opens_no_ground_truth(toy, mask_trap):
    folder, _, points = toy
    images = build_images(folder.config, "train", points.records)
    dataset = PointDataset(images, points, SAME, seed=0, drop_without_things=False)
    assert collate([dataset[i] for i in range(len(dataset))]).images.shape == (2, 3, 10, 11)
    assert mask_trap == []
    assert not [name for name in dir(images) if "mask" in name.lower() or "annot" in name.lower()]


def test_the_trap_would_have_seen_a_mask(toy, mask_trap):
    _, source, points = toy
    assert isinstance(MaskDataset(source, points, SAME, seed=0)[0], MaskSample)
    assert [os.path.basename(path) for path in mask_trap] == ["a.png"]


def test_training_on_points_works_without_ground_truth_files(toy):
    folder, _, points = toy
    for path in [*(folder.root / "panoptic_train").iterdir(), folder.json_path]:
        path.unlink()
    sample = PointDataset(build_images(folder.config, "train", points.records), points, SAME, seed=0)[0]
    assert sample.image_id == 11 and sample.original_size == (12, 16) and sample.points.num_targets == 4


def test_mask_targets_follow_the_points(toy):
    _, source, points = toy
    sample = MaskDataset(source, points, Transform(short=12, long=16, flip=0.0), seed=0)[0]
    assert sample.target.classes.tolist() == sample.points.classes.tolist() == [0, 1, 2, 0]
    ids = toy_ids()
    expected = np.select([ids == 300, ids == 70000, np.isin(ids, [5, 6]), ids == 7], [1, 2, 3, 4], 0)
    assert np.array_equal(sample.target.segment_ids.numpy(), expected)
    assert np.array_equal(sample.target.ignore.numpy(), np.isin(ids, [0, 9]))  # void and crowd
    assert sample.target.boxes[0].tolist() == [2, 2, 6, 6] and sample.target.scores.tolist() == [1] * 4


@pytest.mark.parametrize("short", [12, 7, 30])
def test_points_lie_in_their_masks_after_any_transform(toy, short):
    _, source, points = toy
    dataset = MaskDataset(source, points, Transform(short, 200, flip=0.5), seed=1, drop_without_things=False)
    for epoch in range(6):
        dataset.set_epoch(epoch)
        for sample in (dataset[0], dataset[1]):
            at = sample.target.segment_ids[sample.points.xy[:, 1], sample.points.xy[:, 0]]
            assert torch.equal(at, sample.points.target + 1)
            assert sample.image.shape[1:] == sample.target.segment_ids.shape == sample.target.ignore.shape


def test_mask_and_point_samples_show_the_same(toy):
    folder, source, points = toy
    transform = Transform(9, 50, short_range=(8, 9, 10, 11), flip=0.5)
    masks = MaskDataset(source, points, transform, seed=4)
    plain = PointDataset(build_images(folder.config, "train", points.records), points, transform, seed=4)
    for epoch in range(4):
        masks.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert torch.equal(masks[0].image, plain[0].image) and torch.equal(masks[0].points.xy, plain[0].points.xy)


def test_masks_must_be_those_the_points_were_drawn_from(toy):
    _, source, points = toy
    with pytest.raises(DataError, match="not drawn from the ground truth of data set 'toy' as it is now"):
        MaskDataset(source, replace(points, source_fingerprint="0"), SAME, seed=0)
    lost = replace(points, target_segment=np.array([300, 70000, 5, 8, 4]))
    with pytest.raises(DataError, match=r"Target 8 \(cat\) of image a\.jpg is not in its ground truth"):
        MaskDataset(source, lost, SAME, seed=0)[0]


def test_points_that_are_not_on_their_masks_any_more_are_refused(toy):
    """As after masks were replaced while the JSON stayed: its hash is what points files are compared by."""
    _, source, points = toy
    moved = replace(points, point_x=points.point_x[::-1].copy(), point_y=points.point_y[::-1].copy())
    said = r"The point x=\d+, y=\d+ of image a\.jpg is not on target \d+, which it was drawn from"
    for dataset in (MaskDataset(source, moved, SAME, seed=0), EvaluationDataset(source, SAME, moved)):
        with pytest.raises(DataError, match=said):
            dataset[0]
    imported = replace(moved, strategy="imported")  # a person's clicks may miss
    assert EvaluationDataset(source, SAME, imported)[0] and MaskDataset(source, imported, SAME, seed=0)[0]


def test_segments_without_a_label_are_ignored(toy):
    _, source, points = toy
    keep = points.target_segment != 7
    place = np.cumsum(keep) - 1
    of_kept = keep[points.point_target]
    fewer = replace(
        points, **{name: getattr(points, name)[keep] for name in ("target_image", "target_segment", "target_category")},
        point_target=place[points.point_target[of_kept]], point_x=points.point_x[of_kept], point_y=points.point_y[of_kept],
    )
    sample = MaskDataset(source, fewer, Transform(12, 16, flip=0.0), seed=0)[0]
    assert np.array_equal(sample.target.ignore.numpy(), np.isin(toy_ids(), [0, 9, 7]))


def test_images_without_things_are_dropped_on_demand(toy):
    folder, source, points = toy
    assert len(PointDataset(source, points, SAME, 0)) == 1
    every = PointDataset(source, points, SAME, 0, drop_without_things=False)
    assert [every[i].image_id for i in range(len(every))] == [11, 22]
    folder.content["categories"][1]["isthing"] = 0
    with pytest.raises(DataError, match="none of its 2 images has a labelled thing"):
        PointDataset(source, draw_points(folder.read(), "uniform", 1, 0), SAME, 0)


def test_bad_points_stop_before_training(toy):
    _, source, points = toy
    with pytest.raises(DataError, match=r"lies outside image b\.jpg"):
        PointDataset(source, replace(points, point_x=np.r_[points.point_x[:-1], 9]), SAME, 0)


def test_items_beyond_the_end(toy):
    _, source, points = toy
    with pytest.raises(IndexError):
        PointDataset(source, points, SAME, 0)[1]


@pytest.fixture(scope="module")
def scenes():
    source = Scenes(8, 3, "train", size=32)
    points = draw_points(source, "uniform", 2, 0)
    images = SceneImages(source.records, 3, "train", size=32)
    return PointDataset(images, points, Transform(32, 64, short_range=(24, 32, 40), flip=0.5), seed=5)


def _shapes(dataset):
    return [(s.image_id, s.image.sum().item(), s.points.xy.tolist()) for s in (dataset[i] for i in range(len(dataset)))]


def test_transforms_belong_to_seed_epoch_and_index(scenes):
    scenes.set_epoch(0)
    first = _shapes(scenes)
    assert _shapes(scenes) == first and [_shapes(scenes)[i] for i in (3, 1)] == [first[3], first[1]]
    scenes.set_epoch(1)
    assert sum(a != b for a, b in zip(_shapes(scenes), first, strict=True)) >= len(first) // 2
    scenes.set_epoch(0)
    assert _shapes(scenes) == first


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_epoch_and_change_nothing(scenes, persistent):
    loader = DataLoader(scenes, batch_size=3, num_workers=2, collate_fn=collate, persistent_workers=persistent)
    for epoch in (0, 1):
        scenes.set_epoch(epoch)
        batches = list(loader)
        parts = np.split(np.arange(len(scenes)), range(3, len(scenes), 3))
        expected = [collate([scenes[i] for i in part]) for part in parts]
        assert all(type(batch) is PointBatch for batch in batches)
        for ours, theirs in zip(batches, expected, strict=True):
            assert ours.image_ids == theirs.image_ids and torch.equal(ours.images, theirs.images)
            assert all(torch.equal(a.xy, b.xy) for a, b in zip(ours.points, theirs.points, strict=True))


def test_mask_samples_collate_to_a_mask_batch(toy):
    _, source, points = toy
    dataset = MaskDataset(source, points, Transform(8, 50, flip=0.0), seed=0, drop_without_things=False)
    batch = collate([dataset[0], dataset[1]])
    assert type(batch) is MaskBatch and batch.sizes == [(8, 11), (10, 8)]
    assert batch.targets[1].ignore[:, 8:].all() and not batch.targets[1].ignore[:10, :8].any()


def test_evaluation_shows_every_image_as_it_is(toy):
    _, source, points = toy
    dataset = EvaluationDataset(source, Transform(24, 100, short_range=(5, 6), flip=1.0))
    assert len(dataset) == 2
    sample, annotation, record = dataset[0]
    assert sample.image.shape == (3, 24, 32) and sample.points.num_targets == 0 and sample.points.xy.shape == (0, 2)
    assert np.array_equal(annotation.ids, toy_ids()) and record == source.records[0]
    doubled = EvaluationDataset(source, Transform(24, 100, flip=1.0), points)[0][0]
    assert torch.equal(doubled.points.xy, 2 * points.labels_of(0).xy + 1)  # the cell of the old pixel's centre, x2


def test_evaluation_matches_points_by_image(toy):
    folder, _, points = toy
    folder.content["images"].reverse()
    dataset = EvaluationDataset(folder.read(), SAME, points)
    assert [dataset[i][0].points.ids.tolist() for i in (0, 1)] == [[4], [300, 70000, 5, 7]]
    folder.content["images"][0]["id"] = folder.content["annotations"][0]["image_id"] = 99
    assert EvaluationDataset(folder.read(), SAME, points)[0][0].points.num_targets == no_points().num_targets == 0


def test_evaluation_gives_masks_only_where_they_are_asked_for():
    scenes = Scenes(count=3, seed=0, split="val")
    points = draw_points(scenes, "uniform", 1, 0)
    transform = Transform(short=64, long=64)
    with_masks = EvaluationDataset(scenes, transform, points, masks=True)
    for i in range(len(with_masks)):
        sample, _, _ = with_masks[i]
        x, y = sample.points.xy[:, 0], sample.points.xy[:, 1]
        assert (sample.target.segment_ids[y, x] == sample.points.target + 1).all()
    assert not hasattr(EvaluationDataset(scenes, transform, points)[0][0], "target")
