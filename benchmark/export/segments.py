"""From an id map and its segments to what each format stores. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from benchmark.data.images import describe_segments
from benchmark.data.label_maps import VOID

MOST_OBJECTS = 254
"""Objects that an 8 bit map can number beside background and void."""


def class_confidence(
    logits: Tensor, segment_ids: Tensor, classes: Tensor, input_size: tuple[int, int]
) -> Tensor:
    """Mean probability of a segment's class over its pixels.

    Args:
        logits: (1, K, h, w) class logits of one image.
        segment_ids: (H, W) int64, 0 = void, ``i + 1`` = target ``i``.
        classes: (n,) int64 label of each target.
        input_size: (height, width) of the network's input, to which probabilities are enlarged first, then to (H, W), both
            bilinearly.

    Returns:
        (n,) float32 in [0, 1]; 0 for a target without a pixel.
    """
    if not len(classes):
        return logits.new_zeros(0)
    present, place = classes.unique(return_inverse=True)
    probs = logits.float().softmax(dim=1)[:, present]
    for size in (input_size, tuple(segment_ids.shape)):
        probs = nn.functional.interpolate(probs, size, mode="bilinear", align_corners=False)
    pixels = segment_ids.flatten().nonzero()[:, 0]
    target = segment_ids.flatten()[pixels] - 1
    own = probs[0].flatten(1)[place[target], pixels]
    total = own.new_zeros(len(classes)).scatter_add_(0, target, own)
    return total / torch.bincount(target, minlength=len(classes)).clamp(min=1)


def described(ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """COCO ``segments_info`` with a ``score`` of the segments that occur in a map.

    Args:
        ids: (H, W) int, 0 = void.
        segments: ``id``, ``category_id`` and ``score`` in [0, 1] of each segment.
    """
    score = {segment["id"]: segment["score"] for segment in segments}
    found = describe_segments(ids, {segment["id"]: segment["category_id"] for segment in segments})
    return [{**segment, "score": round(float(score[segment["id"]]), 4)} for segment in found]


def run_lengths(ids: np.ndarray, wanted: Sequence[int]) -> list[str]:
    """COCO's compressed run-length code of the mask of each wanted id of an (H, W) map."""
    masks = (np.asfortranarray(ids == segment_id).view(np.uint8) for segment_id in wanted)
    return [coco_mask.encode(mask)["counts"].decode("ascii") for mask in masks]


def class_values(
    ids: np.ndarray, segments: Sequence[Mapping[str, Any]], value_of: Mapping[int, int]
) -> np.ndarray:
    """(H, W) uint8 class values of a map, 255 where it is void.

    Args:
        ids: (H, W) int.
        segments: ``id`` and ``category_id`` of each segment.
        value_of: value of each category id, below 255.
    """
    return _painted(ids, {segment["id"]: value_of[segment["category_id"]] for segment in segments})


def object_values(
    ids: np.ndarray, segments: Sequence[Mapping[str, Any]], things: Collection[int]
) -> np.ndarray:
    """(H, W) uint8 object numbers of a map: 1, 2, ... for things in the order of ``segments``, 0 for stuff, 255 for void
    and for things beyond the 254th.

    Args:
        ids, segments: as for `class_values`.
        things: category ids of things.
    """
    numbers: dict[int, int] = {}
    objects = 0
    for segment in segments:
        objects += segment["category_id"] in things
        number = objects if objects <= MOST_OBJECTS else VOID
        numbers[segment["id"]] = number if segment["category_id"] in things else 0
    return _painted(ids, numbers)


def _painted(ids: np.ndarray, value_of: Mapping[int, int]) -> np.ndarray:
    found, place = np.unique(ids, return_inverse=True)
    values = np.array([value_of.get(i, VOID) if i else VOID for i in found.tolist()], dtype=np.uint8)
    return values[place].reshape(ids.shape)
