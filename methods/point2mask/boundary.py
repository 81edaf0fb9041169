"""The high-level boundary map P^b_high and the loss that trains it on the current pseudo labels (Point2Mask Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from methods.base.embedding import Projection
from methods.base.types import PseudoLabels
from methods.ops.disagreement import shifted_pair
from methods.ops.parallel import in_threads

EPSILON = 1e-5
"""Beside the logarithms' arguments and the numbers of pairs (Point2Mask released code)."""

HALF_NEIGHBOURHOOD = ((0, 1), (1, -1), (1, 0), (1, 1))
"""4 of the 8 neighbours as (rows down, columns right); the others are the same pairs reversed."""


@dataclass(frozen=True, slots=True)
class BoundaryProjection(Projection):
    """What the boundary decoder reads: the sum of the encoder maps (paper); the released code adds their positions."""

    inputs: Sequence[str] = ("map",)


def boundary_loss(logits: Tensor, labels: Sequence[PseudoLabels]) -> Tensor:
    """``1/2 thing + 1/2 stuff + negative``, averaged over the images (Point2Mask Eq. 7).

    With ``b = sigmoid(logits)`` at full resolution, a pair of neighbours has affinity ``A = 1 - max(b_k, b_l)``. Pairs
    inside one thing, and inside one stuff segment, have the loss ``-log A``; pairs across a boundary have ``-log(1 - A)``.
    Each of the three sets is averaged over its pairs. A boundary is where the segments differ and one of them is a thing or
    both are known: between an unsure (void) pixel and stuff nothing is learned. Pairs across the image border and with an
    ignored pixel do not count.

    Args:
        logits: (B, h, w) float boundary logits that cover the padded input.
        labels: B pseudo labels of the padded size.

    Returns:
        Scalar float32, differentiable in ``logits``; a set without a pair adds 0.
    """
    size = labels[0].segment_ids.shape
    full = F.interpolate(logits.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return boundary_losses(torch.sigmoid(full), labels).mean()


def boundary_losses(strength: Tensor, labels: Sequence[PseudoLabels]) -> Tensor:
    """(B,) loss of each boundary map (B, H, W) float32 in [0, 1], finite, see `boundary_loss`.

    Both terms of a pair depend on its larger end alone, so that on a CPU a compiled pass only counts for each pixel the
    pairs of each set in which it is the larger end; logarithms are taken of pixels, not of pairs.
    """
    if strength.device.type != "cpu":
        return boundary_losses_plain(strength, labels)
    counts = torch.stack(in_threads(_decided_pairs, strength.detach(), labels))
    inside, across = -torch.log(1 - strength + EPSILON), -torch.log(strength + EPSILON)
    terms = (counts[:, 0] * inside, counts[:, 1] * inside, counts[:, 2] * across)
    return _loss_of_sets(torch.stack([term.sum(dim=(1, 2)) for term in terms]), counts.sum(dim=(2, 3)).T)


def boundary_losses_plain(strength: Tensor, labels: Sequence[PseudoLabels]) -> Tensor:
    """`boundary_losses` pair by pair, on any device."""
    return torch.stack([_loss_of_image(*each) for each in zip(strength, labels, strict=True)])


def _loss_of_sets(totals: Tensor, counts: Tensor) -> Tensor:
    """The loss from the sums (3, ...) over the pairs of each set, and their numbers."""
    # both directions of a pair count, so that the mean is that over ordered pairs
    thing, stuff, negative = 2 * totals / (2 * counts + EPSILON)
    return 0.5 * thing + 0.5 * stuff + negative


def _decided_pairs(strength: Tensor, labels: PseudoLabels) -> Tensor:
    """(3, h, w) float32: the pairs inside a thing, inside a stuff segment and across a boundary that each pixel is the
    larger end of; of equal ends each has half."""
    is_thing = F.pad(labels.is_thing, (1, 0))
    arrays = (each.contiguous().numpy() for each in (strength, labels.segment_ids, is_thing, labels.ignore))
    return torch.from_numpy(_count_decided(*arrays))


@njit(nogil=True, cache=True)
def _count_decided(strength: np.ndarray, ids: np.ndarray, is_thing: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    height, width = ids.shape
    counts = np.zeros((3, height, width), dtype=np.float32)
    for y in range(height):
        for x in range(width):
            if ignore[y, x]:
                continue
            own, own_thing, here = ids[y, x], is_thing[ids[y, x]], strength[y, x]
            for k in range(len(HALF_NEIGHBOURHOOD)):
                i, j = y + HALF_NEIGHBOURHOOD[k][0], x + HALF_NEIGHBOURHOOD[k][1]
                if i >= height or j < 0 or j >= width or ignore[i, j]:
                    continue
                other = ids[i, j]
                if own == other:
                    if own == 0:
                        continue
                    of_set = 0 if own_thing else 1
                elif own_thing or is_thing[other] or (own > 0 and other > 0):
                    of_set = 2
                else:
                    continue
                there = strength[i, j]
                if here > there:
                    counts[of_set, y, x] += 1
                elif there > here:
                    counts[of_set, i, j] += 1
                else:
                    counts[of_set, y, x] += 0.5
                    counts[of_set, i, j] += 0.5
    return counts


def _loss_of_image(strength: Tensor, labels: PseudoLabels) -> Tensor:
    """The loss of one boundary map (h, w) in [0, 1]."""
    is_thing = F.pad(labels.is_thing, (1, 0))[labels.segment_ids]
    totals, counts = strength.new_zeros(3), strength.new_zeros(3)
    for offset in HALF_NEIGHBOURHOOD:
        crossing = torch.maximum(*shifted_pair(strength, offset))
        inside, across = -torch.log(1 - crossing + EPSILON), -torch.log(crossing + EPSILON)
        sets = _pair_sets(labels, is_thing, offset)
        totals = totals + torch.stack(
            [torch.where(used, loss, 0.0).sum() for used, loss in zip(sets, (inside, inside, across), strict=True)]
        )
        counts = counts + torch.stack([used.sum() for used in sets])
    return _loss_of_sets(totals, counts)


def _pair_sets(labels: PseudoLabels, is_thing: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs at one offset, each (h', w') bool: inside a thing, inside a stuff segment, across a boundary."""
    id_k, id_l = shifted_pair(labels.segment_ids, offset)
    thing_k, thing_l = shifted_pair(is_thing, offset)
    ignored_k, ignored_l = shifted_pair(labels.ignore, offset)
    known = ~(ignored_k | ignored_l)
    same = known & (id_k == id_l) & (id_k > 0)
    differ = known & (id_k != id_l) & (thing_k | thing_l | ((id_k > 0) & (id_l > 0)))
    return same & thing_k, same & ~thing_k, differ
