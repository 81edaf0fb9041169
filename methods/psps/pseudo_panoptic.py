"""From likelihoods of instances and a class map to one pseudo panoptic map (PSPS released code)."""

from __future__ import annotations

import torch
from torch import Tensor


def panoptic_segments(likelihood: Tensor, pixel_classes: Tensor, classes: Tensor, is_thing: Tensor) -> Tensor:
    """Segment ids: the likeliest instance on thing pixels, the class's own target on stuff pixels.

    Args:
        likelihood: (n_things, h, w) float, of the thing targets in their order.
        pixel_classes: (h, w) int64 class of each pixel, -1 = void; only classes that occur among the targets.
        classes: (n,) int64 class of each target.
        is_thing: (n,) bool.

    Returns:
        (h, w) int64, 0 = void, ``i + 1`` = target ``i``. Ties go to the lowest instance. Instances are disjoint and hold no
        pixel whose most probable class is stuff.
    """
    segment_ids = torch.zeros_like(pixel_classes)
    things = torch.nonzero(is_thing)[:, 0]
    if len(things):
        on_thing = torch.isin(pixel_classes, classes[things])
        segment_ids = torch.where(on_thing, things[likelihood.argmax(dim=0)] + 1, segment_ids)
    for index in torch.nonzero(~is_thing)[:, 0]:
        segment_ids = torch.where(pixel_classes == classes[index], index + 1, segment_ids)
    return segment_ids
