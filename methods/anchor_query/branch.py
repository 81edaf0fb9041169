"""The trained part of the method: pixel features, anchors of targets and of classes, and their distances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from methods.anchor_query.anchors import (
    Anchors,
    a_target_per_point,
    has_points,
    point_offsets,
    pooled_anchors,
    target_label_maps,
)
from methods.anchor_query.distance import nearest_of_owner
from methods.anchor_query.rounds import AnchorRounds, Cells, RoundOptions
from methods.base.embedding import LevelProjector, Projection
from methods.base.instance_losses import filled
from methods.base.memory import flattened
from methods.base.types import Features, PointBatch


@dataclass(frozen=True, slots=True)
class AnchorMaps:
    """The branch maps of a step.

    Attributes:
        instance: per round (B, N, h, w) float32 distances >= 0 of each cell to each target, N the largest number of targets
            but at least 1; empty where the distances of targets are not learned.
        semantic: per round (B, K, h, w) distances to each class; empty without the auxiliary branch.
        labels: (B, h, w) int64 target of the labelled cells, -1 elsewhere.
        present: (B, N) bool, targets with a labelled pixel.
        temperature: scalar τ.
    """

    instance: list[Tensor]
    semantic: list[Tensor]
    labels: Tensor
    present: Tensor
    temperature: Tensor


@dataclass(frozen=True, slots=True)
class AnchorOptions:
    """What the anchors are before the first round.

    Attributes:
        start: ``"max"`` or ``"mean"`` of the features at the labelled cells, each with the embedding of the class; or only
            the ``"embedding"``, which cannot tell instances of a class apart.
        per: an anchor per ``"target"``, or per labelled ``"point"``; the distance to a target is then the smallest.
        dilation, reference_side: square around a labelled pixel, see `methods.base.point_losses.dilation_of`.
    """

    start: Literal["max", "mean", "embedding"] = "max"
    per: Literal["target", "point"] = "target"
    dilation: int = 17
    reference_side: int | None = 600


class AnchorBranch(nn.Module):
    """Distances of cells to targets and, as auxiliary semantic branch, to classes, by the same rounds.

    Args:
        num_classes: K, things and stuff.
        channels: width D of the encoder maps.
        projection: what the pixel features are made from; gradient reaches the encoder.
        heads, feedforward, norm_epsilon: see `AnchorRounds`.
        rounds: options of the rounds.
        anchors: what the anchors are.
        instances: learn distances to targets.
        auxiliary: learn distances to classes.
    """

    def __init__(
        self, num_classes: int, channels: int, projection: Projection, heads: int, feedforward: int, norm_epsilon: float,
        rounds: RoundOptions, anchors: AnchorOptions, instances: bool = True, auxiliary: bool = True,
    ):
        super().__init__()
        self.anchors, self.instances = anchors, instances
        rounds = replace(rounds, spatial=rounds.spatial and instances)  # classes have no place
        self.spatial = rounds.spatial
        self.projector = LevelProjector(channels, channels, projection, detach=False)
        self.class_embedding = nn.Embedding(num_classes, channels)
        self.class_queries = nn.Embedding(num_classes, channels) if auxiliary else None
        self.rounds = AnchorRounds(num_classes, channels, heads, feedforward, norm_epsilon, rounds)

    def forward(self, features: Features, batch: PointBatch) -> AnchorMaps:
        """The distances of a batch with points."""
        maps = self.projector(features)
        grid = tuple(maps.shape[-2:])
        tokens, positions = flattened([maps]), flattened(features.positions[:1])
        cells = Cells(tokens, positions, ~features.padding[0].flatten(1), grid)
        labels = target_label_maps(batch, batch.points, grid, self.anchors.dilation, self.anchors.reference_side)
        present = filled([has_points(points) for points in batch.points], value=False)
        sets = []
        if self.instances:
            sets.append(self._target_anchors(maps, batch, labels, present))
        if self.class_queries is not None:
            sets.append(self._class_anchors(len(tokens)))
        distances = self.rounds(cells, sets, [self.class_embedding(each.classes) for each in sets])
        semantic = distances.pop() if self.class_queries is not None else []
        instance = distances.pop() if self.instances else []
        if self.anchors.per == "point":
            owner = filled([points.target for points in batch.points], value=present.shape[1])
            instance = [nearest_of_owner(each, owner, present.shape[1]) for each in instance]
        return AnchorMaps(instance, semantic, labels, present, self.rounds.temperature)

    def _target_anchors(self, maps: Tensor, batch: PointBatch, labels: Tensor, present: Tensor) -> Anchors:
        """An anchor per target, or per labelled pixel, of each image."""
        grid, points = tuple(maps.shape[-2:]), batch.points
        if self.anchors.per == "point":
            points = [a_target_per_point(each) for each in points]
            labels = target_label_maps(batch, points, grid, self.anchors.dilation, self.anchors.reference_side)
            present = filled([torch.ones_like(each.is_thing) for each in points], value=False)
        pooling = None if self.anchors.start == "embedding" else self.anchors.start
        classes = filled([each.classes for each in points])
        offsets = None
        if self.spatial:
            pairs = zip(points, batch.sizes, strict=True)
            offsets = filled([point_offsets(each, size, batch.input_size, grid) for each, size in pairs])
        vectors = pooled_anchors(maps, points, labels, pooling) + self.class_embedding(classes)
        return Anchors(vectors, classes, present, offsets)

    def _class_anchors(self, count: int) -> Anchors:
        """An anchor per class, the same for all ``count`` images."""
        vectors = self.class_queries.weight + self.class_embedding.weight
        classes = torch.arange(len(vectors), device=vectors.device).expand(count, -1)
        return Anchors(vectors.expand(count, -1, -1), classes, torch.ones_like(classes, dtype=torch.bool))
