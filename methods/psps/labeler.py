"""PSPS as a labeler: semantic branch, pixel embedding, traversing distance, pseudo panoptic labels. Wiring only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.edge_maps import SobelEdgeMaker, edge_maps
from methods.base.embedding import EmbeddingProjector, Projection, metric_loss
from methods.base.evidence import Evidence, least, step_cost
from methods.base.head import LOSS_GROUPS
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.losses import Focal
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_losses import SemanticObjective
from methods.base.point_semantics import ImageSemantics, image_semantics, target_sources
from methods.base.preparation import Preparation
from methods.base.semantic_branch import SemanticBranch, SemanticMaps
from methods.base.types import Categories, Features, PointBatch, PointLabels, Progress, PseudoLabels
from methods.ops.assignment import DistanceScale, likeliest_instances, panoptic_segments
from methods.ops.edges import Sobel
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import grid_size, resample
from methods.psps.traversing import traversing_costs

EDGE_SOURCES = ("none", "sobel")


@dataclass(frozen=True, slots=True)
class PSPSMaps:
    """The branch maps of a step.

    Attributes:
        semantic: class logits of every layer.
        embedding: (B, D', h, w) unit-norm pixel embeddings.
    """

    semantic: SemanticMaps
    embedding: Tensor


class PSPS(PseudoLabeler):
    """Pointly-Supervised Panoptic Segmentation (Fan, Zhang and Tan, ECCV 2022).

    Every step, each thing pixel goes to the instance whose labelled pixel is nearest in traversing distance, weighted by the
    class compatibility; stuff pixels follow the semantic branch. See the README of this folder.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        layers, heads, feedforward, levels, norm_epsilon: decoder of the semantic branch, see `SemanticBranch`.
        embedding_channels: width of the pixel embedding.
        projector: what the pixel embedding is made from.
        presence_weight, presence_focal, partial_weight, color_weight, color_kernel, color_dilation, color_threshold,
            color_falloff, mask_border, color_warmup: losses of the semantic branch; see `SemanticObjective`.
        scale_semantic_by_things: multiply these losses with the share of things among the targets.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        metric_weight, temperature: contrastive loss of the pixel embedding.
        lambda_semantic, lambda_edge, lambda_manifold: weights of the terms of the traversing distance.
        edge_source: ``"sobel"`` or ``"none"``.
        directed: a step pays the edge strength of the cell that it enters; False: the maximum of both cells.
        sobel: how the edge map is normalised.
        stride: pixels per cell of the distance grid; None chooses by the short side (`grid_stride`).
        distance: how distances become likelihoods.
        class_compatibility: weigh instances by the probability of their class.
        stuff_threshold: stuff pixels of a lower probability are void.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        warmup: share of the run over which the losses of the head grow linearly (0.05 = 1 of 20 epochs).

    Raises:
        ValueError: unknown ``edge_source``.
    """

    def __init__(
        self, categories: Categories, channels: int, *,
        layers: int = 6, heads: int = 8, feedforward: int = 1024,
        levels: int = 3, norm_epsilon: float = NORM_EPSILON,
        presence_weight: float = 2.0, presence_focal: Focal = Focal(), partial_weight: float = 1.0,
        color_weight: float = 3.0, color_kernel: int = 5, color_dilation: int = 2, color_threshold: float = 0.3,
        color_falloff: float = 0.5, color_warmup: float = 0.0, mask_border: bool = True,
        scale_semantic_by_things: bool = True, dilation: int = 17, reference_side: int | None = 600,
        embedding_channels: int = 128, projector: Projection = Projection(),
        metric_weight: float = 1.0, temperature: float = 0.07,
        lambda_semantic: float = 1.0, lambda_edge: float = 0.1, lambda_manifold: float = 0.1,
        edge_source: Literal["none", "sobel"] = "sobel", directed: bool = True, sobel: Sobel = Sobel(),
        stride: int | None = None, distance: DistanceScale = DistanceScale(),
        class_compatibility: bool = True, stuff_threshold: float = 0.5, empty_box: float = EMPTY_BOX, warmup: float = 0.05,
    ):
        super().__init__(categories, channels)
        if edge_source not in EDGE_SOURCES:
            raise ValueError(f"Method 'psps' has no edge_source '{edge_source}'; it is one of {', '.join(EDGE_SOURCES)}.")
        self.semantic = SemanticBranch(len(categories), channels, layers, heads, feedforward, levels, norm_epsilon)
        self.projector = EmbeddingProjector(channels, embedding_channels, projector)
        self.objective = SemanticObjective(
            presence_weight=presence_weight, presence_focal=presence_focal, partial_weight=partial_weight,
            color_weight=color_weight, color_kernels={color_kernel: 1.0}, color_dilation=color_dilation,
            color_threshold=color_threshold, color_falloff=color_falloff, color_warmup=color_warmup,
            mask_border=mask_border, dilation=dilation, reference_side=reference_side,
            scale_by_things=scale_semantic_by_things,
        )
        self.metric_weight, self.temperature = metric_weight, temperature
        self.lambda_semantic, self.lambda_edge, self.lambda_manifold = lambda_semantic, lambda_edge, lambda_manifold
        self.edge_maker = SobelEdgeMaker(sobel, stride) if edge_source == "sobel" and lambda_edge else None
        self.directed, self.stride, self.distance = directed, stride, distance
        self.use_compatibility, self.stuff_threshold = class_compatibility, stuff_threshold
        self.empty_box, self.warmup = empty_box, warmup

    def preparation(self) -> Preparation:
        return Preparation.of(self.objective.prepare, self.edge_maker)

    def predict_maps(self, features: Features, batch: PointBatch) -> PSPSMaps:
        return PSPSMaps(self.semantic(features), self.projector(features))

    def semantic_logits(self, maps: PSPSMaps) -> Tensor:
        return maps.semantic.logits[-1]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(LOSS_GROUPS, progress.warmup(self.warmup))

    def pseudo_labels(self, maps: PSPSMaps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        images, _, distances = self._paths(maps, batch)
        return [
            self._labels(image, distance, points, batch.input_size)
            for image, distance, points in zip(images, distances, batch.points, strict=True)
        ]

    def evidence(self, maps: PSPSMaps, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        smallest = "Smallest traversing distance to a thing: what the cheapest path pays for semantics, edges and embedding."
        mean = "Mean cost of a step to the neighbours, the terms of the traversing distance; paths add it up."
        found = []
        _, costs, distances = self._paths(maps, batch)
        for cost, distance in zip(costs, distances, strict=True):
            found.append([
                Evidence("traversing distance", smallest, "far", least(distance), missing="no thing with a point"),
                Evidence("cost of a step", mean, "costly", step_cost(cost)),
            ])
        return found

    def _paths(self, maps: PSPSMaps, batch: PointBatch) -> tuple[list[ImageSemantics], list[Tensor], list[Tensor]]:
        """For each image its semantics, (gh, gw, 8) costs of steps, and (n_things, gh, gw) traversing distances."""
        images = [self._semantics(maps, batch, i) for i in range(len(batch.points))]
        edges = edge_maps(batch, self.edge_maker)
        costs = [self._costs(image, edge, maps, batch, i) for i, (image, edge) in enumerate(zip(images, edges, strict=True))]
        sources = [
            target_sources(points, points.is_thing, size, tuple(cost.shape[:2]))
            for points, size, cost in zip(batch.points, batch.sizes, costs, strict=True)
        ]
        return images, costs, batched_geodesic_distances(costs, sources)

    def _semantics(self, maps: PSPSMaps, batch: PointBatch, index: int) -> ImageSemantics:
        return image_semantics(
            maps.semantic.logits[-1][index], batch.points[index], batch.sizes[index], batch.input_size,
            self.categories.num_things, self.objective.dilation, self.objective.reference_side, self.stuff_threshold,
        )

    def _costs(
        self, image: ImageSemantics, edges: Tensor | None, maps: PSPSMaps, batch: PointBatch, index: int
    ) -> Tensor:
        size = batch.sizes[index]
        grid = grid_size(size, self.stride)
        embedding = None
        if self.lambda_manifold:
            embedding = resample(maps.embedding[index].detach().float(), size, batch.input_size, grid)
        return traversing_costs(
            resample(image.probs, size, size, grid), edges, embedding,
            self.lambda_semantic, self.lambda_edge, self.lambda_manifold, self.directed,
        )

    def _labels(
        self, image: ImageSemantics, distances: Tensor, points: PointLabels, input_size: tuple[int, int]
    ) -> PseudoLabels:
        instances = likeliest_instances(
            distances, image.probs, image.present, image.is_stuff, points.classes[points.is_thing], self.distance,
            self.use_compatibility,
        )
        segment_ids = panoptic_segments(instances, image.pixel_classes(), points.classes, points.is_thing)
        return dense_labels(segment_ids, points, input_size, empty_box=self.empty_box)

    def losses(
        self, maps: PSPSMaps, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        losses = self.objective.losses(maps.semantic, batch, progress)
        if self.metric_weight:
            metric = metric_loss(maps.embedding, labels, batch, self.categories.num_stuff, self.temperature)
            losses["metric"] = self.metric_weight * metric
        return losses
