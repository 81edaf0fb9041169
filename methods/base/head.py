"""The interface of a panoptic head: trained on dense labels, the only thing left at test time beside the encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from methods.base.types import Features, PanopticMap, PseudoLabels

LOSS_GROUPS = ("classification", "boxes", "masks", "stuff_classification")
"""What a labeler can weigh separately: thing classification, box regression, mask losses, stuff classification. A head
without one of them (Mask2Former has neither boxes nor a separate stuff classification) has no loss in that group."""


class PanopticHead(nn.Module, ABC):
    """Predicts panoptic maps from encoder features. Which head is used never depends on the method."""

    @abstractmethod
    def losses(
        self, features: Features, labels: list[PseudoLabels], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Weighted losses, named ``<group>/<what>`` with a group of `LOSS_GROUPS`.

        Args:
            features: the encoder's maps.
            labels: one per image, of the padded input size; ``ignore`` pixels are read by no loss. An image that is ignored
                as a whole teaches nothing: it has no targets, and its queries are not pushed to "no object". With any
                other pixel left, queries without a target are negatives, wherever they look.
            weights: factor per loss group, 1 where missing.
        """

    @abstractmethod
    def predict(
        self, features: Features, sizes: list[tuple[int, int]], output_sizes: list[tuple[int, int]]
    ) -> list[PanopticMap]:
        """Merged panoptic maps, one per image.

        Args:
            features: the encoder's maps.
            sizes: (height, width) of the valid part of each input image.
            output_sizes: (height, width) that each map is resized to (the image file's size in evaluation).
        """
