"""Learned semantics, but no learned instances: within a class, a pixel belongs to the nearest labelled pixel."""

from __future__ import annotations

from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.evidence import Evidence, euclidean, largest
from methods.base.head import LOSS_GROUPS
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.losses import Focal
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_losses import SemanticObjective
from methods.base.point_semantics import ImageSemantics, image_semantics
from methods.base.preparation import Preparation
from methods.base.semantic_branch import SemanticBranch, SemanticMaps
from methods.base.types import Categories, Features, PointBatch, Progress, PseudoLabels
from methods.ops.assignment import assign, point_distances
from methods.ops.rasterize import grid_size, resample


class SemanticsNearest(PseudoLabeler):
    """The semantic branch of PSPS with its losses; instances by Euclidean distance instead of the traversing distance.

    What a method's instance assignment adds over this row is not owed to its semantics.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        layers, heads, feedforward, levels, norm_epsilon: decoder of the semantic branch, see `SemanticBranch`.
        presence_weight, presence_focal, partial_weight, color_weight, color_kernel, color_dilation, color_threshold,
            color_falloff, mask_border, color_warmup: losses of the semantic branch; see `SemanticObjective`.
        scale_semantic_by_things: multiply these losses with the share of things among the targets.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        stuff_threshold: stuff pixels of a lower probability are void.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        warmup: share of the run over which the losses of the head grow linearly.
    """

    note = "control: learned semantics, instances by the nearest point"

    def __init__(
        self, categories: Categories, channels: int, *,
        layers: int = 6, heads: int = 8, feedforward: int = 1024,
        levels: int = 3, norm_epsilon: float = NORM_EPSILON,
        presence_weight: float = 2.0, presence_focal: Focal = Focal(), partial_weight: float = 1.0,
        color_weight: float = 3.0, color_kernel: int = 5, color_dilation: int = 2, color_threshold: float = 0.3,
        color_falloff: float = 0.5, color_warmup: float = 0.0, mask_border: bool = True,
        scale_semantic_by_things: bool = True, dilation: int = 17, reference_side: int | None = 600,
        stuff_threshold: float = 0.5, empty_box: float = EMPTY_BOX, warmup: float = 0.05,
    ):
        super().__init__(categories, channels)
        self.semantic = SemanticBranch(len(categories), channels, layers, heads, feedforward, levels, norm_epsilon)
        self.objective = SemanticObjective(
            presence_weight=presence_weight, presence_focal=presence_focal, partial_weight=partial_weight,
            color_weight=color_weight, color_kernels={color_kernel: 1.0}, color_dilation=color_dilation,
            color_threshold=color_threshold, color_falloff=color_falloff, color_warmup=color_warmup,
            mask_border=mask_border, dilation=dilation, reference_side=reference_side,
            scale_by_things=scale_semantic_by_things,
        )
        self.stuff_threshold, self.empty_box, self.warmup = stuff_threshold, empty_box, warmup

    def preparation(self) -> Preparation:
        return Preparation.of(self.objective.prepare)

    def predict_maps(self, features: Features, batch: PointBatch) -> SemanticMaps:
        return self.semantic(features)

    def semantic_logits(self, maps: SemanticMaps) -> Tensor:
        return maps.logits[-1]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(LOSS_GROUPS, progress.warmup(self.warmup))

    def pseudo_labels(self, maps: SemanticMaps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        labels = []
        for index, points in enumerate(batch.points):
            image = self._semantics(maps, batch, index)
            distances = point_distances(points.xy, points.target, points.num_targets, image.size)
            segment_ids = assign(distances, image.size, points.classes, image.pixel_classes())
            labels.append(dense_labels(segment_ids, points, batch.input_size, empty_box=self.empty_box))
        return labels

    def evidence(self, maps: SemanticMaps, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        about = "Largest probability among the classes that occur in the image; the class takes the pixel."
        found = []
        for index, points in enumerate(batch.points):
            image = self._semantics(maps, batch, index)
            probabilities = resample(image.probs, image.size, image.size, grid_size(image.size, None))
            found.append([
                Evidence("probability of the class", about, "sure", largest(probabilities), missing="no class"),
                euclidean(points, image.size, image.pixel_classes()),
            ])
        return found

    def _semantics(self, maps: SemanticMaps, batch: PointBatch, index: int) -> ImageSemantics:
        return image_semantics(
            maps.logits[-1][index], batch.points[index], batch.sizes[index], batch.input_size, self.categories.num_things,
            self.objective.dilation, self.objective.reference_side, self.stuff_threshold,
        )

    def losses(
        self, maps: SemanticMaps, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        return self.objective.losses(maps, batch, progress)
