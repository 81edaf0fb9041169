"""The losses of AGMM's released code, and how they are put together. No warm-up, all of weight 1.

1. L_seg, the cross-entropy of the labelled pixels, is `methods.base.point_losses.partial_cross_entropy`;
2. L_1, `methods.agmm.mixture.self_supervision_loss`, the only one on the slides;
3. L_2, `label_mixture_loss`;
4. L_con, `centre_contrast`;
5. L_cls, `absent_class_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.agmm.mixture import (
    HALF,
    LOG_EPSILON,
    Mixture,
    adaptive_sigma,
    batch_means,
    bernoulli_cross_entropy,
    class_counts,
    class_distances,
    class_means,
    gaussian_maps,
    mean_where,
    per_present_class,
    self_supervision_loss,
)

CONTRASTS = ("mean", "sum")


def label_mixture_loss(gaussians: Tensor, labels: Tensor, present: Tensor, factor: float = HALF) -> Tensor:
    """L_2: the Gaussian maps have to tell the labelled pixels' classes.

    Mean over the labelled pixels of ``factor · Σ_k y_k [-t_k log G_k - (1 - t_k) log(1 - G_k)] / Σ_k y_k``, t one-hot.

    Args:
        gaussians: (B, K, h, w) G in [0, 1].
        labels: (B, h, w) int, the class of labelled pixels, outside ``0 .. K - 1`` elsewhere.
        present: (B, K) bool y, classes with a labelled pixel in the image.
        factor: 1/2 in the released code.

    Returns:
        Scalar; 0 without a labelled pixel.
    """
    classes = torch.arange(gaussians.shape[1], device=labels.device)[:, None, None]
    one_hot = labels[:, None] == classes
    per_pixel = per_present_class(bernoulli_cross_entropy(one_hot.to(gaussians.dtype), gaussians), present)
    return mean_where(factor * per_pixel, one_hot.any(dim=1))


def pooled_centres(means: Tensor, present: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """(K, D) centres of a batch from those of its images.

    Args:
        means: (B, K, D), 0 where the class is absent.
        present: (B, K) bool.
        reduction: the ``"mean"`` over the images that have the class, or their ``"sum"``, which the released code computes:
            three images with the centre μ have 3 μ.
    """
    total = (means * present[..., None]).sum(dim=0)
    return total if reduction == "sum" else total / present.sum(dim=0).clamp(min=1)[:, None]


def centre_contrast(centres: Tensor, present: Tensor) -> Tensor:
    """L_con: the mean of ``exp(-d_ij²)`` over the unordered pairs of classes, d the mean over channels of |μ_i - μ_j|.

    Args:
        centres: (K, D) float.
        present: (K,) bool, classes that have a centre.

    Returns:
        Scalar in [0, 1], 1 for centres that coincide; 0 with fewer than two classes.
    """
    centres = centres[present]
    one, other = torch.triu_indices(len(centres), len(centres), offset=1, device=centres.device)
    distances = (centres[one] - centres[other]).abs().mean(dim=1)
    return torch.exp(-distances.square()).sum() / max(1, len(distances))


def absent_class_loss(probs: Tensor, image_classes: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_cls: mean over the pixels of ``Σ -log(1 - p_k)`` over the classes k that do not occur in the image.

    Args:
        probs: (B, K, h, w) p in [0, 1].
        image_classes: (B, K) bool, classes that occur. An image without one is left out: nothing is known of it, not that
            every class is absent.
        valid: (B, h, w) bool, False where padded; None for all.
    """
    absent = ~image_classes & image_classes.any(dim=1, keepdim=True)
    per_pixel = -(torch.log(1 - probs + LOG_EPSILON) * absent[..., None, None]).sum(dim=1)
    known = image_classes.any(dim=1)[:, None, None].expand_as(per_pixel)
    return mean_where(per_pixel, known if valid is None else known & valid)


