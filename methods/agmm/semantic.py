"""AGMM on its own ground: its five losses on the class map of a semantic network. Wiring only."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from methods.agmm.losses import MixtureObjective, SparseLabels
from methods.agmm.memory import MovingCentres
from methods.agmm.mixture import HALF, Mixture
from methods.base.point_losses import class_presence, partial_cross_entropy
from methods.base.semantic_method import SegmentationMaps, SemanticMethod
from methods.base.types import Categories, PointBatch, Progress


class AGMMSemantic(SemanticMethod):
    """Adaptive Gaussian mixtures (Wu et al., CVPR 2023) with the network of the paper, DeepLabV3+.

    The mixture is made in the network's fused map f and lives in training only: it has no parameter. See the README here.

    Args:
        categories: of the data set.
        channels: width of f.
        resolution: losses and mixture at every ``"pixel"`` (slides), or at the cells of the network's ``"map"``.
        mixture: how the Gaussian maps are made, see `Mixture`.
        partial_weight: of L_seg, the cross-entropy of the labelled pixels.
        self_weight, label_weight, contrast_weight, absent_weight, contrast, factor: see `MixtureObjective`.
    """

    def __init__(
        self, categories: Categories, channels: int, *, resolution: Literal["pixel", "map"] = "pixel",
        mixture: Mixture = Mixture(), partial_weight: float = 1.0,
        self_weight: float = 1.0, label_weight: float = 1.0, contrast_weight: float = 1.0, absent_weight: float = 1.0,
        contrast: Literal["mean", "sum"] = "mean", factor: float = HALF,
    ):
        super().__init__(categories, channels, resolution)
        self.partial_weight = partial_weight
        self.objective = MixtureObjective(
            mixture, self_weight, label_weight, contrast_weight, absent_weight, contrast, factor
        )
        moving = mixture.centre == "moving"
        self.moving = MovingCentres(len(categories), channels, mixture.momentum) if moving else None

    def losses(self, maps: SegmentationMaps, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        at = self.supervised(maps, batch)
        # the classes of the whole image, also those whose labelled pixels a crop has cut off
        known = SparseLabels(at.labels, class_presence(batch.points, len(self.categories)) > 0, at.valid)
        moving = None if self.moving is None else self.moving.update(at.features, at.labels)
        mixture = self.objective.losses([at.logits], at.features, known, moving)
        losses = {f"mixture_{name}": loss for name, loss in mixture.items()}
        if self.partial_weight:
            losses["partial"] = self.partial_weight * partial_cross_entropy(at.logits, at.labels)
        return losses
