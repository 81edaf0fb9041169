"""From the segment ids of one image to the `PseudoLabels` of a padded batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.labels import EMPTY_BOX
from methods.base.types import PointLabels, PseudoLabels


def dense_labels(
    segment_ids: Tensor, points: PointLabels, input_size: tuple[int, int], ignore: Tensor | None = None,
    empty_box: float = EMPTY_BOX,
) -> PseudoLabels:
    """Labels of the padded size, targets in the order of the points.

    Args:
        segment_ids: (h, w) int of the valid part of the image; 0 = void, ``i + 1`` = target ``i``.
        points: of the image.
        input_size: (H, W) of the padded batch.
        ignore: (h, w) bool, pixels that no loss may read; None for none.
        empty_box: side of the box of a target without a pixel, a share of the image's.

    Returns:
        Padding is void and ignored. In an image without a target nothing is known, so that all of it is ignored.
    """
    height, width = segment_ids.shape
    margin = (0, input_size[1] - width, 0, input_size[0] - height)
    if points.num_targets == 0:
        ignore = torch.ones_like(segment_ids, dtype=torch.bool)
    if ignore is not None:
        ignore = F.pad(ignore, margin, value=True)
    return PseudoLabels.from_segment_ids(
        F.pad(segment_ids, margin), points.classes, points.is_thing, (height, width), ignore=ignore, empty_box=empty_box
    )
