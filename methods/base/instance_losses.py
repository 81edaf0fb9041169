"""What a branch with one map per target trains on points: partial cross-entropy, colour prior, self-training (FDD Eq. 3-7).

Images differ in their number of targets. Their maps are one padded batch (B, N, h, w) with a mask ``present`` (B, N) of the
targets that exist; `among_present` takes the others out of the softmax over N. All losses then read logits (B, K, h, w), be
K targets or classes, so that a branch of class maps trains with the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from methods.base.losses import mean_over_devices
from methods.base.point_losses import partial_cross_entropy
from methods.base.types import PointBatch, PointLabels
from methods.ops.color import ColorPairs, lab_at, pairwise_color_loss, similar_pairs
from methods.ops.rasterize import UNLABELLED, scaled_cells

ABSENT = -1e9
"""Logit of a target that does not exist: probability 0, but finite, so that no gradient becomes NaN."""


def filled(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """(B, M, ...) of B tensors (m_i, ...), M the largest m_i but at least 1, filled up with ``value``."""
    empty = rows[0].new_full((1, *rows[0].shape[1:]), value)
    return pad_sequence([*rows, empty], batch_first=True, padding_value=value)[:-1]


def class_label_maps(labels: Tensor, classes: Tensor) -> Tensor:
    """From targets to their classes.

    Args:
        labels: (B, h, w) int64 target of the labelled cells, negative elsewhere.
        classes: (B, N) int64 class of each target.

    Returns:
        (B, h, w) int64 class of the labelled cells, `UNLABELLED` elsewhere.
    """
    found = classes.gather(1, labels.clamp(min=0).flatten(1)).view_as(labels)
    return found.masked_fill(labels < 0, UNLABELLED)


def among_present(logits: Tensor, present: Tensor) -> Tensor:
    """Logits whose softmax over N knows the existing targets only.

    Args:
        logits: (B, N, h, w).
        present: (B, N) bool.

    Returns:
        (B, N, h, w) float32, `ABSENT` at targets that do not exist.
    """
    return logits.float().masked_fill(~present[..., None, None], ABSENT)


def has_choice(present: Tensor) -> Tensor:
    """(B,) bool, images with two targets or more: over a single one the softmax is 1 whatever the network says."""
    return present.sum(dim=1) > 1


def one_point_weight(points: Sequence[PointLabels], one: float = 1.0, more: float = 0.1) -> float:
    """λ_sem of FDD for P1 and P10: ``more`` if any target of the batch has more than one labelled pixel, else ``one``."""
    return more if any(len(p.target) > len(torch.unique(p.target)) for p in points) else one


def self_training_loss(logits: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy to the map's own most probable label, ``-log max_n P_n`` averaged over the valid cells (FDD Eq. 6).

    Args:
        logits: (B, K, h, w).
        valid: (B, h, w) bool, cells that count.

    Returns:
        Scalar in [0, log K], the mean over the valid cells of the batch (over all devices); 0 if there is none.
    """
    surprise = -F.log_softmax(logits.float(), dim=1).amax(dim=1)
    return (surprise * valid).sum() / mean_over_devices(valid.sum()).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Supervision:
    """What is known of the cells of a batch, the same for every layer of a branch.

    Attributes:
        labels: (B, h, w) int64 target or class of the labelled cells, `UNLABELLED` elsewhere.
        pairs: neighbouring cells of similar colour.
        valid: (B, h, w) bool, cells without padding.
        images: (B,) bool, images that are trained on.
    """

    labels: Tensor
    pairs: ColorPairs
    valid: Tensor
    images: Tensor

    @classmethod
    def of(cls, labels: Tensor, pairs: ColorPairs, valid: Tensor, images: Tensor) -> Supervision:
        """As given, but with nothing known of the images that are not trained on."""
        kept = images[:, None, None]
        pairs = replace(pairs, used=pairs.used & kept, count=pairs.count * images)
        return cls(labels.masked_fill(~kept, UNLABELLED), pairs, valid & kept, images)


@dataclass(frozen=True, slots=True)
class ColorPrior:
    """Which neighbouring cells have similar colours (FDD Eq. 5); defaults are those of the PSPS released code.

    Attributes:
        kernel, threshold, falloff, mask_border: see `methods.ops.color.similar_pairs`.
        dilation: spacing of the neighbours in cells, at a short side of ``reference_side`` (`scaled_cells`).
        reference_side: short side that the spacing belongs to; None takes it as it is.
    """

    kernel: int = 5
    dilation: int = 2
    threshold: float = 0.3
    falloff: float = 0.5
    mask_border: bool = True
    reference_side: int | None = 600

    def of(self, batch: PointBatch, grid: tuple[int, int]) -> tuple[ColorPairs, Tensor]:
        """The similar pairs of a batch at a grid (h, w), and (B, h, w) bool, its cells without padding."""
        lab, valid = lab_at(batch.images, batch.padding, grid)
        spacing = scaled_cells(self.dilation, min(map(min, batch.sizes)), self.reference_side)
        pairs = similar_pairs(lab, valid, self.kernel, spacing, self.threshold, self.mask_border, self.falloff)
        return pairs, valid


def color_prior_loss(logits: Tensor, supervision: Supervision) -> Tensor:
    """``-log(P_i . P_j)`` averaged over the similar pairs of an image, then over the images that are trained on (FDD Eq. 4).

    Args:
        logits: (B, K, h, w).
        supervision: of the batch.

    Returns:
        Scalar; 0 if no image is trained on.
    """
    images = supervision.images
    return pairwise_color_loss(logits, supervision.pairs) * (len(images) / images.sum().clamp(min=1))


@dataclass(frozen=True, slots=True)
class PointObjective:
    """Weights of the losses of a branch, each summed over its supervised layers (FDD Eq. 7 and 9).

    Attributes:
        partial: of the partial cross-entropy on the labelled cells.
        color: of the colour prior.
        self_training: of the cross-entropy to the map's own argmax.
    """

    partial: float = 1.0
    color: float = 3.0
    self_training: float = 0.0

    def losses(
        self, layers: Sequence[Tensor], supervision: Supervision, color_factor: float = 1.0, label_factor: float = 1.0
    ) -> dict[str, Tensor]:
        """Weighted losses of a branch.

        Args:
            layers: (B, K, h, w) logits of each supervised layer.
            supervision: of the batch.
            color_factor: warm-up factor of the colour prior, in [0, 1].
            label_factor: warm-up factor of what the branch's own labels supervise, in [0, 1].

        Returns:
            ``partial``, ``color`` and ``self_training``; a loss of weight 0 is left out.
        """
        losses: dict[str, Tensor] = {}
        if self.partial:
            losses["partial"] = self.partial * sum(partial_cross_entropy(z, supervision.labels) for z in layers)
        if self.color:
            losses["color"] = self.color * color_factor * sum(color_prior_loss(z, supervision) for z in layers)
        if self.self_training:
            total = sum(self_training_loss(z, supervision.valid) for z in layers)
            losses["self_training"] = self.self_training * label_factor * total
        return losses
