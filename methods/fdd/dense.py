"""What the panoptic branch of FDD is trained on: the argmax of the instance maps (Eq. 2), or the points alone (Table 8)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.types import PointLabels, PseudoLabels
from methods.ops.instance_labels import instance_label_map
from methods.ops.rasterize import resample


def most_probable_targets(
    logits: Tensor, is_thing: Tensor, size: tuple[int, int], input_size: tuple[int, int], stuff_threshold: float = 0.0
) -> Tensor:
    """M_pse: the most probable target of each pixel (FDD Eq. 2).

    Args:
        logits: (n, h, w) float logits of the targets, which cover the padded input; brought to full resolution bilinearly.
        is_thing: (n,) bool.
        size: (height, width) of the valid part of the image.
        input_size: (H, W) of the padded input.
        stuff_threshold: pixels of a stuff target with a lower probability are void; 0 leaves none out, as published.

    Returns:
        (height, width) int64 segment ids: 0 = void, ``i + 1`` = target ``i``; the lowest target on ties. All void if n = 0.
    """
    if not len(logits):
        return torch.zeros(size, dtype=torch.int64, device=logits.device)
    full = resample(logits.float(), size, input_size, size)
    best, target = full.max(dim=0)
    if not stuff_threshold:
        return target + 1
    unsure = (best - full.logsumexp(dim=0)).exp() < stuff_threshold
    return torch.where(unsure & ~is_thing[target], 0, target + 1)


def with_points(segment_ids: Tensor, points: PointLabels, side: int) -> Tensor:
    """Segment ids (h, w) of a whole image that its dilated points, squares of ``side`` pixels, overrule (as in PSPS)."""
    size = tuple(segment_ids.shape)
    known = instance_label_map(points, size, size, size, side)
    return torch.where(known >= 0, known + 1, segment_ids)


def point_boxes(points: PointLabels, size: tuple[int, int], side: int) -> Tensor:
    """Boxes that stand for targets of which only points are known (FDD Table 8).

    Args:
        points: of an image of ``size`` (height, width).
        size: of the image, to which boxes are clipped.
        side: in pixels, of the box around the point of a target that has one.

    Returns:
        (n, 4) float32 half-open extents x0, y0, x1, y1: the bounding box of a target's points, or the square around its only
        one. The whole image for a target without a point.
    """
    height, width = size
    rows = []
    for index in range(points.num_targets):
        mine = points.xy[points.target == index].float()
        if not len(mine):
            corners = mine.new_tensor([[0, 0], [width, height]])
        elif len(mine) == 1:
            corners = mine + 0.5 + mine.new_tensor([[-side / 2], [side / 2]])
        else:
            corners = torch.stack([mine.amin(dim=0), mine.amax(dim=0) + 1])
        rows.append(corners.flatten())
    boxes = torch.stack(rows) if rows else torch.zeros(0, 4, device=points.xy.device)
    limits = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limits)


def labels_of_points(
    points: PointLabels, size: tuple[int, int], input_size: tuple[int, int], side: int, box_side: int
) -> PseudoLabels:
    """Labels that hold what the points say and no more: dilated points, everything else ignored.

    Args:
        points: of an image.
        size: (height, width) of its valid part.
        input_size: (H, W) of the padded batch.
        side: of the squares around labelled pixels, pixels, odd.
        box_side: of the box around the point of a target that has one, pixels.
    """
    known = instance_label_map(points, size, size, size, side)
    labels = dense_labels(known + 1, points, input_size, ignore=known < 0)
    return replace(labels, boxes=point_boxes(points, size, box_side))