@dataclass(frozen=True, slots=True)
class SparseLabels:
    """What is known of a batch on the grid of its maps.

    Attributes:
        labels: (B, h, w) int64 class of labelled pixels, negative elsewhere.
        image_classes: (B, K) bool, classes that occur in the image, labelled on this grid or not.
        valid: (B, h, w) bool, False where padded; labelled pixels are valid.
    """

    labels: Tensor
    image_classes: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class MixtureObjective:
    """Losses 2 to 5, weighted; a loss of weight 0 is left out.

    Attributes:
        mixture: how the Gaussian maps are made.
        self_weight: of L_1. label_weight: of L_2. contrast_weight: of L_con. absent_weight: of L_cls.
        contrast: `pooled_centres` of L_con.
        factor: of the cross-entropies in L_1 and L_2.

    Raises:
        ValueError: unknown ``contrast``.
    """

    mixture: Mixture = Mixture()
    self_weight: float = 1.0
    label_weight: float = 1.0
    contrast_weight: float = 1.0
    absent_weight: float = 1.0
    contrast: Literal["mean", "sum"] = "mean"
    factor: float = HALF

    def __post_init__(self):
        if self.contrast not in CONTRASTS:
            raise ValueError(f"AGMM has no contrast '{self.contrast}'; it is one of {', '.join(CONTRASTS)}.")

    def losses(
        self, logits: Sequence[Tensor], features: Tensor, known: SparseLabels, moving: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            logits: (B, K, h, w) class logits of each supervised layer; the mixture is made with the last. L_1 and L_cls are
                summed over the layers.
            features: (B, D, h, w) f.
            known: of the batch, on the same grid.
            moving: (K, D) centres of ``mixture.centre == "moving"``, which have seen this batch.

        Returns:
            ``self``, ``label``, ``contrast`` and ``absent``, scalars.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            probs = [layer.float().softmax(dim=1) for layer in logits]
            present = class_counts(known.labels, probs[-1].shape[1]) > 0
            means = class_means(features, known.labels, present.shape[1])
            losses = {}
            if self.self_weight or self.label_weight:
                gaussians = self._gaussians(means, features, probs[-1], known, present, moving)
                losses |= self._mixture_losses(probs, gaussians, known, present)
            if self.contrast_weight:
                centres = pooled_centres(means, present, self.contrast)
                losses["contrast"] = self.contrast_weight * centre_contrast(centres, present.any(dim=0))
            if self.absent_weight:
                absent = sum(absent_class_loss(p, known.image_classes, known.valid) for p in probs)
                losses["absent"] = self.absent_weight * absent
            return losses

    def _mixture_losses(
        self, probs: list[Tensor], gaussians: Tensor, known: SparseLabels, present: Tensor
    ) -> dict[str, Tensor]:
        losses = {}
        if self.self_weight:
            targets = gaussians.detach() if self.mixture.detach else gaussians
            agreement = sum(self_supervision_loss(p, targets, present, known.valid, self.factor) for p in probs)
            losses["self"] = self.self_weight * agreement
        if self.label_weight:
            losses["label"] = self.label_weight * label_mixture_loss(gaussians, known.labels, present, self.factor)
        return losses

    @torch.no_grad()
    def gaussians(self, logits: Tensor, features: Tensor, known: SparseLabels, moving: Tensor | None = None) -> Tensor:
        """The Gaussian maps that the losses are taken with, for pictures.

        Args:
            logits: (B, K, h, w) class logits of the last layer.
            features, known, moving: as for `losses`.

        Returns:
            (B, K, h, w) float32 in [0, 1], 0 for classes without a labelled pixel.
        """
        features, probs = features.float(), logits.float().softmax(dim=1)
        present = class_counts(known.labels, probs.shape[1]) > 0
        means = class_means(features, known.labels, probs.shape[1])
        return self._gaussians(means, features, probs, known, present, moving)

    def _gaussians(
        self, means: Tensor, features: Tensor, probs: Tensor, known: SparseLabels, present: Tensor, moving: Tensor | None
    ) -> Tensor:
        """(B, K, h, w) Gaussian maps around the chosen centres."""
        mixture = self.mixture
        if mixture.centre == "batch":
            means = batch_means(features, known.labels, present.shape[1]).expand_as(means)
        elif mixture.centre == "moving":
            if moving is None:
                raise ValueError("The mixture's centres are a moving average; give it as 'moving'.")
            means = moving.to(means.dtype).expand_as(means)
        distances = class_distances(features, means, present, mixture.distance)
        if mixture.sigma == "fixed":
            return gaussian_maps(distances, mixture.fixed_variance**0.5, present)
        counted = known.valid & (known.labels < 0)
        return gaussian_maps(distances, adaptive_sigma(distances, probs, counted, mixture.normalizer), present)
