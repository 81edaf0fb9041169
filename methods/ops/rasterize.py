"""Between pixels and grids: dilated points, cells of a coarser grid, resampling, pixel constants that scale with the input.

Sparse labels stay coordinates until here, so that no resize can lose one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_PAPER_SIDE = 480
"""Short side in pixels of the smallest inputs in the papers (COCO, 480 to 800). From here on their pixel constants hold as
they are; below, they shrink with the input."""

UNLABELLED = -1
"""Value of label maps where nothing is known."""

_MANY_CHANNELS = 32
"""From here on (embeddings) maps are resized with channels last."""


def _scale(side: int, reference_side: int | None) -> float:
    """How much smaller than in the papers an input is: 1 for their own sizes (short side from `SMALLEST_PAPER_SIDE` on)."""
    return 1.0 if reference_side is None or side >= SMALLEST_PAPER_SIDE else side / reference_side


def scaled_odd(pixels: int, side: int, reference_side: int | None = 600) -> int:
    """An odd pixel constant of the papers, carried over to another input size.

    Args:
        pixels: the constant at ``reference_side``, at least 1 (a 17 px dilation at a 600 px short side).
        side: short side of the input in pixels.
        reference_side: short side that the constant belongs to; None takes the constant as it is.

    Returns:
        The largest odd integer not above ``pixels * scale + 1`` (the nearest odd one), at least 1. The scale is
        ``side / reference_side`` below `SMALLEST_PAPER_SIDE`, else 1.
    """
    return 2 * int(pixels * _scale(side, reference_side) // 2) + 1


def scaled_cells(cells: int, side: int, reference_side: int | None = 600) -> int:
    """A spacing in cells of the 1/8 maps, carried over to another input size so that it spans the same share of the image.

    Args:
        cells: the spacing at ``reference_side``, at least 1 (2 for the neighbours of the colour prior).
        side: short side of the input in pixels.
        reference_side: short side that the constant belongs to; None takes the constant as it is.

    Returns:
        The nearest whole number of cells, at least 1; scaled as in `scaled_odd`.
    """
    return max(1, round(cells * _scale(side, reference_side)))


def grid_stride(side: int) -> int:
    """Stride in pixels of the grid that distances run on, from the short side of the input.

    16 for the inputs of the papers (480 px, the smallest short side of their COCO training, and above), 8 below, 4 at
    320 px and below, 2 at 128 px and below. At 320 px a third of the instances is smaller than one stride-16 cell.
    """
    if side >= SMALLEST_PAPER_SIDE:
        return 16
    return next(stride for largest, stride in ((128, 2), (320, 4), (SMALLEST_PAPER_SIDE, 8)) if side <= largest)


def grid_size(size: tuple[int, int], stride: int | None) -> tuple[int, int]:
    """(height, width) of the distance grid of an image of ``size``: floor division by the stride, at least 1 x 1.

    ``stride`` None is `grid_stride` of the short side. Raises ValueError if the stride is not positive.
    """
    if stride is not None and stride < 1:
        raise ValueError(f"The stride of the distance grid must be a positive number of pixels or null, got {stride}.")
    step = grid_stride(min(size)) if stride is None else stride
    return max(1, size[0] // step), max(1, size[1] // step)


def resample(values: Tensor, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The valid part of a padded map, bilinearly resized (no anti-aliasing, align_corners False).

    Without padding this is ``F.interpolate``. With padding no padded cell is read: coordinates refer to the valid part and
    are clipped to the cells that overlap it.

    Args:
        values: (C, a, b) float map of any resolution that covers the padded input.
        size: (height, width) of the valid part in input pixels.
        input_size: (H, W) of the padded input.
        grid: (h, w) to resize to.

    Returns:
        (C, h, w) in the dtype of ``values``.
    """
    a, b = values.shape[-2:]
    if not len(values):
        return values.new_zeros(0, *grid)
    if size == input_size:
        image = values[None]
        if len(values) >= _MANY_CHANNELS:
            # An order of magnitude faster on a CPU. A copy: of a single image other strides can pass for this layout.
            image = image.clone(memory_format=torch.channels_last)
        return F.interpolate(image, size=grid, mode="bilinear", align_corners=False)[0]
    valid = values[:, : -(-size[0] * a // input_size[0]), : -(-size[1] * b // input_size[1])]
    ends = []
    for axis in (0, 1):
        centres = (torch.arange(grid[axis], device=values.device, dtype=values.dtype) + 0.5) / grid[axis]
        # position in cells of the padded map, then in [-1, 1] of the cropped one
        place = centres * size[axis] * values.shape[axis + 1] / input_size[axis]
        ends.append(2 * place / valid.shape[axis + 1] - 1)
    rows, cols = torch.meshgrid(*ends, indexing="ij")
    places = torch.stack([cols, rows], dim=-1)[None]
    return F.grid_sample(valid[None], places, mode="bilinear", padding_mode="border", align_corners=False)[0]


def point_cells(xy: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The grid cell that contains each labelled pixel.

    Args:
        xy: (p, 2) int64 pixel columns and rows in an image of ``size`` (height, width).
        grid: (height, width) of the grid that covers the same area.

    Returns:
        (p, 2) int64 rows and columns: ``floor(coordinate * grid side / image side)``, clipped to the grid.
    """
    rows = torch.div(xy[:, 1] * grid[0], size[0], rounding_mode="floor").clamp(0, grid[0] - 1)
    cols = torch.div(xy[:, 0] * grid[1], size[1], rounding_mode="floor").clamp(0, grid[1] - 1)
    return torch.stack([rows, cols], dim=1)


def dilated_points(xy: Tensor, channel: Tensor, channels: int, size: tuple[int, int], dilation: int) -> Tensor:
    """Each labelled pixel as a square of its channel: the one-hot label map after a max-pool of side ``dilation``.

    Where squares of two channels overlap, both are set.

    Args:
        xy: (p, 2) int64 pixel columns and rows.
        channel: (p,) int64 in ``0 .. channels - 1``.
        size: (height, width) of the map; squares are clipped to it.
        dilation: side of the square in pixels, odd, at least 1.

    Returns:
        (channels, height, width) bool.

    Raises:
        ValueError: the dilation is even or below 1.
    """
    if dilation < 1 or dilation % 2 == 0:
        raise ValueError(f"A dilation must be an odd number of pixels, got {dilation}.")
    reach = torch.arange(dilation, device=xy.device) - dilation // 2
    rows = (xy[:, 1, None, None] + reach[:, None]).expand(-1, dilation, dilation)
    cols = (xy[:, 0, None, None] + reach).expand(-1, dilation, dilation)
    index = channel[:, None, None].expand_as(rows)
    inside = (rows >= 0) & (rows < size[0]) & (cols >= 0) & (cols < size[1])
    squares = torch.zeros(channels, *size, dtype=torch.bool, device=xy.device)
    squares[index[inside], rows[inside], cols[inside]] = True
    return squares


def point_label_map(
    xy: Tensor, labels: Tensor, size: tuple[int, int], input_size: tuple[int, int], grid: tuple[int, int], dilation: int
) -> Tensor:
    """Dilated labelled pixels as one label per cell of a coarser grid.

    A cell reads the pixel that a nearest resize reads, ``floor(cell * input side / grid side)``; where squares overlap the
    lowest label wins, as in the released PSPS code. A dilation smaller than the stride can miss every read pixel, so the
    cell that contains a labelled pixel always takes the label of that pixel (the lowest if there are several).

    Args:
        xy: (p, 2) int64 pixel columns and rows.
        labels: (p,) int64, not negative.
        size: (height, width) of the valid part of the image, to which the squares are clipped.
        input_size: (H, W), the padded size that the grid covers.
        grid: (h, w) of the grid.
        dilation: side of the square in pixels, odd.

    Returns:
        (h, w) int64, `UNLABELLED` where no label is.
    """
    cells = torch.full(grid, UNLABELLED, dtype=torch.int64, device=xy.device)
    present, channel = torch.unique(labels, return_inverse=True)
    if not present.numel():
        return cells
    squares = dilated_points(xy, channel, present.numel(), size, dilation)
    rows = torch.div(torch.arange(grid[0], device=xy.device) * input_size[0], grid[0], rounding_mode="floor")
    cols = torch.div(torch.arange(grid[1], device=xy.device) * input_size[1], grid[1], rounding_mode="floor")
    rows, cols = rows[rows < size[0]], cols[cols < size[1]]
    read = squares[:, rows][:, :, cols]
    lowest = present[read.byte().argmax(dim=0)]
    cells[: len(rows), : len(cols)] = torch.where(read.any(dim=0), lowest, UNLABELLED)
    places = point_cells(xy, input_size, grid)
    flat = places[:, 0] * grid[1] + places[:, 1]
    forced = torch.full((cells.numel(),), torch.iinfo(torch.int64).max, device=xy.device)
    forced.scatter_reduce_(0, flat, labels, "amin")
    forced = forced.view(grid)
    return torch.where(forced < torch.iinfo(torch.int64).max, forced, cells)
