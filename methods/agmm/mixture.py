"""The Gaussian mixture of AGMM: one component per class, centred on the features of its labelled pixels.

Sources: the authors' slides ("slides") and the released code. Pure functions; ``...`` stands for any leading dimensions, one
of images as a rule. A label map holds the class of labelled pixels, and anything outside ``0 .. K - 1`` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.losses import mean_over_devices

LOG_EPSILON = 1e-6
"""Added inside every logarithm of a probability or a Gaussian (released code)."""

HALF = 0.5
"""Factor of both cross-entropies between maps in the released code; the slides have none (1)."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the Gaussian maps are made; defaults are those of the slides.

    Attributes:
        sigma: ``"adaptive"``, `adaptive_sigma` (slides), or ``"fixed"`` (released code).
        fixed_variance: σ² of ``"fixed"``; 1/2 makes it g = exp(-d²).
        normalizer: |P_i| of `adaptive_sigma`.
        distance: see `class_distances`.
        centre: ``"image"``, the mean of the image's labelled pixels (slides, released code), of the ``"batch"``'s, or a
            ``"moving"`` average of the latter.
        momentum: of the moving average.
        detach: the Gaussian maps are targets without gradient; False (released code): they learn as well.

    Raises:
        ValueError: an unknown word, a variance that is not positive, a momentum outside [0, 1).
    """

    sigma: Literal["adaptive", "fixed"] = "adaptive"
    fixed_variance: float = 0.5
    normalizer: Literal["mass", "count"] = "mass"
    distance: Literal["euclidean", "mean_absolute", "cosine"] = "euclidean"
    centre: Literal["image", "batch", "moving"] = "image"
    momentum: float = 0.99
    detach: bool = False

    def __post_init__(self):
        words = {
            "sigma": ("adaptive", "fixed"), "normalizer": ("mass", "count"),
            "distance": tuple(DISTANCES), "centre": ("image", "batch", "moving"),
        }  # fmt: skip
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ValueError(f"The mixture has no {name} '{getattr(self, name)}'; it is one of {', '.join(known)}.")
        if not self.fixed_variance > 0:
            raise ValueError(f"The mixture's fixed_variance must be positive, got {self.fixed_variance}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"The mixture's momentum must be at least 0 and below 1, got {self.momentum}.")


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """(..., K) int64, labelled pixels of each class in the label maps (..., h, w)."""
    return _one_hot(labels, num_classes).sum(dim=-2)


def class_means(features: Tensor, labels: Tensor, num_classes: int, epsilon: float = 1e-6) -> Tensor:
    """Centres μ_i: the mean feature of the labelled pixels of each class (slides; released code with its ε).

    Gradient flows into the features.

    Args:
        features: (..., D, h, w) float.
        labels: (..., h, w) int, the class of labelled pixels, outside ``0 .. K - 1`` elsewhere.
        num_classes: K.
        epsilon: added to the number of pixels that is divided by, so that an absent class is not divided by 0; positive.

    Returns:
        (..., K, D), ``Σ f / (n + ε)``; exactly 0 for a class without a labelled pixel.
    """
    members = _one_hot(labels, num_classes).to(features.dtype)
    sums = members.transpose(-2, -1) @ features.flatten(-2).transpose(-2, -1)
    return sums / (members.sum(dim=-2)[..., None] + epsilon)


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(..., h w, K) bool."""
    return labels.flatten(-2)[..., None] == torch.arange(num_classes, device=labels.device)


def batch_means(features: Tensor, labels: Tensor, num_classes: int, epsilon: float = 1e-6) -> Tensor:
    """`class_means` over all labelled pixels of a batch at once.

    Args:
        features: (B, D, h, w) float.
        labels: (B, h, w) int.
        num_classes, epsilon: as there.

    Returns:
        (K, D).
    """
    return class_means(features.transpose(0, 1).flatten(1, 2), labels.flatten(0, 1), num_classes, epsilon)


def _cosine(features: Tensor, means: Tensor) -> Tensor:
    return 1 - F.normalize(features, dim=1) @ F.normalize(means, dim=1).T


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": lambda f, m: torch.cdist(f, m, p=2, compute_mode="donot_use_mm_for_euclid_dist"),
    "mean_absolute": lambda f, m: torch.cdist(f, m, p=1) / f.shape[1],
    "cosine": _cosine,
}
"""Name -> distances (n, k) between features (n, D) and centres (k, D)."""


