"""Losses of the panoptic head as pure functions, and what normalises and balances them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet.utils import reduce_mean
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss


@dataclass(frozen=True, slots=True)
class Focal:
    """The focal loss' constants (Lin et al., ICCV 2017).

    Attributes:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that lowers the weight of what is already right.
    """

    alpha: float = 0.25
    gamma: float = 2.0



def mean_over_devices(count: Tensor) -> Tensor:
    """Mean of a count over all processes of a distributed run, the count itself in a single process.

    Every loss that divides by a count uses it, so that all devices divide by the same number.

    Args:
        count: scalar tensor on the training device; equal calls on every process.

    Returns:
        float32 scalar without gradient.
    """
    return reduce_mean(count.detach().float())


def things_stuff_balance(num_things: Tensor, num_stuff: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the thing and the stuff losses, n_th / (n_th + n_st) and its complement.

    Args:
        num_things: scalar, matched thing queries.
        num_stuff: scalar, present stuff classes, summed over the images.

    Returns:
        (r_th, r_st) in [0, 1] with sum 1; (0, 1) when both counts are 0.
    """
    things = num_things / (num_things + num_stuff).clamp(min=1)
    return things, 1 - things


def dice_losses(masks: Tensor, targets: Tensor, valid: Tensor | None = None, epsilon: float = 1e-3) -> Tensor:
    """Dice loss with squared denominators of each mask: 1 - 2 Σpg / (Σp² + ε + Σg² + ε).

    No sigmoid is applied: the masks of Panoptic SegFormer are ReLU outputs. An all-zero target gives a constant 1 without
    gradient.

    Args:
        masks: (M, ...) predicted values in [0, inf).
        targets: (M, ...) bool or float in {0, 1}.
        valid: (M, ...) bool, pixels that count; None for all.
        epsilon: ε, 1e-3 in the PSPS and Point2Mask released code.

    Returns:
        (M,) float32.
    """
    p, g = masks.float().flatten(1), targets.float().flatten(1)
    if valid is not None:
        inside = valid.flatten(1)
        p, g = p * inside, g * inside
    overlap = (p * g).sum(dim=1)
    return 1 - 2 * overlap / (p.square().sum(dim=1) + epsilon + g.square().sum(dim=1) + epsilon)


def focal_loss(logits: Tensor, targets: Tensor, focal: Focal = Focal()) -> Tensor:
    """Summed sigmoid focal loss.

    Args:
        logits: (...).
        targets: (...) float in {0, 1}.
        focal: α and γ.

    Returns:
        Scalar, not normalised.
    """
    return sigmoid_focal_loss(logits.float(), targets.float(), alpha=focal.alpha, gamma=focal.gamma, reduction="sum")


def box_losses(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed L1 and GIoU losses of matched boxes.

    Args:
        boxes, targets: (..., 4) cx, cy, w, h in [0, 1] of the same image extent; GIoU is the one of the pixel boxes, because
            scaling an axis does not change it.

    Returns:
        Two scalars, not normalised.
    """
    corners = box_convert(boxes, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy")
    return torch.abs(boxes - targets).sum(), generalized_box_iou_loss(*corners, reduction="sum")
