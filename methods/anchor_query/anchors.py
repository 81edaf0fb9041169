"""Anchors: one vector per target of an image, or per labelled pixel, from the features at its labelled cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base.instance_losses import filled
from methods.base.point_losses import dilation_of
from methods.base.types import PointBatch, PointLabels
from methods.ops.instance_labels import instance_label_map
from methods.ops.instance_queries import Pooling, instance_queries


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of a batch, filled up to the largest number M of an image.

    Attributes:
        vectors: (B, M, D).
        classes: (B, M) int64 label of each anchor; 0 where not ``present``.
        present: (B, M) bool.
        offsets: (B, M, h, w) float32 distance of each cell to the nearest labelled pixel of the anchor, in shares of the
            image's short side; None where space does not enter.
    """

    vectors: Tensor
    classes: Tensor
    present: Tensor
    offsets: Tensor | None = None


def has_points(points: PointLabels) -> Tensor:
    """(n,) bool, targets with a labelled pixel."""
    return torch.bincount(points.target, minlength=points.num_targets) > 0


def a_target_per_point(points: PointLabels) -> PointLabels:
    """The same labelled pixels, each a target of its own."""
    each = torch.arange(len(points.xy), device=points.xy.device)
    owner = points.target
    return PointLabels(points.xy, each, points.classes[owner], points.is_thing[owner], points.ids[owner])


def target_label_maps(
    batch: PointBatch, points: Sequence[PointLabels], grid: tuple[int, int], dilation: int, reference_side: int | None
) -> Tensor:
    """(B, h, w) int64 target of the dilated labelled pixels at a grid, -1 elsewhere (`instance_label_map`).

    Args:
        batch: images of any size in one padded batch.
        points: the labels of each image.
        grid: (h, w).
        dilation, reference_side: square around a labelled pixel, see `dilation_of`.
    """
    return torch.stack([
        instance_label_map(labels, size, batch.input_size, grid, dilation_of(size, dilation, reference_side))
        for labels, size in zip(points, batch.sizes, strict=True)
    ])


def pooled_anchors(features: Tensor, points: Sequence[PointLabels], labels: Tensor, pooling: Pooling | None) -> Tensor:
    """The features at the labelled cells of each target, pooled.

    Args:
        features: (B, D, h, w).
        points: of each image, with n_i targets.
        labels: (B, h, w) int64 target of each cell, negative where unlabelled.
        pooling: ``"max"`` or ``"mean"`` over the cells of a target; None gives zeros: targets are known by their class only.

    Returns:
        (B, M, D) with M as in `filled`; zeros for a target without a cell.
    """
    counts = [each.num_targets for each in points]
    if pooling is None:
        return filled([features.new_zeros(count, features.shape[1]) for count in counts])
    rows = zip(features, labels, counts, strict=True)
    return filled([instance_queries(maps, cells, count, pooling) for maps, cells, count in rows])


def point_offsets(
    points: PointLabels, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Euclidean distance from the centre of each cell to the nearest labelled pixel of each target.

    Args:
        points: of an image with n targets.
        size: (height, width) of its valid part in pixels.
        input_size: (H, W), the padded size that the grid covers.
        grid: (h, w).

    Returns:
        (n, h, w) float32 in shares of the image's short side; 0 for a target without a labelled pixel.
    """
    device = points.xy.device
    rows, cols = ((torch.arange(g, device=device) + 0.5) * (s / g) for g, s in zip(grid, input_size, strict=True))
    x, y = (points.xy + 0.5).unbind(dim=1)
    each = torch.hypot(rows[:, None] - y[:, None, None], cols - x[:, None, None]) / min(size)
    index = points.target[:, None, None].expand_as(each)
    return each.new_zeros(points.num_targets, *grid).scatter_reduce(0, index, each, "amin", include_self=False)