def class_distances(features: Tensor, means: Tensor, present: Tensor, distance: str = "euclidean") -> Tensor:
    """Distance d of every pixel to the centre of every class that is present.

    Args:
        features: (..., D, h, w) float.
        means: (..., K, D), with the same leading dimensions.
        present: (..., K) bool, classes that have a centre.
        distance: ``"euclidean"``, ‖f - μ‖ (slides); ``"mean_absolute"``, the mean of |f - μ| over the D channels (released
            code); ``"cosine"``, 1 - cos(f, μ) in [0, 2].

    Returns:
        (..., K, h, w), not negative; exactly 0 for absent classes (released code). Memory is that of the result, not D
        times as much.
    """
    size, lead = features.shape[-2:], present.shape[:-1]
    maps = []
    pixels = features.flatten(-2).transpose(-2, -1).reshape(-1, size.numel(), features.shape[-3])
    centres = means.reshape(-1, *means.shape[-2:])
    for f, mu, some in zip(pixels, centres, present.reshape(-1, present.shape[-1]), strict=True):
        chosen, found = torch.nonzero(some)[:, 0], f.new_zeros(len(some), len(f))
        if len(chosen):  # the backward pass of cdist does not survive an empty set
            found = found.index_copy(0, chosen, DISTANCES[distance](f, mu[chosen]).T)
        maps.append(found)
    return torch.stack(maps).view(*lead, present.shape[-1], *size)


def adaptive_sigma(
    distances: Tensor, probs: Tensor, counted: Tensor | None = None,
    normalizer: Literal["mass", "count"] = "mass", epsilon: float = 1e-6,
) -> Tensor:
    """σ_i of each class: ``sqrt(Σ_x P_i d² / |P_i| + ε)`` over the unlabelled pixels x (slides).

    |P_i| is read as the mass Σ_x P_i, which the commented-out lines of the released code divide by. No gradient.

    Args:
        distances: (..., K, h, w) d.
        probs: (..., K, h, w) predicted probabilities P in [0, 1].
        counted: (..., h, w) bool, the unlabelled pixels that are no padding; None for all.
        normalizer: ``"mass"``, or ``"count"``: the number of these pixels.
        epsilon: added to σ², so that a class whose features all coincide has a σ above 0; 0 is exact.

    Returns:
        (..., K); sqrt(ε) for a class without mass.
    """
    with torch.no_grad():
        weights = probs.detach() if counted is None else probs.detach() * counted[..., None, :, :]
        spread = (weights * distances.detach().square()).flatten(-2).sum(dim=-1)
        if normalizer == "mass":
            total = weights.flatten(-2).sum(dim=-1)
        else:
            pixels = torch.ones_like(distances[..., 0, :, :]) if counted is None else counted.to(spread.dtype)
            total = pixels.flatten(-2).sum(dim=-1)[..., None]
        return (spread / total.clamp(min=torch.finfo(spread.dtype).tiny) + epsilon).sqrt()


def gaussian_maps(distances: Tensor, sigma: Tensor | float, present: Tensor | None = None) -> Tensor:
    """G: for each class ``g_i = exp(-d² / (2 σ_i²))`` (slides). With σ = 1/√2 it is the released code's exp(-d²).

    Args:
        distances: (..., K, h, w) d.
        sigma: (..., K), or one number for all, positive.
        present: (..., K) bool, classes that have a centre; None for all.

    Returns:
        (..., K, h, w) in [0, 1], exactly 0 for absent classes. Padded pixels have values that mean nothing: losses have to
        leave them out, and a resize must not mix them in.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma[..., None, None]
    gaussians = torch.exp(-distances.square() / (2 * sigma**2))
    return gaussians if present is None else gaussians.masked_fill(~present[..., None, None], 0.0)


def bernoulli_cross_entropy(targets: Tensor, values: Tensor) -> Tensor:
    """``-t log(v + ε) - (1 - t) log(1 - v + ε)`` of each element, both in [0, 1]; ε is `LOG_EPSILON`."""
    return -targets * torch.log(values + LOG_EPSILON) - (1 - targets) * torch.log(1 - values + LOG_EPSILON)


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values (...) where the mask (...) is True, over all devices; 0 where it is True nowhere."""
    return (values * where).sum() / mean_over_devices(where.sum()).clamp(min=1)


def per_present_class(values: Tensor, present: Tensor) -> Tensor:
    """(B, h, w): the mean of the maps (B, K, h, w) over the classes that are present (B, K) bool; 0 without one."""
    kept = values * present[..., None, None]
    return kept.sum(dim=1) / present.sum(dim=1).clamp(min=1)[:, None, None]


def self_supervision_loss(
    probs: Tensor, gaussians: Tensor, present: Tensor, valid: Tensor | None = None, factor: float = HALF
) -> Tensor:
    """L_1, the online self-supervision between segmentation and mixture (slides; the first GMM loss of the released code).

    Mean over the pixels, labelled or not, of ``factor · Σ_k y_k [-G_k log p_k - (1 - G_k) log(1 - p_k)] / Σ_k y_k``.
    Gradient flows into both probabilities and Gaussians, unless those are detached.

    Args:
        probs: (B, K, h, w) p in [0, 1], a softmax over K.
        gaussians: (B, K, h, w) G in [0, 1].
        present: (B, K) bool y, classes with a labelled pixel in the image.
        valid: (B, h, w) bool, False where padded; None for all.
        factor: 1/2 in the released code, 1 in the slides.

    Returns:
        Scalar; an image without a labelled pixel adds 0.
    """
    per_pixel = factor * per_present_class(bernoulli_cross_entropy(gaussians, probs), present)
    return mean_where(per_pixel, torch.ones_like(per_pixel, dtype=torch.bool) if valid is None else valid)
