"""Point2Mask as a labeler: semantic and boundary maps, path costs, unit numbers, optimal transport. Wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.edge_maps import SobelEdgeMaker, edge_maps
from methods.base.embedding import EmbeddingProjector, LevelProjector, Projection, metric_loss
from methods.base.evidence import Evidence, valid_part
from methods.base.head import LOSS_GROUPS
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.losses import Focal
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_losses import SemanticObjective, things_share
from methods.base.point_semantics import ImageSemantics, image_semantics, target_sources
from methods.base.preparation import Preparation
from methods.base.semantic_branch import SemanticBranch, SemanticMaps
from methods.base.types import Categories, Features, PointBatch, PointLabels, Progress, PseudoLabels
from methods.ops.assignment import DistanceScale, class_compatibility, panoptic_segments
from methods.ops.edges import Sobel
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import grid_size, resample
from methods.point2mask.boundary import BoundaryProjection, boundary_loss
from methods.point2mask.cost import paid_costs, path_costs, supply_costs
from methods.point2mask.low_boundary import LOW_BOUNDARIES, StructuredEdgeMaker, StructuredEdges
from methods.point2mask.transport_labels import Solver, claimed_segments, transport_offsets, transported_owners
from methods.point2mask.tree_energy import CELL_SETS
from methods.point2mask.tree_loss import color_tree_loss, prepared_trees
from methods.point2mask.units import Counting, Market, unit_numbers

CHOICES = {
    "tree_normalizer": CELL_SETS,
    "low_boundary": LOW_BOUNDARIES,
    "suppliers": ("all", "things"),
    "units": ("centroid", "nearest", "equal"),
    "count_rule": ("distance", "likelihood"),
    "transport_cost": ("points", "centroids"),
    "assignment": ("transport", "minimum_cost"),
    "cost_normalization": ("none", "max"),
    "solver": ("sinkhorn", "converged"),
    "resolution": ("full", "grid"),
}


@dataclass(frozen=True, slots=True)
class Point2MaskMaps:
    """The branch maps of a step.

    Attributes:
        semantic: class logits of every layer.
        boundary: (B, h, w) boundary logits, or None without the decoder.
        embedding: (B, D', h, w) unit-norm pixel embeddings, or None without the projector.
    """

    semantic: SemanticMaps
    boundary: Tensor | None
    embedding: Tensor | None


class Point2Mask(PseudoLabeler):
    """Point2Mask (Li et al., ICCV 2023).

    Every step, the labelled points supply pixels: each has a unit number, a pixel costs what the cheapest path to it costs
    through the semantic and the boundary maps, and optimal transport gives every pixel its supplier. See the README here.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        layers, heads, feedforward, levels, norm_epsilon: decoder of the semantic branch, see `SemanticBranch`.
        presence_weight, presence_focal, partial_weight, color_weight, color_dilation, color_threshold, color_falloff,
            color_warmup, mask_border: losses of the semantic branch; see `SemanticObjective`.
        color_kernel_weights: weights of the colour loss with neighbourhoods of 3, 5, ... cells.
        tree_weight, tree_sigma, tree_normalizer: RGB tree loss, see `color_tree_loss`.
        tree_warmup: share of the run over which it grows linearly to its weight.
        scale_semantic_by_things: multiply all semantic losses with the share of things among the targets.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        high_boundary: the boundary decoder's map is part of the cost; False: there is no decoder.
        boundary_decoder: what the decoder is made from.
        boundary_detach: the boundary loss has no gradient in the encoder.
        boundary_weight: of `boundary_loss`.
        low_boundary: ``"sobel"``, ``"structured_edges"`` or ``"none"``, edges of the image that are part of the cost.
        low_boundary_directed: a step pays the strength of the cell that it enters; False: the maximum of both cells.
        sobel, structured_edges: how these maps are made.
        embedding_channels, projector: the pixel embedding; there is none if ``lambda_manifold`` is 0.
        metric_weight, temperature: its contrastive loss.
        beta: weight of each boundary map in the cost.
        lambda_manifold: weight of the embedding in the cost.
        stride: pixels per cell of the distance grid; None chooses by the short side (`grid_stride`).
        distance: constants of the distances.
        suppliers: ``"all"`` targets, or ``"things"``: then stuff follows the semantic branch.
        units, centroid_iterations, centroid_gate, count_rule: unit numbers, see `Counting`.
        transport_cost: distances from the ``"points"`` or from the ``"centroids"`` that the units were counted with.
        transport_warmup: share of the run in which units are counted as with ``units="nearest"``, over all pixels.
        assignment: ``"transport"``, or ``"minimum_cost"``: the supplier at the smallest cost, without unit numbers.
        cost_normalization: ``"none"``, or ``"max"``: divide costs by their maximum in the image.
        solver, epsilon, iterations, tolerance, resolution: see `Solver`.
        stuff_threshold: stuff pixels of a lower probability are void.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        warmup: share of the run over which the losses of the head, and the boundary loss, grow linearly.

    Raises:
        ValueError: an option that is one of several words is none of them.
    """

    def __init__(
        self, categories: Categories, channels: int, *,
        layers: int = 6, heads: int = 8, feedforward: int = 1024,
        levels: int = 3, norm_epsilon: float = NORM_EPSILON,
        presence_weight: float = 2.0, presence_focal: Focal = Focal(), partial_weight: float = 1.0,
        color_weight: float = 3.0, color_kernel_weights: Sequence[float] = (1.0,), color_dilation: int = 2,
        color_threshold: float = 0.3, color_falloff: float = 0.5, color_warmup: float = 0.0, mask_border: bool = True,
        tree_weight: float = 3.0, tree_sigma: float = 0.02, tree_normalizer: Literal["all", "unlabelled"] = "all",
        tree_warmup: float = 0.0, scale_semantic_by_things: bool = True, dilation: int = 17,
        reference_side: int | None = 600, high_boundary: bool = True,
        boundary_decoder: BoundaryProjection = BoundaryProjection(), boundary_detach: bool = True,
        boundary_weight: float = 1.0, low_boundary: Literal["sobel", "structured_edges", "none"] = "sobel",
        low_boundary_directed: bool = False, sobel: Sobel = Sobel(), structured_edges: StructuredEdges = StructuredEdges(),
        embedding_channels: int = 128, projector: Projection = Projection(),
        metric_weight: float = 1.0, temperature: float = 0.07, beta: float = 0.1, lambda_manifold: float = 0.1,
        stride: int | None = None, distance: DistanceScale = DistanceScale(),
        suppliers: Literal["all", "things"] = "all", units: Literal["centroid", "nearest", "equal"] = "centroid",
        centroid_iterations: int = 1, centroid_gate: bool = False,
        count_rule: Literal["distance", "likelihood"] = "distance",
        transport_cost: Literal["points", "centroids"] = "points", transport_warmup: float = 0.378,
        assignment: Literal["transport", "minimum_cost"] = "transport",
        cost_normalization: Literal["none", "max"] = "none", solver: Literal["sinkhorn", "converged"] = "sinkhorn",
        epsilon: float = 1e-3, iterations: int = 80, tolerance: float = 1e-6, resolution: Literal["full", "grid"] = "grid",
        stuff_threshold: float = 0.5, empty_box: float = EMPTY_BOX, warmup: float = 0.46,
    ):
        super().__init__(categories, channels)
        given = locals()
        for name, words in CHOICES.items():
            if given[name] not in words:
                raise ValueError(f"Method 'point2mask' has no {name} '{given[name]}'; it is one of {', '.join(words)}.")
        self.semantic = SemanticBranch(len(categories), channels, layers, heads, feedforward, levels, norm_epsilon)
        self.boundary = LevelProjector(channels, 1, boundary_decoder, boundary_detach) if high_boundary else None
        self.projector = EmbeddingProjector(channels, embedding_channels, projector) if lambda_manifold else None
        self.objective = SemanticObjective(
            presence_weight=presence_weight, presence_focal=presence_focal, partial_weight=partial_weight,
            color_weight=color_weight, color_dilation=color_dilation, color_threshold=color_threshold,
            color_kernels={3 + 2 * i: float(weight) for i, weight in enumerate(color_kernel_weights) if weight},
            color_falloff=color_falloff, color_warmup=color_warmup, mask_border=mask_border, dilation=dilation,
            reference_side=reference_side, scale_by_things=scale_semantic_by_things,
        )
        self.tree_weight, self.tree_sigma = tree_weight, tree_sigma
        self.tree_normalizer, self.tree_warmup = tree_normalizer, tree_warmup
        self.boundary_weight, self.metric_weight, self.temperature = boundary_weight, metric_weight, temperature
        makers = {"sobel": SobelEdgeMaker(sobel, stride), "structured_edges": StructuredEdgeMaker(structured_edges, stride)}
        self.edge_maker, self.low_boundary_directed = makers.get(low_boundary), low_boundary_directed
        self.beta, self.lambda_manifold, self.stride, self.distance = beta, lambda_manifold, stride, distance
        self.stuff_is_supplied = suppliers == "all"
        self.counting = Counting(units, centroid_iterations, centroid_gate, count_rule)
        self.cost_from_centroids, self.transport_warmup = transport_cost == "centroids", transport_warmup
        self.transports, self.normalise_costs = assignment == "transport", cost_normalization == "max"
        self.solver = Solver(solver, epsilon, iterations, tolerance, resolution)
        self.stuff_threshold, self.empty_box, self.warmup = stuff_threshold, empty_box, warmup

    def preparation(self) -> Preparation:
        return Preparation.of(self.objective.prepare, prepared_trees if self.tree_weight else None, self.edge_maker)

    def predict_maps(self, features: Features, batch: PointBatch) -> Point2MaskMaps:
        boundary = None if self.boundary is None else self.boundary(features)[:, 0].float()
        return Point2MaskMaps(self.semantic(features), boundary, self.projector and self.projector(features))

    def semantic_logits(self, maps: Point2MaskMaps) -> Tensor:
        return maps.semantic.logits[-1]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(LOSS_GROUPS, progress.warmup(self.warmup))

    def pseudo_labels(self, maps: Point2MaskMaps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        images, costs, offsets = self._supply(maps, batch, progress)
        return [
            self._labels(image, cost, offset, points, batch.input_size)
            for image, cost, offset, points in zip(images, costs, offsets, batch.points, strict=True)
        ]

    def evidence(self, maps: Point2MaskMaps, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        about = "Probability of a boundary, from the boundary decoder; paths pay for it."
        found: list[list[Evidence]] = [[] for _ in batch.points]
        if maps.boundary is not None:
            for logits, size, kept in zip(maps.boundary.detach(), batch.sizes, found, strict=True):
                boundary = torch.sigmoid(valid_part(logits[None], size, batch.input_size)[0])
                kept.append(Evidence("boundary", about, "a boundary", boundary))
        about = "Cost of the supplier that the pixel was assigned to: the length of the cheapest path from it."
        _, costs, offsets = self._supply(maps, batch, progress)
        for cost, offset, kept in zip(costs, offsets, found, strict=True):
            kept.append(Evidence("transport cost", about, "far", paid_costs(cost, offset), missing="no supplier"))
        return found

    def _supply(
        self, maps: Point2MaskMaps, batch: PointBatch, progress: Progress
    ) -> tuple[list[ImageSemantics], list[Tensor], list[Tensor]]:
        """For each image its semantics, (n, gh, gw) costs of the suppliers on the grid, and their (n,) offsets."""
        images = [self._semantics(maps, batch, i) for i in range(len(batch.points))]
        edges = edge_maps(batch, self.edge_maker)
        steps = [self._steps(image, edge, maps, batch, i) for i, (image, edge) in enumerate(zip(images, edges, strict=True))]
        suppliers = [self._supplies(points) for points in batch.points]
        sources = [
            target_sources(points, chosen, image.size, tuple(costs.shape[:2]))
            for points, chosen, image, costs in zip(batch.points, suppliers, images, steps, strict=True)
        ]
        distances = batched_geodesic_distances(steps, sources)
        if self.transports:
            costs, offsets = self._transport(images, batch, steps, distances, progress)
        else:
            costs = self._costs(distances)
            offsets = [cost.new_zeros(len(cost)) for cost in costs]
        return images, costs, offsets

    def _supplies(self, points: PointLabels) -> Tensor:
        """(n,) bool, the targets that supply pixels."""
        return torch.ones_like(points.is_thing) if self.stuff_is_supplied else points.is_thing

    def _costs(self, distances: list[Tensor]) -> list[Tensor]:
        return [supply_costs(each, self.distance, self.normalise_costs) for each in distances]

    def _semantics(self, maps: Point2MaskMaps, batch: PointBatch, index: int) -> ImageSemantics:
        return image_semantics(
            maps.semantic.logits[-1][index], batch.points[index], batch.sizes[index], batch.input_size,
            self.categories.num_things, self.objective.dilation, self.objective.reference_side, self.stuff_threshold,
        )

    def _steps(
        self, image: ImageSemantics, low: Tensor | None, maps: Point2MaskMaps, batch: PointBatch, index: int
    ) -> Tensor:
        """(gh, gw, 8) cost of the steps on the grid of an image."""
        size, grid = image.size, grid_size(image.size, self.stride)

        def on_grid(values: Tensor) -> Tensor:
            return resample(values.detach().float(), size, batch.input_size, grid)

        high = None if maps.boundary is None else torch.sigmoid(on_grid(maps.boundary[index, None]))[0]
        embedding = None if maps.embedding is None else on_grid(maps.embedding[index])
        return path_costs(
            resample(image.probs, size, size, grid), high, low, embedding,
            self.beta, self.lambda_manifold, self.low_boundary_directed,
        )

    def _transport(
        self, images: list[ImageSemantics], batch: PointBatch, steps: list[Tensor], distances: list[Tensor],
        progress: Progress,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The costs that pixels are transported over, and the offsets of the suppliers."""
        first = progress.fraction < self.transport_warmup
        counting = replace(self.counting, units="nearest") if first else self.counting
        markets = [
            self._market(image, points, everywhere=first or self.stuff_is_supplied)
            for image, points in zip(images, batch.points, strict=True)
        ]
        supplies, counted = unit_numbers(markets, steps, distances, counting, self.distance)
        costs = self._costs(counted if self.cost_from_centroids else distances)
        return costs, transport_offsets(costs, supplies, [market.consumers for market in markets], self.solver)

    def _market(self, image: ImageSemantics, points: PointLabels, everywhere: bool) -> Market:
        chosen = torch.nonzero(self._supplies(points))[:, 0]
        if everywhere:
            consumers = torch.ones(image.size, dtype=torch.bool, device=image.probs.device)
        else:
            classes = image.pixel_classes()
            consumers = (classes >= 0) & (classes < self.categories.num_things)
        weights = None
        if self.counting.rule == "likelihood" and self.stuff_is_supplied:
            weights = image.probs[torch.searchsorted(image.present, points.classes)]
        elif self.counting.rule == "likelihood":
            weights = class_compatibility(image.probs, image.present, image.is_stuff, points.classes[chosen])
        places = [points.xy[points.target == index] for index in chosen]
        return Market(places, consumers, weights)

    def _labels(
        self, image: ImageSemantics, costs: Tensor, offsets: Tensor, points: PointLabels, input_size: tuple[int, int]
    ) -> PseudoLabels:
        if self.stuff_is_supplied:
            rows = torch.searchsorted(image.present, points.classes)
            segment_ids = claimed_segments(costs, offsets, image.probs, rows, points.is_thing, self.stuff_threshold)
        else:
            owners = transported_owners(costs, offsets, image.size)
            segment_ids = panoptic_segments(owners, image.pixel_classes(), points.classes, points.is_thing)
        return dense_labels(segment_ids, points, input_size, empty_box=self.empty_box)

    def losses(
        self, maps: Point2MaskMaps, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        losses = self.objective.losses(maps.semantic, batch, progress)
        if self.tree_weight:
            scale = things_share(batch.points) if self.objective.scale_by_things else 1.0
            tree = color_tree_loss(
                maps.semantic.logits, batch, self.tree_sigma, self.tree_normalizer,
                self.objective.dilation, self.objective.reference_side,
            )
            losses["semantic_tree"] = self.tree_weight * progress.warmup(self.tree_warmup) * scale * tree
        if maps.boundary is not None and self.boundary_weight:
            weight = self.boundary_weight * progress.warmup(self.warmup)
            losses["boundary"] = weight * boundary_loss(maps.boundary, labels)
        if maps.embedding is not None and self.metric_weight:
            metric = metric_loss(maps.embedding, labels, batch, self.categories.num_stuff, self.temperature)
            losses["metric"] = self.metric_weight * metric
        return losses
