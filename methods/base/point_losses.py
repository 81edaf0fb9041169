"""What several methods train on points alone: partial cross-entropy, class presence, colour prior, and their wiring.

The recipe of the PSPS released code, kept by Point2Mask; FDD uses the partial cross-entropy and the colour prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.labels import Movable
from methods.base.losses import Focal, focal_loss, mean_over_devices, things_stuff_balance
from methods.base.preparation import finest_grid, piece_of
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import PointBatch, PointLabels, Progress
from methods.ops.color import ColorPairs, lab_at, pairwise_color_loss, similar_pairs
from methods.ops.rasterize import UNLABELLED, point_label_map, scaled_cells, scaled_odd


def class_presence(points: Sequence[PointLabels], num_classes: int) -> Tensor:
    """(B, K) float32 in {0, 1}: the classes that occur in each image.

    Every target has points, so that the classes of the points are all classes of the image.
    """
    present = torch.zeros(len(points), num_classes, device=points[0].classes.device)
    for row, labels in zip(present, points, strict=True):
        row[labels.classes] = 1.0
    return present


def presence_loss(logits: Tensor, present: Tensor, focal: Focal = Focal()) -> Tensor:
    """Sigmoid focal loss of the classes that occur, over the number of present (image, class) pairs (at least 1).

    An image without any class is left out: nothing is known of it, not that every class is absent.

    Args:
        logits: (B, K).
        present: (B, K) float in {0, 1}.
        focal: α and γ.
    """
    known = present.any(dim=1)
    return focal_loss(logits[known], present[known], focal) / mean_over_devices(present.sum()).clamp(min=1)


def partial_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labelled cells only, averaged over the labelled cells of the batch (FDD Eq. 3).

    Args:
        logits: (B, K, h, w).
        labels: (B, h, w) int64, `UNLABELLED` where nothing is known.

    Returns:
        Scalar; 0 if no cell is labelled.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED, reduction="sum")
    return total / mean_over_devices((labels != UNLABELLED).sum()).clamp(min=1)


def things_share(points: Sequence[PointLabels]) -> Tensor:
    """Scalar float32 ``n_things / (n_things + n_stuff)`` from the numbers of targets in the batch."""
    things = sum(labels.is_thing.sum() for labels in points)
    targets = sum(labels.num_targets for labels in points)
    return things_stuff_balance(mean_over_devices(things), mean_over_devices(targets - things))[0]


def dilation_of(size: tuple[int, int], dilation: int, reference_side: int | None) -> int:
    """Side in pixels of the square around a labelled pixel in an image of ``size`` (height, width); see `scaled_odd`."""
    return scaled_odd(dilation, min(size), reference_side)


def dilated_label_maps(
    batch: PointBatch, grid: tuple[int, int], dilation: int, reference_side: int | None
) -> Tensor:
    """(B, h, w) int64 classes of the dilated labelled pixels at a coarser grid, `UNLABELLED` elsewhere.

    Args:
        batch: images with points.
        grid: (h, w).
        dilation: side of the square at ``reference_side``; scaled with the short side of each image.
        reference_side: see `scaled_odd`.
    """
    return torch.stack(
        [
            point_label_map(p.xy, p.point_classes, size, batch.input_size, grid, dilation_of(size, dilation, reference_side))
            for p, size in zip(batch.points, batch.sizes, strict=True)
        ]
    )


@dataclass(frozen=True, slots=True)
class SemanticTargets(Movable):
    """What `SemanticObjective` holds class maps against: of a batch, from its images and points alone.

    Attributes:
        maker: the objective that made them.
        grid: (height, width) of the maps.
        labels: (B, h, w) int64, see `SemanticObjective.labels`.
        pairs: of the colour prior, see `SemanticObjective.pairs`.
    """

    maker: SemanticObjective
    grid: tuple[int, int]
    labels: Tensor
    pairs: list[ColorPairs]


@dataclass(frozen=True, slots=True)
class SemanticObjective:
    """How the semantic branch is trained from points; defaults are those of the PSPS released code.

    Attributes:
        presence_weight, presence_focal: weight and constants of `presence_loss`.
        partial_weight: weight of `partial_cross_entropy`.
        color_weight: weight of `pairwise_color_loss`.
        color_kernels: weight of each neighbourhood, by its side in cells; their losses are normalised separately.
        color_threshold, color_falloff, mask_border: see `similar_pairs`.
        color_dilation: spacing of the neighbours in cells of the map, at a short side of ``reference_side``.
        dilation: side in pixels of the square around a labelled pixel.
        reference_side: short side that both dilations belong to; see `scaled_odd` and `scaled_cells`.
        color_warmup: share of the run over which the colour prior grows linearly to its weight; 0 (the released code) has it
            whole from the start. A branch that still separates nothing satisfies the prior best by one class for all
            pixels, and a short schedule does not find out of that again.
        scale_by_things: multiply all three losses with the share of things among the targets.
    """

    presence_weight: float = 2.0
    presence_focal: Focal = Focal()
    partial_weight: float = 1.0
    color_weight: float = 3.0
    color_kernels: Mapping[int, float] = field(default_factory=lambda: {5: 1.0})
    color_dilation: int = 2
    color_threshold: float = 0.3
    color_falloff: float = 0.5
    mask_border: bool = True
    dilation: int = 17
    reference_side: int | None = 600
    color_warmup: float = 0.0
    scale_by_things: bool = True

    def losses(self, maps: SemanticMaps, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        """Weighted losses, each summed over the layers of the branch.

        Args:
            maps: of the batch.
            batch: images with points.
            progress: for the warm-up of the colour prior.

        Returns:
            ``semantic_presence``, ``semantic_partial`` and ``semantic_color``; a loss of weight 0 is left out.
        """
        grid = tuple(maps.logits[0].shape[-2:])
        losses: dict[str, Tensor] = {}
        if self.presence_weight:
            present = class_presence(batch.points, maps.presence[0].shape[1])
            per_layer = [presence_loss(logits, present, self.presence_focal) for logits in maps.presence]
            losses["semantic_presence"] = self.presence_weight * sum(per_layer)
        if self.partial_weight:
            labels = self.labels(batch, grid)
            per_layer = [partial_cross_entropy(logits, labels) for logits in maps.logits]
            losses["semantic_partial"] = self.partial_weight * sum(per_layer)
        if self.color_weight:
            weight = self.color_weight * progress.warmup(self.color_warmup)
            losses["semantic_color"] = weight * self._color_loss(maps.logits, self.pairs(batch, grid))
        scale = things_share(batch.points) if self.scale_by_things else 1.0
        return {name: loss * scale for name, loss in losses.items()}

    def prepare(self, batch: PointBatch) -> SemanticTargets:
        """Labels and pairs at the finest encoder map: the part of a labeler's `Preparation`."""
        grid = finest_grid(batch.input_size)
        return SemanticTargets(self, grid, self.labels(batch, grid), self.pairs(batch, grid))

    def labels(self, batch: PointBatch, grid: tuple[int, int]) -> Tensor:
        """(B, h, w) int64 of `dilated_label_maps` at a grid (height, width); those that the loader has made, if it has."""
        known = piece_of(batch, SemanticTargets, maker=self, grid=grid)
        return dilated_label_maps(batch, grid, self.dilation, self.reference_side) if known is None else known.labels

    def pairs(self, batch: PointBatch, grid: tuple[int, int]) -> list[ColorPairs]:
        """For each neighbourhood of the colour prior its `similar_pairs`, as `labels`; empty without the prior."""
        known = piece_of(batch, SemanticTargets, maker=self, grid=grid)
        if known is not None:
            return known.pairs
        if not self.color_weight:
            return []
        lab, valid = lab_at(batch.images, batch.padding, grid)
        spacing = scaled_cells(self.color_dilation, min(map(min, batch.sizes)), self.reference_side)
        return [
            similar_pairs(lab, valid, kernel, spacing, self.color_threshold, self.mask_border, self.color_falloff)
            for kernel in self.color_kernels
        ]

    def _color_loss(self, logits: list[Tensor], pairs: list[ColorPairs]) -> Tensor:
        """`pairwise_color_loss` of all layers and neighbourhoods."""
        total = logits[0].new_zeros(())
        for weight, similar in zip(self.color_kernels.values(), pairs, strict=True):
            total = total + weight * sum(pairwise_color_loss(z, similar) for z in logits)
        return total
