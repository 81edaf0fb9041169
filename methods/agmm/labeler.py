"""AGMM in the common network: mixture losses on the semantic branch, an assignment step for instances. Wiring only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from methods.agmm.losses import MixtureObjective, SparseLabels
from methods.agmm.memory import MovingCentres
from methods.agmm.mixture import HALF, Mixture
from methods.base.dense_labels import dense_labels
from methods.base.embedding import LevelProjector, Projection
from methods.base.evidence import Evidence, split_evidence, valid_part
from methods.base.head import LOSS_GROUPS
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.losses import Focal
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_losses import SemanticObjective, class_presence, things_share
from methods.base.point_semantics import image_semantics
from methods.base.preparation import Preparation
from methods.base.semantic_branch import SemanticBranch, SemanticMaps
from methods.base.types import Categories, Features, PointBatch, Progress, PseudoLabels
from methods.ops.edges import Sobel
from methods.ops.instance_split import ClassifiedImage, InstanceSplit
from methods.ops.unit_transport import Solver

FEATURES = ("encoder", "projector")


@dataclass(frozen=True, slots=True)
class AGMMMaps:
    """The branch maps of a step.

    Attributes:
        semantic: class logits of every layer.
        features: (B, D', h, w) what the mixture is made in, f of the slides.
        padding: (B, h, w) bool, True where padded.
    """

    semantic: SemanticMaps
    features: Tensor
    padding: Tensor


class AGMM(PseudoLabeler):
    """Adaptive Gaussian mixtures (Wu et al., CVPR 2023), carried over to panoptic segmentation.

    AGMM predicts classes only. Here its losses take the place of the colour prior in the semantic branch of PSPS, and an
    assignment step, which is part of what is measured, turns the class map into panoptic labels. See the README here.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        layers, heads, feedforward, levels, norm_epsilon: decoder of the semantic branch, see `SemanticBranch`.
        presence_weight, presence_focal, partial_weight: class presence, and cross-entropy of the labelled cells (L_seg).
        features: the mixture is made in the finest map of the ``"encoder"``, or in that of a ``"projector"``.
        embedding_channels, projector: width of the projector and what it reads; of ``features="projector"``.
        mixture: how the Gaussian maps are made, see `Mixture`.
        self_weight, label_weight, contrast_weight, absent_weight, contrast, factor: see `MixtureObjective`.
        color_weight, color_kernel, color_dilation, color_threshold, color_falloff, mask_border, color_warmup: colour prior
            beside the mixture, see `SemanticObjective`; off by default.
        scale_semantic_by_things: multiply all losses with the share of things among the targets, as in PSPS.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        assignment, lambda_edge, sobel, stride, transport: the assignment step, see `InstanceSplit`.
        stuff_threshold: stuff pixels of a lower probability are void.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        warmup: share of the run over which the losses of the head grow linearly.

    Raises:
        ValueError: an option that is one of several words is none of them.
    """

    note = "AGMM predicts classes; instances are those of the assignment step"

    def __init__(
        self, categories: Categories, channels: int, *,
        layers: int = 6, heads: int = 8, feedforward: int = 1024,
        levels: int = 3, norm_epsilon: float = NORM_EPSILON,
        presence_weight: float = 2.0, presence_focal: Focal = Focal(), partial_weight: float = 1.0,
        features: Literal["encoder", "projector"] = "encoder", embedding_channels: int = 128,
        projector: Projection = Projection(), mixture: Mixture = Mixture(),
        self_weight: float = 1.0, label_weight: float = 1.0, contrast_weight: float = 1.0, absent_weight: float = 1.0,
        contrast: Literal["mean", "sum"] = "mean", factor: float = HALF,
        color_weight: float = 0.0, color_kernel: int = 5, color_dilation: int = 2, color_threshold: float = 0.3,
        color_falloff: float = 0.5, color_warmup: float = 0.0, mask_border: bool = True,
        scale_semantic_by_things: bool = True, dilation: int = 17, reference_side: int | None = 600,
        assignment: Literal["nearest", "geodesic", "transport"] = "nearest", lambda_edge: float = 0.1,
        sobel: Sobel = Sobel(), stride: int | None = None, transport: Solver = Solver(),
        stuff_threshold: float = 0.5, empty_box: float = EMPTY_BOX, warmup: float = 0.05,
    ):
        super().__init__(categories, channels)
        if features not in FEATURES:
            raise ValueError(f"Method 'agmm' has no features '{features}'; it is one of {', '.join(FEATURES)}.")
        self.semantic = SemanticBranch(len(categories), channels, layers, heads, feedforward, levels, norm_epsilon)
        own = features == "projector"
        self.projector = LevelProjector(channels, embedding_channels, projector, detach=False) if own else None
        self.moving = None
        if mixture.centre == "moving":
            width = embedding_channels if own else channels
            self.moving = MovingCentres(len(categories), width, mixture.momentum)
        self.objective = SemanticObjective(
            presence_weight=presence_weight, presence_focal=presence_focal, partial_weight=partial_weight,
            color_weight=color_weight, color_kernels={color_kernel: 1.0}, color_dilation=color_dilation,
            color_threshold=color_threshold, color_falloff=color_falloff, color_warmup=color_warmup,
            mask_border=mask_border, dilation=dilation, reference_side=reference_side,
            scale_by_things=scale_semantic_by_things,
        )
        self.mixture_objective = MixtureObjective(
            mixture, self_weight, label_weight, contrast_weight, absent_weight, contrast, factor
        )
        self.split = InstanceSplit(assignment, lambda_edge, sobel, stride, transport)
        self.stuff_threshold, self.empty_box, self.warmup = stuff_threshold, empty_box, warmup

    def preparation(self) -> Preparation:
        return Preparation.of(self.objective.prepare)

    def predict_maps(self, features: Features, batch: PointBatch) -> AGMMMaps:
        mixed = features.maps[0] if self.projector is None else self.projector(features)
        return AGMMMaps(self.semantic(features), mixed, features.padding[0])

    def semantic_logits(self, maps: AGMMMaps) -> Tensor:
        return maps.semantic.logits[-1]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(LOSS_GROUPS, progress.warmup(self.warmup))

    def pseudo_labels(self, maps: AGMMMaps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        return [
            dense_labels(segment_ids, points, batch.input_size, empty_box=self.empty_box)
            for segment_ids, points in zip(self.split.segments(self._images(maps, batch)), batch.points, strict=True)
        ]

    def evidence(self, maps: AGMMMaps, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        about = "Largest Gaussian of the mixture: how near the pixel's feature is to the mean of a class's labelled pixels."
        moving = None if self.moving is None else self.moving.centres
        known = self._sparse_labels(maps, batch)
        gaussians = self.mixture_objective.gaussians(maps.semantic.logits[-1], maps.features, known, moving)
        found = []
        for each, size, assigned in zip(
            gaussians.amax(dim=1), batch.sizes, split_evidence(self.split, self._images(maps, batch)), strict=True
        ):
            likeness = valid_part(each[None], size, batch.input_size)[0]
            found.append([Evidence("Gaussian mixture", about, "like a labelled pixel", likeness), assigned])
        return found

    def _images(self, maps: AGMMMaps, batch: PointBatch) -> list[ClassifiedImage]:
        """What the assignment step is given."""
        images = []
        for logits, rgb, points, size in zip(
            maps.semantic.logits[-1], batch.images, batch.points, batch.sizes, strict=True
        ):
            semantics = image_semantics(
                logits, points, size, batch.input_size, self.categories.num_things,
                self.objective.dilation, self.objective.reference_side, self.stuff_threshold,
            )
            images.append(ClassifiedImage(rgb, semantics.pixel_classes(), semantics.probs, points))
        return images

    def losses(
        self, maps: AGMMMaps, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        known = self._sparse_labels(maps, batch)
        moving = None if self.moving is None else self.moving.update(maps.features, known.labels)
        mixture = self.mixture_objective.losses(maps.semantic.logits, maps.features, known, moving)
        scale = things_share(batch.points) if self.objective.scale_by_things else 1.0
        losses = self.objective.losses(maps.semantic, batch, progress)
        return losses | {f"mixture_{name}": scale * loss for name, loss in mixture.items()}

    def _sparse_labels(self, maps: AGMMMaps, batch: PointBatch) -> SparseLabels:
        labels = self.objective.labels(batch, tuple(maps.padding.shape[-2:]))
        return SparseLabels(labels, class_presence(batch.points, len(self.categories)) > 0, ~maps.padding | (labels >= 0))
