"""Control of the semantic track: cross-entropy of the labelled pixels alone."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from methods.base.point_losses import partial_cross_entropy
from methods.base.semantic_method import SegmentationMaps, SemanticMethod
from methods.base.types import Categories, PointBatch, Progress


class PartialCrossEntropy(SemanticMethod):
    """The baseline that every loss on unlabelled pixels has to beat.

    Args:
        categories: of the data set.
        channels: width of the network's fused map, which is not read.
        resolution: the loss is taken at every labelled ``"pixel"``, or at the cells of the network's ``"map"``.
    """

    def __init__(self, categories: Categories, channels: int, *, resolution: Literal["pixel", "map"] = "pixel"):
        super().__init__(categories, channels, resolution)

    def losses(self, maps: SegmentationMaps, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        known = self.supervised(maps, batch)
        return {"partial": partial_cross_entropy(known.logits, known.labels)}
