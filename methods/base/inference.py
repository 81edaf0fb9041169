"""Class probabilities of whole images: at several scales, flipped, in tiles. Functions of a network's probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Probabilities = Callable[[Tensor], Tensor]
"""(3, h, w) image -> (K, h, w) probabilities."""


@dataclass(frozen=True, slots=True)
class Inference:
    """How a class map of an image is made; the default is one pass over the whole image.

    Attributes:
        scales: factors of the image's sides, positive; probabilities are averaged over them.
        flip: also over left-right flipped images.
        tile: side in pixels of the tiles that an image is cut into; None takes the whole image.
        stride: distance of the tiles; None: a third of a tile, rounded up.

    Raises:
        ValueError: no scale, a scale that is not positive, a stride without a tile or above it.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"The scales of an evaluation must be positive numbers, they are {list(self.scales)}.")
        if self.stride is not None and (self.tile is None or not 1 <= self.stride <= self.tile):
            raise ValueError(f"The stride of tiles of {self.tile} px is {self.stride}; it must be from 1 to their side.")


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of the tiles along an axis of ``length`` pixels: ``ceil((length - tile) / stride) + 1`` tiles, the last
    one ending with the axis; a single one where the tile covers it."""
    count = max(0, math.ceil((length - tile) / stride)) + 1
    return [min(i * stride, max(0, length - tile)) for i in range(count)]


def tiled(probabilities: Probabilities, image: Tensor, tile: int, stride: int) -> Tensor:
    """(K, h, w) probabilities, averaged where the tiles (``tile`` x ``tile``, clipped to the image) overlap."""
    height, width = image.shape[-2:]
    total, count = None, image.new_zeros(height, width)
    for top in tile_starts(height, tile, stride):
        for left in tile_starts(width, tile, stride):
            window = (slice(top, top + tile), slice(left, left + tile))
            part = probabilities(image[:, *window])
            total = part.new_zeros(len(part), height, width) if total is None else total
            total[:, *window] += part
            count[window] += 1
    return total / count  # type: ignore[operator]


def averaged(probabilities: Probabilities, image: Tensor, inference: Inference) -> Tensor:
    """(K, h, w) probabilities of an image (3, h, w), averaged over the passes of ``inference``."""

    def one_pass(view: Tensor) -> Tensor:
        if inference.tile is None:
            return probabilities(view)
        stride = inference.stride or math.ceil(inference.tile / 3)
        return tiled(probabilities, view, inference.tile, stride)

    size = tuple(image.shape[-2:])
    passes = [_resized(one_pass(view), size, back) for view, back in _views(image, inference)]
    return torch.stack(passes).mean(dim=0)


def _views(image: Tensor, inference: Inference) -> Iterator[tuple[Tensor, bool]]:
    """The images of all passes, and whether each is flipped."""
    for scale in inference.scales:
        size = tuple(max(1, int(side * scale + 0.5)) for side in image.shape[-2:])
        view = _resized(image, size, False)
        yield view, False
        if inference.flip:
            yield view.flip(-1), True


def _resized(maps: Tensor, size: tuple[int, ...], flipped: bool) -> Tensor:
    maps = maps.flip(-1) if flipped else maps
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
