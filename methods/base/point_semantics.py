"""One image with points at full resolution: what a semantic branch says about it, and where its targets start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base.point_losses import dilation_of
from methods.base.types import PointLabels
from methods.ops.assignment import class_map, present_probabilities
from methods.ops.rasterize import point_cells


@dataclass(frozen=True, slots=True)
class ImageSemantics:
    """Semantics of one image.

    Attributes:
        probs: (c, h, w) float32 probabilities of the classes that occur, in [0, 1], not normalised over c.
        present: (c,) int64, those classes, ascending.
        is_stuff: (c,) bool.
        stuff_threshold: stuff pixels of a lower probability are void.
    """

    probs: Tensor
    present: Tensor
    is_stuff: Tensor
    stuff_threshold: float

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the image."""
        return tuple(self.probs.shape[1:])  # type: ignore[return-value]

    def pixel_classes(self) -> Tensor:
        """(h, w) int64 most probable class, -1 = void, see `class_map`."""
        return class_map(self.probs, self.present, self.is_stuff, self.stuff_threshold)


def image_semantics(
    logits: Tensor, points: PointLabels, size: tuple[int, int], input_size: tuple[int, int], num_things: int,
    dilation: int, reference_side: int | None, stuff_threshold: float,
) -> ImageSemantics:
    """Probabilities of the classes of an image, corrected by its points (`present_probabilities`).

    Args:
        logits: (K, h', w') float class logits that cover the padded input; read without gradient.
        points: of the image.
        size: (height, width) of its valid part.
        input_size: (H, W) of the padded input.
        num_things: thing classes of the data set, whose labels come first.
        dilation, reference_side: square around a labelled pixel, see `dilation_of`.
        stuff_threshold: stuff pixels of a lower probability are void.
    """
    side = dilation_of(size, dilation, reference_side)
    probs, present = present_probabilities(
        logits.detach(), points.classes, points.xy, points.point_classes, size, input_size, side
    )
    return ImageSemantics(probs, present, present >= num_things, stuff_threshold)


def target_sources(
    points: PointLabels, chosen: Tensor, size: tuple[int, int], grid: tuple[int, int]
) -> list[Tensor]:
    """The grid cells of the labelled pixels of some targets.

    Args:
        points: of an image of ``size`` (height, width).
        chosen: (n,) bool, the targets that are wanted.
        grid: (height, width) of the grid.

    Returns:
        For each chosen target, in order, (k, 2) int64 rows and columns on the CPU.
    """
    places = torch.cat([point_cells(points.xy, size, grid), points.target[:, None]], dim=1).cpu()
    return [places[places[:, 2] == index, :2] for index in torch.nonzero(chosen)[:, 0].tolist()]
