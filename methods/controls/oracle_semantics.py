"""Ground-truth semantics: what an assignment step alone can reach from the points."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.evidence import Evidence, split_evidence
from methods.base.labeler import PseudoLabeler
from methods.base.types import Categories, Features, MaskBatch, Progress, PseudoLabels
from methods.ops.edges import Sobel
from methods.ops.instance_split import ClassifiedImage, InstanceSplit
from methods.ops.unit_transport import Solver


class OracleSemantics(PseudoLabeler):
    """The true class of every pixel is given; instances are those of an assignment step.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps (unused).
        assignment: ``"nearest"``, ``"geodesic"`` or ``"transport"``, see `InstanceSplit`; paths run through one-hot
            semantics.
        lambda_edge: weight of the edges in the distance along a path; the semantic term has weight 1.
        stride: pixels per cell of the distance grid; None chooses by the short side (`grid_stride`).
        sobel: how the edge map is normalised.
        transport: how transport is solved.

    Raises:
        ValueError: unknown ``assignment``.
    """

    supervision = "masks"
    note = "evaluation only: reads ground-truth semantics"

    def __init__(
        self, categories: Categories, channels: int, *,
        assignment: Literal["nearest", "geodesic", "transport"] = "nearest", lambda_edge: float = 0.1,
        stride: int | None = None, sobel: Sobel = Sobel(), transport: Solver = Solver(),
    ):
        super().__init__(categories, channels)
        self.split = InstanceSplit(assignment, lambda_edge, sobel, stride, transport)

    def predict_maps(self, features: Features | None, batch: MaskBatch) -> None:
        return None

    def pseudo_labels(self, maps: Any, batch: MaskBatch, progress: Progress) -> list[PseudoLabels]:
        images = _classified(batch)
        return [
            dense_labels(ids, image.points, batch.input_size, target.ignore[: image.size[0], : image.size[1]])
            for ids, image, target in zip(self.split.segments(images), images, batch.targets, strict=True)
        ]

    def evidence(self, maps: Any, batch: MaskBatch, progress: Progress) -> list[list[Evidence]]:
        return [[each] for each in split_evidence(self.split, _classified(batch))]

    def losses(
        self, maps: Any, labels: list[PseudoLabels], batch: MaskBatch, progress: Progress
    ) -> dict[str, Tensor]:
        return {}


def _classified(batch: MaskBatch) -> list[ClassifiedImage]:
    """Images with their true classes and one-hot probabilities."""
    images = []
    for rgb, points, target, size in zip(batch.images, batch.points, batch.targets, batch.sizes, strict=True):
        classes = _true_classes(target, size)
        probs = (classes == torch.unique(points.classes)[:, None, None]).float()
        images.append(ClassifiedImage(rgb, classes, probs, points))
    return images


def _true_classes(target: PseudoLabels, size: tuple[int, int]) -> Tensor:
    """(h, w) int64 class of each pixel of the valid part, -1 where void."""
    table = torch.cat([target.classes.new_full((1,), -1), target.classes])
    return table[target.segment_ids[: size[0], : size[1]]]
