"""Dilated points with one label per target, instances of one class apart, on the coarse grid of the mask maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.ops.rasterize import UNLABELLED, point_cells

if TYPE_CHECKING:
    from methods.base.types import PointLabels


def instance_label_map(
    points: PointLabels, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int], side: int
) -> Tensor:
    """Which target each cell of a grid is labelled with: the downsampled, dilated label map of FDD (above Eq. 1).

    Every labelled pixel is a square of its target. A cell reads the pixel that a nearest resize reads,
    ``floor(cell * input side / grid side)``. Where squares of several targets overlap, the read pixel belongs to the
    target whose labelled pixel is nearest (Euclidean, exact); at exactly equal distances it stays unlabelled.

    A small square can miss every read pixel, so the cell that contains a labelled pixel always belongs to that pixel's
    target. If it contains labelled pixels of several targets, the one with the fewest cells elsewhere (such cells do not
    count) gets it, the lowest index on ties; another one is left without a cell only if it has none elsewhere.

    Args:
        points: labelled pixels of n targets.
        size: (height, width) of the valid part of the image, to which the squares are clipped.
        input_size: (H, W), the padded size that the grid covers; ``size`` if there is no padding.
        grid: (h, w) of the grid; ``input_size`` itself gives the map at full resolution.
        side: of the square in pixels, odd, at least 1.

    Returns:
        (h, w) int64 target in ``0 .. n - 1``, -1 where no label is (`UNLABELLED`).

    Raises:
        ValueError: the side is even or below 1.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"The side of a dilated point must be an odd number of pixels, got {side}.")
    cells = _nearest_targets(points, size, input_size, grid, side)
    if points.xy.numel():
        cells = _with_own_cells(cells, points, input_size, grid)
    return cells.view(grid)


def _nearest_targets(
    points: PointLabels, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int], side: int
) -> Tensor:
    """(h * w,) target of the nearest labelled pixel among those whose squares hold a cell's read pixel."""
    reach, device = side // 2, points.xy.device
    places = point_cells(points.xy, input_size, grid)
    inside, offsets, cells = [], [], []
    for axis, xy in ((0, points.xy[:, 1]), (1, points.xy[:, 0])):
        span = -(-(reach + 1) * grid[axis] // input_size[axis])  # cells that a square can reach to either side
        cell = places[:, axis, None] + torch.arange(-span, span + 1, device=device)
        pixel = torch.div(cell * input_size[axis], grid[axis], rounding_mode="floor")
        offset = pixel - xy[:, None]
        inside.append((cell >= 0) & (cell < grid[axis]) & (pixel < size[axis]) & (offset.abs() <= reach))
        offsets.append(offset)
        cells.append(cell)
    held = inside[0][:, :, None] & inside[1][:, None, :]
    index = (cells[0][:, :, None] * grid[1] + cells[1][:, None, :])[held]
    squared = (offsets[0][:, :, None] ** 2 + offsets[1][:, None, :] ** 2)[held]
    target = points.target[:, None, None].expand_as(held)[held]
    largest = torch.iinfo(torch.int64).max
    nearest = torch.full((grid[0] * grid[1],), largest, device=device).scatter_reduce(0, index, squared, "amin")
    is_nearest = squared == nearest[index]
    index, target = index[is_nearest], target[is_nearest]
    lowest = torch.full_like(nearest, largest).scatter_reduce(0, index, target, "amin")
    highest = torch.full_like(nearest, UNLABELLED).scatter_reduce(0, index, target, "amax")
    return torch.where(lowest == highest, highest, UNLABELLED)


def _with_own_cells(cells: Tensor, points: PointLabels, input_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Labels (h * w,) in which the cell of each labelled pixel belongs to its target."""
    places = point_cells(points.xy, input_size, grid)
    own, target = places[:, 0] * grid[1] + places[:, 1], points.target
    lowest = torch.full_like(cells, torch.iinfo(torch.int64).max).scatter_reduce(0, own, target, "amin")
    highest = torch.full_like(cells, UNLABELLED).scatter_reduce(0, own, target, "amax")
    is_own, contested = highest != UNLABELLED, (highest != UNLABELLED) & (lowest != highest)
    cells = torch.where(contested, UNLABELLED, torch.where(is_own, lowest, cells))
    elsewhere = torch.bincount(cells + 1, minlength=points.num_targets + 1)[1:]
    rank = elsewhere[target] * points.num_targets + target
    first = torch.full_like(cells, torch.iinfo(torch.int64).max).scatter_reduce(0, own, rank, "amin")
    return torch.where(contested, first % points.num_targets, cells)
