"""The interface that every method implements: where the dense pseudo labels come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from methods.base.evidence import Evidence
from methods.base.preparation import Preparation
from methods.base.types import Categories, Features, PointBatch, Progress, PseudoLabels


class PseudoLabeler(nn.Module, ABC):
    """Turns encoder features and points into dense labels, and trains its own branches.

    A training step calls, in this order, `predict_maps` (with gradient, once), `pseudo_labels` (no gradient) and `losses`.
    The panoptic head is trained on the labels, its losses scaled by `head_weights`. At test time no labeler exists.

    Constructor of every labeler: ``(categories, channels, **options)`` where ``channels`` is the width D of the encoder's
    maps and ``options`` are exactly the keys of its config file but ``name`` and ``version``
    (raise the version whenever the method's results change by more than rounding: it is part of a run's identity).

    Class attributes:
        note: one sentence for tables ("our reading", "evaluation only"), or "".
    """

    supervision: Literal["points", "masks"] = "points"
    note: str = ""

    def __init__(self, categories: Categories, channels: int):
        super().__init__()
        self.categories = categories
        self.channels = channels

    def preparation(self) -> Preparation | None:
        """What makes ``PointBatch.prepared`` of a batch on the CPU, in the data loader's workers; None for nothing.

        For work that depends on images and points alone. It is pickled, so its parts are functions or small objects and no
        methods of the labeler. A step must do without it as well: a batch that is labelled or predicted has none.
        """
        return None

    @abstractmethod
    def predict_maps(self, features: Features | None, batch: PointBatch) -> Any:
        """The branch maps of this step, computed once; labels and losses read them. Any type of the method's own.

        ``features`` is None where nothing reads the encoder: for a labeler without parameters in a model without a head.
        """

    @abstractmethod
    def pseudo_labels(self, maps: Any, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        """Dense labels of the padded input size, one per image, targets in the order of ``batch.points[i].classes``.

        Called without gradient and in float32.
        """

    @abstractmethod
    def losses(
        self, maps: Any, labels: list[PseudoLabels], batch: PointBatch, progress: Progress
    ) -> dict[str, Tensor]:
        """The labeler's own losses, weighted, by name; empty when there is nothing to train."""

    def evidence(self, maps: Any, batch: PointBatch, progress: Progress) -> list[list[Evidence]]:
        """What `pseudo_labels` decides from, for pictures: for each image the one or two maps that its method's paper would
        show, in their order. Nothing unless a labeler says otherwise.

        Called without gradient and in float32, for a few images at the end of a run; nothing is learned from it, and it
        must not change the labeler.
        """
        return [[] for _ in batch.points]

    def head_weights(self, progress: Progress) -> dict[str, float]:
        """Warm-up factor in [0, 1] for each loss group of the head (`methods.base.head.LOSS_GROUPS`); a missing group
        has 1."""
        return {}

    def semantic_logits(self, maps: Any) -> Tensor | None:
        """(B, K, h, w) class logits of a semantic branch, for reporting its mIoU; None if there is no such branch."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether the labeler has parameters of its own to train."""
        return any(p.requires_grad for p in self.parameters())
