"""The interface of a method that trains a semantic network from sparse labels: losses of its maps, no instances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.point_losses import dilated_label_maps
from methods.base.types import Categories, PointBatch, Progress

RESOLUTIONS = ("pixel", "map")


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) as (B, C, H, W) float32: bilinear, corner cells on corner pixels.

    A convolution of stride 2 with symmetric padding puts its cells there.
    """
    return F.interpolate(maps.float(), tuple(size), mode="bilinear", align_corners=True)


@dataclass(frozen=True, slots=True)
class SegmentationMaps:
    """What a semantic network gives: ``logits`` (B, K, h, w) and the map f that they are made from, (B, D, h, w)."""

    logits: Tensor
    features: Tensor


@dataclass(frozen=True, slots=True)
class SupervisedMaps(SegmentationMaps):
    """Maps beside what is known of their cells.

    Attributes:
        labels: (B, h, w) int64 class of labelled cells, -1 elsewhere.
        valid: (B, h, w) bool, False where padded; labelled cells are valid.
    """

    labels: Tensor
    valid: Tensor


class SemanticMethod(nn.Module, ABC):
    """How a semantic network learns from sparse labels: points, scribbles, clicks.

    Constructor of every method: ``(categories, channels, **options)`` where ``channels`` is the width D of f and ``options``
    are exactly the keys of its config file but ``name``, ``label`` and ``version``.

    Class attributes:
        note: one sentence for tables, or "".
    """

    supervision: Literal["points"] = "points"
    note: str = "semantic segmentation: classes only, no instances"

    def __init__(self, categories: Categories, channels: int, resolution: Literal["pixel", "map"] = "pixel"):
        super().__init__()
        if resolution not in RESOLUTIONS:
            raise ValueError(f"method.resolution is '{resolution}'; it is one of {', '.join(RESOLUTIONS)}.")
        self.categories, self.channels, self.resolution = categories, channels, resolution

    @abstractmethod
    def losses(self, maps: SegmentationMaps, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        """Weighted losses by name; finite, also without any labelled pixel in the batch."""

    def supervised(self, maps: SegmentationMaps, batch: PointBatch) -> SupervisedMaps:
        """The maps with their labels, where the losses are taken: enlarged to pixels, or at the network's own resolution.

        A labelled pixel is one pixel, or the cell that contains it; a cell with pixels of two classes has the lower.
        """
        grid = batch.input_size
        if self.resolution == "map":
            grid, maps = tuple(maps.logits.shape[-2:]), SegmentationMaps(maps.logits.float(), maps.features.float())
        else:
            maps = SegmentationMaps(enlarged(maps.logits, grid), enlarged(maps.features, grid))
        labels = dilated_label_maps(batch, grid, dilation=1, reference_side=None)
        padded = F.interpolate(batch.padding[:, None].float(), grid, mode="nearest-exact")[:, 0] > 0
        return SupervisedMaps(maps.logits, maps.features, labels, ~padded | (labels >= 0))
