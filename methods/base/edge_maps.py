"""Edges of the images of a batch on the grids that paths run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from methods.base.labels import Movable
from methods.base.preparation import piece_of
from methods.base.types import PointBatch
from methods.ops.edges import Sobel, sobel_edges
from methods.ops.rasterize import grid_size, resample


@dataclass(frozen=True, slots=True)
class EdgeMaps(Movable):
    """An edge map for each image of a batch.

    Attributes:
        maker: what made them.
        maps: (gh, gw) float32 in [0, 1] each, on the grid of the image.
    """

    maker: Callable[[PointBatch], EdgeMaps]
    maps: list[Tensor]


def edge_maps(batch: PointBatch, maker: Callable[[PointBatch], EdgeMaps] | None) -> list[Tensor] | list[None]:
    """The maps that ``maker`` makes of a batch; those that the loader has made with it, if it has. None each without one."""
    if maker is None:
        return [None] * len(batch.images)
    known = piece_of(batch, EdgeMaps, maker=maker)
    return (maker(batch) if known is None else known).maps


@dataclass(frozen=True, slots=True)
class SobelEdgeMaker:
    """Makes the `EdgeMaps` of a batch by `sobel_edges`.

    Attributes:
        sobel: how they are normalised.
        stride: pixels per cell; None chooses by the short side.
    """

    sobel: Sobel = Sobel()
    stride: int | None = None

    def __call__(self, batch: PointBatch) -> EdgeMaps:
        maps = []
        for image, size in zip(batch.images, batch.sizes, strict=True):
            on_grid = resample(image.float(), size, batch.input_size, grid_size(size, self.stride))
            maps.append(sobel_edges(on_grid, self.sobel))
        return EdgeMaps(self, maps)
