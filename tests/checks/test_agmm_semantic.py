"""The numeric checks of AGMM that concern its own track: evaluation, schedule, crops, labels."""

import numpy as np
import pytest
import torch

from benchmark.data.cropping import RandomCrop
from benchmark.data.label_maps import check_label_map, sparse_label_map, sparse_pixels
from benchmark.mean_iou import MeanIoU
from benchmark.optimizers import build_optimizer, decay_factor
from methods.agmm.mixture import class_counts
from methods.base.inference import tile_starts
from methods.base.semantic_method import SegmentationMaps
from methods.base.types import Progress
from tests.methods.agmm.test_semantic import method_of
from tests.methods.stand_ins import point_batch, point_labels


def test_check_1_and_9_a_pixel_label_counts_once_and_padding_never():
    """The labels that the losses see: one cell per labelled pixel, none of them padded, whatever the crop does."""
    batch = point_batch([torch.rand(3, 40, 60), torch.rand(3, 56, 48)], [
        point_labels([(59, 39, 0), (3, 7, 1), (4, 7, 1)], [0, 3]), point_labels([(47, 55, 0)], [2])
    ])  # fmt: skip
    maps = SegmentationMaps(torch.randn(2, 4, 14, 15), torch.randn(2, 8, 14, 15))
    at = method_of().supervised(maps, batch)
    assert at.logits.shape[-2:] == at.features.shape[-2:] == at.labels.shape[-2:] == (56, 60)
    assert class_counts(at.labels, 4).tolist() == [[1, 0, 0, 2], [0, 0, 1, 0]]
    assert torch.equal(at.valid, ~batch.padding)


def test_check_11_miou_of_the_toy():
    metric = MeanIoU(2)
    metric.update(np.array([[0, 1], [1, 0]]), np.array([[0, 0], [1, 255]]))
    assert metric.compute().per_class == {"0": 0.5, "1": 0.5} and metric.compute().miou == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_miou_is_that_of_torchmetrics(seed):
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = np.random.default_rng(seed)
    prediction, target = rng.integers(0, 6, (2, 30, 40)), rng.integers(0, 6, (2, 30, 40))
    target[rng.random(target.shape) < 0.2] = 255
    ours, theirs = MeanIoU(6), MulticlassJaccardIndex(6, average="macro", ignore_index=255)
    for p, t in zip(prediction, target, strict=True):
        ours.update(p, t)
        theirs.update(torch.tensor(p), torch.tensor(t))
    assert ours.compute().miou == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_check_12_poly_at_half_of_the_run():
    config = {"optimizer": "sgd", "decay": "poly", "power": 0.9, "momentum": 0.9, "weight_decay": 1e-4}
    assert decay_factor(config, 0.5) == pytest.approx(0.535887, abs=1e-6)
    assert decay_factor(config, 0.0) == 1.0 and decay_factor(config, 1.0) == 0.0
    parameter = torch.nn.Parameter(torch.ones(()))
    optimizer = build_optimizer([{"params": [parameter], "lr": 0.1}], config)
    (10 * parameter).backward()
    optimizer.step()  # gradient 10 and decay 1e-4 of the value 1
    assert float(parameter.detach()) == pytest.approx(1 - 0.1 * (10 + 1e-4), abs=1e-6)
    optimizer.step()  # 0.9 of the step before, and the gradient once more
    assert float(parameter.detach()) == pytest.approx(-0.00001 - 0.1 * (0.9 * 10.0001 + 10), abs=1e-5)


def test_check_13_tiles_of_cityscapes():
    assert (len(tile_starts(1024, 721, 241)), len(tile_starts(2048, 721, 241))) == (3, 7)


def test_the_label_values_of_the_released_code():
    """0 .. 20 are classes, 21 is unlabelled; a map of both survives the way over coordinates."""
    xy, classes = np.array([[3, 0], [1, 2]]), np.array([0, 20])
    labels = sparse_label_map(xy, classes, (4, 5), 21)
    assert labels[0, 3] == 0 and labels[2, 1] == 20 and (labels == 21).sum() == 18
    check_label_map(labels, 21, sparse=True, what="it")
    found_xy, found = sparse_pixels(labels, 21)
    assert {tuple(p): c for p, c in zip(found_xy.tolist(), found.tolist(), strict=True)} == {(3, 0): 0, (1, 2): 20}


def test_image_classes_are_those_before_the_crop_and_a_crop_may_hold_no_label():
    """Losses of a random crop of 48 px out of a labelled image: finite wherever it falls, y of the whole image."""
    labels = point_labels([(2, 2, 0), (90, 60, 1)], [0, 3])
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    transform, found = RandomCrop(48, flip=0.5, photometric=True), []
    for draw in range(12):
        geometry = transform.draw((64, 96), np.random.default_rng(draw))
        points = geometry.points(labels)
        assert points.classes.tolist() == [0, 3] and len(points.xy) == len(points.target)
        batch = point_batch([geometry.image(pixels)], [points])
        maps = SegmentationMaps(torch.randn(1, 4, 8, 8), torch.randn(1, 8, 8, 8))
        losses = method_of().losses(maps, batch, Progress.finished())
        assert all(torch.isfinite(loss) for loss in losses.values()) and losses["mixture_absent"] > 0
        found.append(len(points.xy))
        assert losses["partial"] > 0 if len(points.xy) else losses["partial"] == 0
    assert 0 in found and max(found) > 0
