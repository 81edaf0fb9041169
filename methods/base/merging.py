"""Mask-wise merging: overlapping soft masks to one panoptic map (Panoptic SegFormer, Sec. 3.5 and Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.types import PanopticMap, Segment

MASKS_AT_ONCE = 32
"""Masks that are resized together; bounds the memory of full-resolution soft masks."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How sure a mask is: score ^ ``score_power`` times (mean mask value inside) ^ ``mask_power``.

    Attributes:
        score_power, mask_power: the exponents.
        area_offset: added to the area that the mean divides by.
    """

    score_power: float = 1.0
    mask_power: float = 2.0
    area_offset: float = 1.0


@dataclass(frozen=True, slots=True)
class Merging:
    """The thresholds and constants of the merging; defaults are those of the released configs for ResNet-50.

    Attributes:
        mask_threshold: a pixel is inside a mask strictly above it.
        quality_threshold: masks of a lower quality are dropped.
        thing_overlap, stuff_overlap: a mask is dropped if a larger share of its area is already painted.
        quality: what the quality of a mask is.
    """

    mask_threshold: float = 0.5
    quality_threshold: float = 0.25
    thing_overlap: float = 0.4
    stuff_overlap: float = 0.2
    quality: Quality = Quality()


def resize_masks(
    masks: Tensor, input_size: tuple[int, int], size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Soft masks at the output size: bilinear to the padded input, cropped to the image, bilinear to the output.

    Args:
        masks: (N, h, w) float over the padded input.
        input_size: (H, W) of the padded input.
        size: (height, width) of the image in it, at the top left.
        output_size: (height, width) of the result.

    Returns:
        (N, *output_size) float.
    """
    full = F.interpolate(masks[:, None], size=input_size, mode="bilinear", align_corners=False)
    cropped = full[:, :, : size[0], : size[1]]
    return F.interpolate(cropped, size=output_size, mode="bilinear", align_corners=False)[:, 0]


def mask_quality(masks: Tensor, scores: Tensor, merging: Merging = Merging()) -> tuple[Tensor, Tensor]:
    """Binary masks and their quality, see `Quality`: score times the squared mean mask value inside the binary mask.

    Args:
        masks: (N, ...) float in [0, inf).
        scores: (N,) class probabilities.
        merging: the mask threshold and the quality's constants.

    Returns:
        (N, ...) bool masks and (N,) qualities. The mean divides by area + 1, as the released codes do; mask values, and so
        qualities, may exceed 1.
    """
    quality = merging.quality
    binary = masks > merging.mask_threshold
    inside = (masks * binary).flatten(1).sum(dim=1) / (binary.flatten(1).sum(dim=1) + quality.area_offset)
    return binary, scores**quality.score_power * inside**quality.mask_power


def paint_segments(
    binary: Tensor, quality: Tensor, labels: Tensor, is_thing: Tensor, merging: Merging = Merging()
) -> PanopticMap:
    """Paint masks in order of quality, each on the pixels that are still free.

    A mask is dropped if its quality is below ``quality_threshold``, if it is empty, or if a larger share of its own area
    than ``thing_overlap`` or ``stuff_overlap`` is already painted; equality keeps it.

    Args:
        binary: (N, H, W) bool.
        quality: (N,).
        labels: (N,) int64 contiguous labels.
        is_thing: (N,) bool.
        merging: the three thresholds.

    Returns:
        The map; ids 1, 2, ... in order of quality, unpainted pixels 0; a segment's score is its quality, at most 1.
    """
    order = torch.argsort(quality, descending=True, stable=True)
    order = order[quality[order] >= merging.quality_threshold]
    ranked = torch.zeros(binary.shape[-2:], dtype=torch.int64, device=binary.device)
    limits = torch.tensor([merging.stuff_overlap, merging.thing_overlap], dtype=torch.float64, device=binary.device)
    limits = limits[is_thing.long()][order]
    kept = torch.zeros(len(order), dtype=torch.bool, device=binary.device)
    for rank, index in enumerate(order.tolist()):
        mask = binary[index]
        free = mask & (ranked == 0)
        area, free_area = mask.sum(), free.sum()
        # In double precision, in which a share of exactly 2/5 is the number 0.4 that it is compared with.
        share = (area - free_area).double() / area.clamp(min=1)
        kept[rank] = (free_area > 0) & (share <= limits[rank])
        ranked = torch.where(free & kept[rank], rank + 1, ranked)
    order = order[kept]
    new_ids = F.pad(kept.long().cumsum(0), (1, 0))
    rows = zip(
        labels[order].tolist(), is_thing[order].tolist(), quality[order].clamp(max=1).tolist(), strict=True
    )
    segments = [Segment(i, label, thing, score) for i, (label, thing, score) in enumerate(rows, start=1)]
    return PanopticMap(new_ids[ranked], segments)


def merge_masks(
    masks: Tensor, scores: Tensor, labels: Tensor, is_thing: Tensor,
    input_size: tuple[int, int], size: tuple[int, int], output_size: tuple[int, int],
    merging: Merging = Merging(),
) -> PanopticMap:
    """Panoptic map of one image from soft masks of queries.

    Args:
        masks: (N, h, w) float in [0, inf) over the padded input.
        scores: (N,) class probabilities.
        labels: (N,) int64 contiguous labels.
        is_thing: (N,) bool.
        input_size, size, output_size: as in `resize_masks`.
        merging: thresholds and constants.
    """
    parts = [
        mask_quality(resize_masks(part, input_size, size, output_size), part_scores, merging)
        for part, part_scores in zip(masks.split(MASKS_AT_ONCE), scores.split(MASKS_AT_ONCE), strict=True)
    ]
    binary = torch.cat([part[0] for part in parts])
    quality = torch.cat([part[1] for part in parts])
    return paint_segments(binary, quality, labels, is_thing, merging)
