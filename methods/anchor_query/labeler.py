"""Anchor-query distance as a labeler: our reading of EPLD. Wiring only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from methods.anchor_query.anchors import has_points
from methods.anchor_query.branch import AnchorBranch, AnchorMaps, AnchorOptions
from methods.anchor_query.distance import assignment_logits, point_hinge
from methods.anchor_query.hand_made import TransportSolver, at_pixels, target_supplies, transported
from methods.anchor_query.rounds import Form, RoundOptions
from methods.base.dense_labels import dense_labels
from methods.base.embedding import Projection
from methods.base.evidence import Evidence, euclidean, largest, least, valid_part
from methods.base.head import LOSS_GROUPS
from methods.base.instance_losses import (
    ColorPrior,
    PointObjective,
    Supervision,
    class_label_maps,
    filled,
    has_choice,
    one_point_weight,
)
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_semantics import ImageSemantics, image_semantics, target_sources
from methods.base.types import Categories, Features, PointBatch, Progress, PseudoLabels
from methods.ops.assignment import assign, point_distances
from methods.ops.edges import Sobel, path_costs
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import grid_size, resample

CHOICES = {
    "distance": ("attention", "euclidean", "geodesic", "transport"),
    "form": ("squared", "softplus"),
    "anchor_start": ("max", "mean", "embedding"),
    "anchor_per": ("target", "point"),
    "spatial_prior": ("none", "learned"),
}

PATH_DISTANCES = {
    "geodesic": "Length of the cheapest path over semantics and edges to a target, which takes the pixel.",
    "transport": "Length of the cheapest path over semantics and edges to a target, with the offset that transport gives "
    "each target; the nearest takes the pixel.",
}
"""Distance by rule -> what its map is."""


class AnchorQuery(PseudoLabeler):
    """Anchor-query distance, our reading of EPLD (Li, Fan and Zhang, ECCV 2024), whose body could not be read.

    Each target becomes an anchor, pooled from the features at its labelled cells. Anchors and cells have learned distances,
    as queries and keys of a cross-attention; each pixel takes the target at the smallest one. In rounds, anchors collect the
    cells that are nearest to them and see each other. See the README of this folder.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        distance: ``"attention"`` is learned; ``"euclidean"``, ``"geodesic"`` and ``"transport"`` are made by rule, and only
            the auxiliary branch is trained.
        form: how queries and keys become a distance, see `DistanceHead`.
        heads, feedforward, norm_epsilon: widths of the rounds' layers.
        projector: what the pixel features are made from.
        anchor_start, anchor_per: what the anchors are, see `AnchorOptions`.
        rounds, shared_rounds, aggregation, enhancement, temperature, learn_temperature: see `RoundOptions`.
        spatial_prior: ``"learned"`` adds a learned multiple of the Euclidean distance, inside a softplus.
        partial_weight, color_weight: losses of the distances to the targets, each summed over the rounds.
        self_training_weight: cross-entropy to the own nearest target, last round.
        hinge_weight, hinge_margin: see `point_hinge`, summed over the rounds.
        lambda_sem: weight of the auxiliary semantic branch; 0: there is none. None: 1 in a batch with one labelled pixel per
            target, 0.1 in a batch with more.
        semantic_partial_weight, semantic_color_weight: its losses.
        color_kernel, color_dilation, color_threshold, color_falloff, mask_border: see `ColorPrior`.
        color_warmup: share of the run over which the colour prior grows linearly to its weight.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        lambda_edge, sobel: edges in the steps of ``"geodesic"`` and ``"transport"``, see `path_costs`.
        stride: pixels per cell of their grid; None chooses by the short side (`grid_stride`).
        transport: how transport is solved.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        distance_stage: share of the run in which the head is not trained (two stages).
        warmup: share of the run, after that stage, over which the losses of the head grow linearly.
        self_training_warmup: share of the run over which self-training grows linearly.

    Raises:
        ValueError: an unknown word, or a distance along paths without the auxiliary branch that they need.
    """

    note = "our reading of EPLD, whose paper could not be read: no reproduction"

    def __init__(
        self, categories: Categories, channels: int, *,
        distance: Literal["attention", "euclidean", "geodesic", "transport"] = "attention", form: Form = "squared",
        heads: int = 8, feedforward: int = 1024, norm_epsilon: float = NORM_EPSILON,
        projector: Projection = Projection(3, ("map", "position")),
        anchor_start: Literal["max", "mean", "embedding"] = "max", anchor_per: Literal["target", "point"] = "target",
        rounds: int = 3, shared_rounds: bool = False, aggregation: bool = True, enhancement: bool = True,
        temperature: float = 1.0, learn_temperature: bool = False, spatial_prior: Literal["none", "learned"] = "none",
        partial_weight: float = 1.0, color_weight: float = 3.0, self_training_weight: float = 1.0,
        hinge_weight: float = 0.0, hinge_margin: float = 1.0,
        lambda_sem: float | None = None, semantic_partial_weight: float = 1.0, semantic_color_weight: float = 3.0,
        color_kernel: int = 5, color_dilation: int = 2, color_threshold: float = 0.3, color_falloff: float = 0.5,
        mask_border: bool = True, color_warmup: float = 0.0, dilation: int = 17, reference_side: int | None = 600,
        lambda_edge: float = 0.1, sobel: Sobel = Sobel(), stride: int | None = None,
        transport: TransportSolver = TransportSolver(),
        empty_box: float = EMPTY_BOX, distance_stage: float = 0.0, warmup: float = 0.05,
        self_training_warmup: float = 0.05,
    ):
        super().__init__(categories, channels)
        given = locals()
        for name, words in CHOICES.items():
            if given[name] not in words:
                raise ValueError(f"Method 'anchor_query' has no {name} '{given[name]}'; it is one of {', '.join(words)}.")
        learned, auxiliary = distance == "attention", lambda_sem != 0
        if distance in ("geodesic", "transport") and not auxiliary:
            raise ValueError(
                f"Method 'anchor_query' with distance={distance} follows paths over the auxiliary branch; lambda_sem must "
                "not be 0."
            )
        options = RoundOptions(
            rounds, shared_rounds, aggregation, enhancement, temperature, learn_temperature, spatial_prior == "learned", form
        )
        anchors = AnchorOptions(anchor_start, anchor_per, dilation, reference_side)
        self.branch = None
        if learned or auxiliary:
            self.branch = AnchorBranch(
                len(categories), channels, projector, heads, feedforward, norm_epsilon, options, anchors, learned, auxiliary
            )
        self.objective = PointObjective(partial_weight, color_weight)
        self.self_training = PointObjective(0.0, 0.0, self_training_weight)
        self.semantic_objective = PointObjective(semantic_partial_weight, semantic_color_weight)
        self.color_prior = ColorPrior(
            color_kernel, color_dilation, color_threshold, color_falloff, mask_border, reference_side
        )
        self.distance, self.hinge_weight, self.hinge_margin = distance, hinge_weight, hinge_margin
        self.lambda_sem, self.color_warmup = lambda_sem, color_warmup
        self.dilation, self.reference_side = dilation, reference_side
        self.lambda_edge, self.sobel, self.stride, self.solver = lambda_edge, sobel, stride, transport
        self.empty_box, self.distance_stage, self.warmup = empty_box, distance_stage, warmup
        self.self_training_warmup = self_training_warmup

    def predict_maps(self, features: Features | None, batch: PointBatch) -> AnchorMaps | None:
        return None if self.branch is None else self.branch(features, batch)

    def semantic_logits(self, maps: AnchorMaps | None) -> Tensor | None:
        if maps is None or not maps.semantic:
            return None
        return -maps.semantic[-1] / maps.temperature

    def head_weights(self, progress: Progress) -> dict[str, float]:
        return dict.fromkeys(LOSS_GROUPS, after_stage(progress, self.distance_stage, self.warmup))

    def pseudo_labels(self, maps: AnchorMaps | None, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        return [
            dense_labels(assign(distances, size, points.classes), points, batch.input_size, empty_box=self.empty_box)
            for distances, points, size in zip(self._distances(maps, batch), batch.points, batch.sizes, strict=True)
        ]

    def evidence(self, maps: AnchorMaps | None, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        if self.distance == "euclidean":
            return [[euclidean(points, size)] for points, size in zip(batch.points, batch.sizes, strict=True)]
        if self.distance == "attention":
            return [self._learned_evidence(maps, batch, i) for i in range(len(batch.points))]
        about = PATH_DISTANCES[self.distance]
        distances, _ = self._grid_distances(maps, batch)
        return [[Evidence("path distance", about, "far", least(each), missing="no point")] for each in distances]

    def _learned_evidence(self, maps: AnchorMaps, batch: PointBatch, index: int) -> list[Evidence]:
        """Of the last round, among the targets with a point."""
        size, present = batch.sizes[index], maps.present[index]
        distances = valid_part(maps.instance[-1][index, present].detach(), size, batch.input_size)
        shares = (-distances / maps.temperature.detach()).softmax(dim=0)
        nearest = "Smallest learned distance to an anchor, whose target takes the pixel; only the hinge trains its level."
        share = "Share of the pixel that its nearest target gets: the softmax of the negative distances."
        return [
            Evidence("learned distance", nearest, "far", least(distances), missing="no point"),
            Evidence("soft assignment", share, "sure", largest(shares), missing="no point"),
        ]

    def _distances(self, maps: AnchorMaps | None, batch: PointBatch) -> list[Iterable[Tensor]]:
        """For each image, n maps (height, width) of distances; inf = never."""
        if self.distance == "euclidean":
            pairs = zip(batch.points, batch.sizes, strict=True)
            return [point_distances(points.xy, points.target, points.num_targets, size) for points, size in pairs]
        if self.distance == "attention":
            return [self._learned_distances(maps, batch, i) for i in range(len(batch.points))]
        distances, chosen = self._grid_distances(maps, batch)
        return [at_pixels(*each) for each in zip(distances, chosen, batch.sizes, strict=True)]

    def _grid_distances(self, maps: AnchorMaps, batch: PointBatch) -> tuple[list[Tensor], list[Tensor]]:
        """For each image, (k, gh, gw) distances by rule to the k targets with a point, and which of all targets they are."""
        images = [self._semantics(maps, batch, i) for i in range(len(batch.points))]
        chosen = [has_points(points) for points in batch.points]
        distances = self._path_distances(images, chosen, batch)
        if self.distance == "transport":
            distances = self._transported(distances, images, chosen, batch)
        return distances, chosen

    def _learned_distances(self, maps: AnchorMaps, batch: PointBatch, index: int) -> Tensor:
        size, targets = batch.sizes[index], batch.points[index].num_targets
        distances = resample(maps.instance[-1][index, :targets].detach(), size, batch.input_size, size)
        return distances.masked_fill(~maps.present[index, :targets, None, None], torch.inf)

    def _semantics(self, maps: AnchorMaps, batch: PointBatch, index: int) -> ImageSemantics:
        return image_semantics(
            self.semantic_logits(maps)[index], batch.points[index], batch.sizes[index], batch.input_size,
            self.categories.num_things, self.dilation, self.reference_side, stuff_threshold=0.0,
        )

    def _path_distances(self, images: list[ImageSemantics], chosen: list[Tensor], batch: PointBatch) -> list[Tensor]:
        """Distances along paths to the chosen targets, on the grid of each image."""
        costs, sources = [], []
        for image, pixels, points, wanted in zip(images, batch.images, batch.points, chosen, strict=True):
            grid = grid_size(image.size, self.stride)
            probs = resample(image.probs, image.size, image.size, grid)
            colors = resample(pixels.float(), image.size, batch.input_size, grid)
            costs.append(path_costs(probs, colors, self.lambda_edge, self.sobel))
            sources.append(target_sources(points, wanted, image.size, grid))
        return batched_geodesic_distances(costs, sources)

    def _transported(
        self, distances: list[Tensor], images: list[ImageSemantics], chosen: list[Tensor], batch: PointBatch
    ) -> list[Tensor]:
        """The same distances with the offsets of an optimal transport plan; supplies follow the auxiliary branch."""
        busy = [i for i, each in enumerate(distances) if len(each)]
        supplies = []
        for i in busy:
            image, grid = images[i], tuple(distances[i].shape[1:])
            cell_classes = image.present[resample(image.probs, image.size, image.size, grid).argmax(dim=0)]
            supplies.append(target_supplies(distances[i], batch.points[i].classes[chosen[i]], cell_classes))
        moved = dict(zip(busy, transported([distances[i] for i in busy], supplies, self.solver), strict=True))
        return [moved.get(i, each) for i, each in enumerate(distances)]

    def losses(
        self, maps: AnchorMaps | None, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        if maps is None:
            return {}
        pairs, valid = self.color_prior.of(batch, tuple(maps.labels.shape[-2:]))
        color, own = progress.warmup(self.color_warmup), progress.warmup(self.self_training_warmup)
        losses: dict[str, Tensor] = {}
        if maps.instance:
            known = Supervision.of(maps.labels, pairs, valid, has_choice(maps.present))
            logits = [assignment_logits(each, maps.temperature, maps.present) for each in maps.instance]
            parts = self.objective.losses(logits, known, color)
            parts |= self.self_training.losses(logits[-1:], known, label_factor=own)
            if self.hinge_weight:
                hinges = (point_hinge(each, known.labels, maps.present, self.hinge_margin) for each in maps.instance)
                parts["hinge"] = self.hinge_weight * sum(hinges)
            losses |= {f"instance_{name}": loss for name, loss in parts.items()}
        if maps.semantic:
            classes = class_label_maps(maps.labels, filled([points.classes for points in batch.points]))
            known = Supervision.of(classes, pairs, valid, maps.present.any(dim=1))
            weight = one_point_weight(batch.points) if self.lambda_sem is None else self.lambda_sem
            logits = [-each / maps.temperature for each in maps.semantic]
            parts = self.semantic_objective.losses(logits, known, color)
            losses |= {f"semantic_{name}": weight * loss for name, loss in parts.items()}
        return losses


def after_stage(progress: Progress, stage: float, warmup: float) -> float:
    """0 in the first ``stage`` of a run, then growing linearly to 1 over ``warmup``, both shares of the run."""
    done = progress.fraction - stage
    if done < 0:
        return 0.0
    return 1.0 if warmup <= 0 else min(1.0, done / warmup)
