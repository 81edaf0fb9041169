"""A small AGMM and the batches that its tests share."""

import torch

from methods import build_labeler
from tests.methods.stand_ins import categories, point_batch, point_labels

SMALL = {"layers": 2, "heads": 4, "feedforward": 32}
P1 = [[(10, 10, 0), (50, 50, 1), (30, 12, 2)], [(63, 70, 0), (5, 5, 1)]]
P10 = [[*P1[0], (12, 28, 0), (55, 40, 1), (80, 60, 2)], [*P1[1], (40, 40, 0)]]


def small_agmm(**options):
    torch.manual_seed(0)
    return build_labeler("agmm", categories(), 16, {**SMALL, **options})


def batch_of(places=P1, classes=([0, 0, 3], [1, 3]), sizes=((64, 96), (80, 64))):
    torch.manual_seed(1)
    points = [point_labels(p, c) for p, c in zip(places, classes, strict=True)]
    images = [0.5 + 0.02 * torch.rand(3, *size) for size in sizes]
    for image in images:
        image[:, :, :16] = 0.0  # black at the border, which is what `mask_border` is about
    return point_batch(images, points)
