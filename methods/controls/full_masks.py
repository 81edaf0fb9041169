"""The ceiling: the head is trained on the ground-truth masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.base.labeler import PseudoLabeler
from methods.base.types import Features, MaskBatch, Progress, PseudoLabels


class FullMasks(PseudoLabeler):
    """Full supervision with the same network, schedule and data."""

    supervision = "masks"
    note = "upper bound: trained on full masks, which are its labels"

    def predict_maps(self, features: Features | None, batch: MaskBatch) -> None:
        return None

    def pseudo_labels(self, maps: Any, batch: MaskBatch, progress: Progress) -> list[PseudoLabels]:
        return batch.targets

    def losses(
        self, maps: Any, labels: list[PseudoLabels], batch: MaskBatch, progress: Progress
    ) -> dict[str, Tensor]:
        return {}
