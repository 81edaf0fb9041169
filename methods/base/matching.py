"""Bipartite matching of location queries to thing targets (DETR, Sec. 3.1; costs as in Deformable DETR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from methods.base.losses import Focal


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


@dataclass(frozen=True, slots=True)
class MatchingCosts:
    """What the cost of a pair is made of; defaults are those of the released codes.

    Attributes:
        classification, l1, giou: weights of focal cost, L1 distance of normalised boxes and negative GIoU.
        focal: α and γ of the focal cost.
        epsilon: added inside its logarithms.
    """

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    focal: Focal = Focal()
    epsilon: float = 1e-12


def focal_cost(logits: Tensor, classes: Tensor, focal: Focal = Focal(), epsilon: float = 1e-12) -> Tensor:
    """Focal classification cost of each query for each target: positive minus negative focal term at the target's class.

    Args:
        logits: (..., Q, C).
        classes: (n,) int64 in 0 .. C-1.
        focal: α and γ.
        epsilon: added inside the logarithms.

    Returns:
        (..., Q, n).
    """
    p = logits.sigmoid()
    positive = focal.alpha * (1 - p) ** focal.gamma * -(p + epsilon).log()
    negative = (1 - focal.alpha) * p**focal.gamma * -(1 - p + epsilon).log()
    return (positive - negative)[..., classes]


def matching_cost(
    logits: Tensor, boxes: Tensor, classes: Tensor, targets: Tensor, costs: MatchingCosts = MatchingCosts()
) -> Tensor:
    """Weighted sum of focal cost, L1 distance and negative GIoU.

    GIoU does not change when an axis is scaled, so normalised boxes give the value of pixel boxes.

    Args:
        logits: (..., Q, C) class logits.
        boxes: (..., Q, 4) predicted cx, cy, w, h in [0, 1].
        classes: (n,) int64.
        targets: (n, 4) cx, cy, w, h in [0, 1].
        costs: weights and constants.

    Returns:
        (..., Q, n).
    """
    shape = (*boxes.shape[:-1], len(targets))
    flat = boxes.flatten(0, -2)
    l1 = torch.cdist(flat, targets, p=1).view(shape)
    corners = box_convert(flat, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy")
    giou = generalized_box_iou(*corners).view(shape)
    focal = focal_cost(logits, classes, costs.focal, costs.epsilon)
    return costs.classification * focal + costs.l1 * l1 - costs.giou * giou


@torch.no_grad()
def match_layers(
    logits: Tensor, boxes: Tensor, classes: list[Tensor], targets: list[Tensor], costs: MatchingCosts = MatchingCosts()
) -> Matching:
    """Hungarian matching of every layer and image, with one transfer from the device.

    Args:
        logits: (L, B, Q, C) class logits.
        boxes: (L, B, Q, 4) predicted cx, cy, w, h in [0, 1].
        classes: B tensors (n_i,) int64.
        targets: B tensors (n_i, 4) cx, cy, w, h in [0, 1].
        costs: as in `matching_cost`.
    """
    tables = [
        matching_cost(logits[:, i].float(), boxes[:, i].float(), classes[i], targets[i].float(), costs)
        for i in range(len(classes))
    ]
    # A diverged network gives NaN; the run has to end with a NaN loss, not with an error of the assignment.
    table = torch.nan_to_num(torch.cat(tables, dim=-1), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
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
