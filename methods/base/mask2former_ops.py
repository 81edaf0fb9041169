"""Mask2Former's pure functions: mask targets, points to compare masks at, and panoptic merging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmcv.ops import point_sample
from torch import Tensor

from methods.base.types import Categories, PanopticMap, PseudoLabels, Segment


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """What one image teaches about masks.

    Attributes:
        masks: (n, H, W) float32 of 0 and 1, at least one pixel each, 0 on ignored pixels.
        classes: (n,) int64 contiguous labels.
        unignored: (H, W) float32, 1 where pixels may be read, else 0.
        pixels: (m, 2) int64, column and row of each pixel that may be read.
    """

    masks: Tensor
    classes: Tensor
    unignored: Tensor
    pixels: Tensor

    def at(self, points: Tensor, index: Tensor) -> Tensor:
        """(k, P) in [0, 1]: masks at points, interpolated between unignored pixels only.

        Args:
            points: (k, P, 2) x, y in [0, 1], each inside an unignored pixel.
            index: (k,) int64, which target to read at each row of points.
        """
        inside = point_sample(self.masks[index][:, None], points)[:, 0]
        read = point_sample(self.unignored[None, None], points.reshape(1, -1, 2)).view_as(inside)
        return (inside / read.clamp(min=1e-6)).clamp(max=1.0)

    def sample_points(self, count: int) -> Tensor:
        """(count, 2) random points x, y in [0, 1], uniform over the area of the pixels that may be read."""
        height, width = self.unignored.shape
        device = self.pixels.device
        corners = self.pixels[torch.randint(len(self.pixels), (count,), device=device)]
        return (corners + torch.rand(count, 2, device=device)) / torch.tensor([width, height], device=device)


def mask_targets(labels: PseudoLabels) -> MaskTargets:
    """The targets that have a pixel which is not ignored; what the ids are under ``ignore`` does not matter."""
    unignored = ~labels.ignore
    masks = labels.masks() & unignored
    present = masks.flatten(1).any(1)
    pixels = unignored.nonzero().flip(1)
    return MaskTargets(masks[present].float(), labels.classes[present], unignored.float(), pixels)


def logits_at(mask_logits: Tensor, points: Tensor) -> Tensor:
    """(m, c, P) mask logits (m, c, h, w) at points (m, P, 2), x, y in [0, 1].

    The outermost cells reach to the image border; interpolating towards 0 there would make the border look uncertain.
    """
    return point_sample(mask_logits, points, padding_mode="border")


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor, target: MaskTargets, count: int, oversample_ratio: float, importance_ratio: float
) -> Tensor:
    """PointRend's importance sampling: mostly points where a mask logit is near 0, the rest random.

    Args:
        mask_logits: (m, 1, h, w) of one image.
        target: of the same image; tells which pixels may be read, at least one.
        count: number of points P per mask.
        oversample_ratio: candidates per point, at least 1.
        importance_ratio: share of the points that are the most uncertain candidates, in [0, 1].

    Returns:
        (m, P, 2) float32, x, y in [0, 1].
    """
    masks = len(mask_logits)
    important = int(importance_ratio * count)
    candidates = target.sample_points(masks * int(oversample_ratio * count)).view(masks, -1, 2)
    uncertainty = -logits_at(mask_logits, candidates)[:, 0].abs()
    best = uncertainty.topk(important, dim=1).indices
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    rest = target.sample_points(masks * (count - important)).view(masks, -1, 2)
    return torch.cat([chosen, rest], dim=1)


def merge_masks(
    scores: Tensor, labels: Tensor, masks: Tensor, categories: Categories, overlap_threshold: float
) -> PanopticMap:
    """Mask2Former's merging: every pixel goes to the mask of the highest score times probability.

    A mask is dropped if less than ``overlap_threshold`` of its area (probability at least 0.5) is left to it, and its
    pixels become void. Segments of one stuff class become one segment.

    Args:
        scores: (n,) class scores in [0, 1].
        labels: (n,) int64 contiguous labels.
        masks: (n, H, W) mask probabilities.
        categories: tell things from stuff.
        overlap_threshold: in [0, 1].

    Returns:
        The map, with segment ids from 1; a merged stuff segment has the highest of its scores.
    """
    segment_ids = torch.zeros(masks.shape[1:], dtype=torch.int64, device=masks.device)
    segments: dict[int | tuple[str, int], Segment] = {}
    if not len(masks):
        return PanopticMap(segment_ids, [])
    owner = (scores[:, None, None] * masks).argmax(0)
    own_areas = torch.bincount(owner.flatten(), minlength=len(masks)).tolist()
    areas = (masks >= 0.5).flatten(1).sum(1).tolist()
    for i, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        if not own_areas[i] or not areas[i] or own_areas[i] / areas[i] < overlap_threshold:
            continue
        is_thing = categories[label].is_thing
        key = i if is_thing else ("stuff", label)
        known = segments.get(key)
        segment_id = known.id if known else len(segments) + 1
        segments[key] = Segment(segment_id, label, is_thing, max(score, known.score) if known else score)
        segment_ids[owner == i] = segment_id
    return PanopticMap(segment_ids, list(segments.values()))
