"""Bipartite matching of location queries to thing targets (DETR, Sec. 3.1; costs as in Deformable DETR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou


@dataclass(frozen=True, slots=True)
class Matching:
    """Matched pairs of L layers, the same number P in each: image by image, min(queries, targets) of an image.

    Attributes:
        image: (P,) int64, image of each pair.
        query: (L, P) int64, query within the image.
        target: (L, P) int64, target within the concatenation of all images' targets.
    """

    image: Tensor
    query: Tensor
    target: Tensor

    @property
    def count(self) -> int:
        """P, the number of pairs in each layer."""
        return self.image.numel()


def focal_cost(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12) -> Tensor:
    """Focal classification cost of each query for each target: positive minus negative focal term at the target's class.

    Args:
        logits: (..., Q, C).
        classes: (n,) int64 in 0 .. C-1.

    Returns:
        (..., Q, n).
    """
    p = logits.sigmoid()
    positive = alpha * (1 - p) ** gamma * -(p + eps).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + eps).log()
    return (positive - negative)[..., classes]


def matching_cost(
    logits: Tensor, boxes: Tensor, classes: Tensor, targets: Tensor,
    class_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0,
) -> Tensor:
    """Weighted sum of focal cost, L1 distance and negative GIoU.

    GIoU does not change when an axis is scaled, so normalised boxes give the value of pixel boxes.

    Args:
        logits: (..., Q, C) class logits.
        boxes: (..., Q, 4) predicted cx, cy, w, h in [0, 1].
        classes: (n,) int64.
        targets: (n, 4) cx, cy, w, h in [0, 1].
        class_weight, l1_weight, giou_weight: factors of the three costs.

    Returns:
        (..., Q, n).
    """
    shape = (*boxes.shape[:-1], len(targets))
    flat = boxes.flatten(0, -2)
    l1 = torch.cdist(flat, targets, p=1).view(shape)
    corners = box_convert(flat, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy")
    giou = generalized_box_iou(*corners).view(shape)
    return class_weight * focal_cost(logits, classes) + l1_weight * l1 - giou_weight * giou


@torch.no_grad()
def match_layers(
    logits: Tensor, boxes: Tensor, classes: list[Tensor], targets: list[Tensor],
    class_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0,
) -> Matching:
    """Hungarian matching of every layer and image, with one transfer from the device.

    Args:
        logits: (L, B, Q, C) class logits.
        boxes: (L, B, Q, 4) predicted cx, cy, w, h in [0, 1].
        classes: B tensors (n_i,) int64.
        targets: B tensors (n_i, 4) cx, cy, w, h in [0, 1].
        class_weight, l1_weight, giou_weight: as in `matching_cost`.
    """
    weights = (class_weight, l1_weight, giou_weight)
    costs = [
        matching_cost(logits[:, i].float(), boxes[:, i].float(), classes[i], targets[i].float(), *weights)
        for i in range(len(classes))
    ]
    # A diverged network gives NaN; the run has to end with a NaN loss, not with an error of the assignment.
    table = torch.nan_to_num(torch.cat(costs, dim=-1), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    images: list[int] = []
    queries: list[list[int]] = [[] for _ in table]
    pairs: list[list[int]] = [[] for _ in table]
    start = 0
    for image, count in enumerate(len(c) for c in classes):
        for layer, cost in enumerate(table[:, :, start : start + count]):
            rows, columns = linear_sum_assignment(cost)
            queries[layer] += rows.tolist()
            pairs[layer] += (columns + start).tolist()
        images += [image] * min(count, table.shape[1])
        start += count
    as_indices = {"dtype": torch.int64, "device": logits.device}
    return Matching(
        torch.tensor(images, **as_indices), torch.tensor(queries, **as_indices), torch.tensor(pairs, **as_indices)
    )
