"""The floor: every pixel belongs to the nearest labelled pixel. No parameter, no image content."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.evidence import Evidence, euclidean
from methods.base.labeler import PseudoLabeler
from methods.base.types import Features, PointBatch, Progress, PseudoLabels
from methods.ops.assignment import assign, point_distances


class NearestPoint(PseudoLabeler):
    """Each pixel takes the target, thing or stuff alike, whose labelled pixel is nearest (Euclidean)."""

    note = "control: no image content is used"

    def predict_maps(self, features: Features | None, batch: PointBatch) -> None:
        return None

    def pseudo_labels(self, maps: Any, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        labels = []
        for points, size in zip(batch.points, batch.sizes, strict=True):
            distances = point_distances(points.xy, points.target, points.num_targets, size)
            labels.append(dense_labels(assign(distances, size, points.classes), points, batch.input_size))
        return labels

    def evidence(self, maps: Any, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        return [[euclidean(points, size)] for points, size in zip(batch.points, batch.sizes, strict=True)]

    def losses(
        self, maps: Any, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        return {}
