"""FDD as a labeler: query generator, pseudo-label branch, auxiliary semantic branch. Wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.embedding import Projection
from methods.base.evidence import Evidence, largest, valid_part
from methods.base.head import LOSS_GROUPS
from methods.base.instance_losses import (
    ColorPrior,
    PointObjective,
    Supervision,
    among_present,
    class_label_maps,
    filled,
    has_choice,
    one_point_weight,
)
from methods.base.labeler import PseudoLabeler
from methods.base.labels import EMPTY_BOX
from methods.base.mask_decoder import NORM_EPSILON
from methods.base.point_losses import dilation_of
from methods.base.types import Categories, Features, PointBatch, PointLabels, Progress, PseudoLabels
from methods.fdd.branches import Branches
from methods.fdd.dense import labels_of_points, most_probable_targets, with_points
from methods.fdd.queries import LearnedMap, QueryFeatures, padded_queries
from methods.ops.instance_labels import instance_label_map
from methods.ops.rasterize import scaled_cells

QUERY_FEATURES = ("projected", "learned")
PANOPTIC_LABELS = ("pseudo", "points")


@dataclass(frozen=True, slots=True)
class FDDMaps:
    """The branch maps of a step.

    Attributes:
        instances: per supervised layer (B, N, h, w) logits, N the largest number of targets, at least 1.
        semantic: per supervised layer (B, K, h, w) class logits.
        labels: (B, h, w) int64 target of the labelled cells, `UNLABELLED` elsewhere.
        classes: (B, N) int64 class of each target.
        present: (B, N) bool, targets that exist.
    """

    instances: list[Tensor]
    semantic: list[Tensor]
    labels: Tensor
    classes: Tensor
    present: Tensor


class FDD(PseudoLabeler):
    """Fully Data-Driven pseudo labels (Li, Fan et al., AAAI 2024).

    Each target becomes a query, pooled from the encoder's features at its labelled cells; a mask decoder turns the queries
    into one map each, and their argmax is the pseudo label. See the README of this folder.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps.
        layers, heads, feedforward, levels, norm_epsilon, self_attention, key_positions, rectify: the decoders, see
            `MaskDecoder`.
        intermediate: supervise every layer; False: only the last.
        generator: what the query generator reads.
        generator_kernel: side of its convolutions in cells.
        query_norm: queries get mean 0 and variance 1, see `padded_queries`.
        query_features: ``"projected"`` encoder maps, or a ``"learned"`` embedding of places (Table 4).
        learned_size: height and width of that embedding.
        injection: generated vectors are the ``"query"`` or the ``"position"`` of a target (Table 3).
        share_layers, share_positions: what both branches have in common (Table 2).
        partial_weight, color_weight, self_training_weight: losses of the pseudo-label branch (Eq. 7).
        lambda_sem: weight of the semantic branch (Eq. 10); None: 1 in a batch with one labelled pixel per target, 0.1 in a
            batch with more.
        semantic_partial_weight, semantic_color_weight, semantic_self_training_weight: its losses (Eq. 9; Tables 5 and 6).
        color_kernel, color_dilation, color_threshold, color_falloff, mask_border: see `ColorPrior`.
        color_warmup: share of the run over which the colour prior grows linearly to its weight.
        dilation: side in pixels of the square around a labelled pixel, at a short side of ``reference_side``.
        reference_side: short side that pixel constants belong to; None takes them as they are.
        panoptic_labels: the head learns from the ``"pseudo"`` labels or from the ``"points"`` (Table 8).
        point_box: side in pixels of the box around a single point, at ``reference_side``, for the latter.
        keep_points: the dilated points overrule the argmax.
        stuff_threshold: pixels of a stuff target of a lower probability are void.
        empty_box: side of the box of a target that got no pixel, a share of the image's.
        warmup: share of the run over which the losses of the head grow linearly.
        self_training_warmup: share of the run over which self-training grows linearly.

    Raises:
        ValueError: unknown ``query_features``, ``injection`` or ``panoptic_labels``.
    """

    def __init__(
        self, categories: Categories, channels: int, *,
        layers: int = 6, heads: int = 8, feedforward: int = 1024, levels: int = 3, norm_epsilon: float = NORM_EPSILON,
        self_attention: bool = True, key_positions: bool = False, rectify: bool = True, intermediate: bool = True,
        generator: Projection = Projection(1, ("map",)), generator_kernel: int = 1,
        query_norm: bool = False,
        query_features: Literal["projected", "learned"] = "projected", learned_size: Sequence[int] = (75, 100),
        injection: Literal["query", "position"] = "query", share_layers: bool = True, share_positions: bool = True,
        partial_weight: float = 1.0, color_weight: float = 3.0, self_training_weight: float = 1.0,
        lambda_sem: float | None = None, semantic_partial_weight: float = 1.0, semantic_color_weight: float = 3.0,
        semantic_self_training_weight: float = 0.0,
        color_kernel: int = 5, color_dilation: int = 2, color_threshold: float = 0.3, color_falloff: float = 0.5,
        mask_border: bool = True, color_warmup: float = 0.0, dilation: int = 17, reference_side: int | None = 600,
        panoptic_labels: Literal["pseudo", "points"] = "pseudo", point_box: int = 400, keep_points: bool = False,
        stuff_threshold: float = 0.0, empty_box: float = EMPTY_BOX, warmup: float = 0.05,
        self_training_warmup: float = 0.05,
    ):
        super().__init__(categories, channels)
        _check("query_features", query_features, QUERY_FEATURES)
        _check("panoptic_labels", panoptic_labels, PANOPTIC_LABELS)
        learned = query_features == "learned"
        self.query_features = (
            LearnedMap(channels, learned_size) if learned else QueryFeatures(channels, generator, generator_kernel)
        )
        self.query_norm = query_norm
        self.branches = Branches(
            len(categories), channels, share_layers, share_positions, injection, layers=layers, heads=heads,
            feedforward=feedforward, levels=levels, self_attention=self_attention, norm_epsilon=norm_epsilon,
            key_positions=key_positions, rectify=rectify, intermediate=intermediate,
        )
        self.objective = PointObjective(partial_weight, color_weight, self_training_weight)
        self.semantic_objective = PointObjective(
            semantic_partial_weight, semantic_color_weight, semantic_self_training_weight
        )
        self.color_prior = ColorPrior(
            color_kernel, color_dilation, color_threshold, color_falloff, mask_border, reference_side
        )
        self.lambda_sem, self.color_warmup, self.warmup = lambda_sem, color_warmup, warmup
        self.self_training_warmup = self_training_warmup
        self.dilation, self.reference_side = dilation, reference_side
        self.from_points, self.point_box, self.keep_points = panoptic_labels == "points", point_box, keep_points
        self.stuff_threshold, self.empty_box = stuff_threshold, empty_box

    def predict_maps(self, features: Features, batch: PointBatch) -> FDDMaps:
        grid = tuple(features.maps[0].shape[-2:])
        labels = torch.stack([
            instance_label_map(points, size, batch.input_size, grid, self._side(size))
            for points, size in zip(batch.points, batch.sizes, strict=True)
        ])
        classes = filled([points.classes for points in batch.points])
        present = filled([torch.ones_like(points.is_thing) for points in batch.points], value=False)
        queries = padded_queries(self.query_features(features), labels, present, normalise=self.query_norm)
        return FDDMaps(
            self.branches.instances(features, queries, classes, present),
            self.branches.semantics(features), labels, classes, present,
        )

    def semantic_logits(self, maps: FDDMaps) -> Tensor:
        return maps.semantic[-1]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        """Points are right from the first step; pseudo labels are not."""
        return dict.fromkeys(LOSS_GROUPS, 1.0 if self.from_points else progress.warmup(self.warmup))

    def pseudo_labels(self, maps: FDDMaps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        of_image = self._labels_of_points if self.from_points else self._labels
        return [
            of_image(logits[: points.num_targets], points, size, batch.input_size)
            for logits, points, size in zip(maps.instances[-1].detach(), batch.points, batch.sizes, strict=True)
        ]

    def evidence(self, maps: FDDMaps, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        if self.from_points:
            return super().evidence(maps, batch, progress)
        about = "Probability of the most probable target: the softmax over the similarities of the pixel and the queries."
        found = []
        for logits, points, size in zip(maps.instances[-1].detach(), batch.points, batch.sizes, strict=True):
            probability = valid_part(logits[: points.num_targets], size, batch.input_size).softmax(dim=0)
            found.append([Evidence("probability of the target", about, "sure", largest(probability), missing="no target")])
        return found

    def _labels(
        self, logits: Tensor, points: PointLabels, size: tuple[int, int], input_size: tuple[int, int]
    ) -> PseudoLabels:
        segment_ids = most_probable_targets(logits, points.is_thing, size, input_size, self.stuff_threshold)
        if self.keep_points:
            segment_ids = with_points(segment_ids, points, self._side(size))
        return dense_labels(segment_ids, points, input_size, empty_box=self.empty_box)

    def _labels_of_points(
        self, logits: Tensor, points: PointLabels, size: tuple[int, int], input_size: tuple[int, int]
    ) -> PseudoLabels:
        box_side = scaled_cells(self.point_box, min(size), self.reference_side)
        return labels_of_points(points, size, input_size, self._side(size), box_side)

    def losses(
        self, maps: FDDMaps, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        grid = tuple(maps.labels.shape[-2:])
        factors = progress.warmup(self.color_warmup), progress.warmup(self.self_training_warmup)
        pairs, valid = self.color_prior.of(batch, grid)
        of_targets = Supervision.of(maps.labels, pairs, valid, has_choice(maps.present))
        of_classes = Supervision.of(class_label_maps(maps.labels, maps.classes), pairs, valid, maps.present.any(dim=1))
        instances = [among_present(logits, maps.present) for logits in maps.instances]
        weight = one_point_weight(batch.points) if self.lambda_sem is None else self.lambda_sem
        losses = {f"instance_{k}": v for k, v in self.objective.losses(instances, of_targets, *factors).items()}
        semantic = self.semantic_objective.losses(maps.semantic, of_classes, *factors)
        return losses | {f"semantic_{k}": weight * v for k, v in semantic.items()}

    def _side(self, size: tuple[int, int]) -> int:
        return dilation_of(size, self.dilation, self.reference_side)


def _check(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"Method 'fdd' has no {option} '{value}'; it is one of {', '.join(known)}.")
