"""Minimum spanning tree of the 4-connected grid of an image: what the RGB tree loss of Point2Mask filters along.

A step between neighbouring cells u and v costs ``||I_u - I_v||^2``, so the tree crosses a strong edge of the image only
where there is no way around it. It depends on the image alone: it can be made in a data-loading worker and pickled.

Kruskal's algorithm on radix-sorted steps. The kernels compile on their first call, are cached on disk and release the GIL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.base.labels import Movable
from methods.ops.parallel import in_threads

_RIGHT, _DOWN, _LEFT, _UP = 1, 2, 4, 8
_DIGIT_BITS = 11


@dataclass(frozen=True, slots=True, eq=False)
class SpanningTree(Movable):
    """A rooted spanning tree of an h x w grid, its cells listed in depth-first order from the root (cell 0).

    A parent stands before its children, so one sweep over the list goes from the root to the leaves and the reverse sweep
    from the leaves to the root. Depth-first rather than breadth-first, because a cell mostly follows its parent directly
    and a sweep then stays in the cache.

    Attributes:
        size: (height, width) of the grid.
        cells: (h * w,) int32, the row-major cell index at each place of the list.
        parents: (h * w,) int32, the place (not the cell) of each one's parent; the root is its own.
        squared_distances: (h * w,) ``||I_cell - I_parent||^2`` in the precision of the image, 0 at the root.
        depth: steps from the root to the farthest leaf.
    """

    size: tuple[int, int]
    cells: Tensor
    parents: Tensor
    squared_distances: Tensor
    depth: int


def spanning_tree(image: Tensor) -> SpanningTree:
    """Minimum spanning tree of the 4-connected grid with edge weights ``||I_u - I_v||^2``.

    Of equal weights, the edge of the first cell in row-major order comes first, to the right before down: the tree is the
    same on every machine.

    Args:
        image: (C, h, w) on any device. float64 is kept, everything else is read as float32. Point2Mask takes the normalised
            network input (mean and standard deviation of the backbone, neither [0, 1] nor 0-255), resized bilinearly to
            the 1/8 grid of the probabilities. Preparing it is the caller's part.

    Returns:
        The tree on the CPU, for any device that filters later. No gradient.

    Raises:
        ValueError: image without three dimensions or without cells, or with a NaN or infinite value.
    """
    image = image.detach()
    image = image.to("cpu", torch.float64 if image.dtype == torch.float64 else torch.float32)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"The image of a spanning tree has shape (channels, height, width), got {tuple(image.shape)}.")
    if not image.isfinite().all():
        raise ValueError("The image of a spanning tree has a NaN or infinite value; mask or clean it before.")
    height, width = image.shape[1:]
    squared = image.new_zeros(height, width, 2)  # of each cell's step to the right and down
    squared[:, :-1, 0] = (image[:, :, 1:] - image[:, :, :-1]).square().sum(dim=0)
    squared[:-1, :, 1] = (image[:, 1:] - image[:, :-1]).square().sum(dim=0)
    inside = torch.ones(height, width, 2, dtype=torch.bool)
    inside[:, -1, 0] = inside[-1, :, 1] = False
    steps = inside.flatten().nonzero()[:, 0].int()
    weights = squared.flatten()
    # floats that are not negative sort like their bits
    bits = weights[steps].numpy().view(np.uint64 if image.dtype == torch.float64 else np.uint32)
    links = _kruskal(_argsort(bits, steps.numpy()), height * width, width)
    cells, parents, distances, depth = _depth_first(links, weights.numpy(), width)
    return SpanningTree(
        (height, width), torch.from_numpy(cells), torch.from_numpy(parents), torch.from_numpy(distances), int(depth)
    )


def spanning_trees(images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> list[SpanningTree]:
    """`spanning_tree` of each image of a batch, in threads.

    Args:
        images: (B, C, h, w), prepared as for `spanning_tree`; they move to the CPU in one transfer.
        sizes: (height, width) in cells of the valid top left part of each image; None = all of it. A tree spans the valid
            cells only, so padding has no influence.

    Raises:
        ValueError: as `spanning_tree`; wrong number of sizes, or one that is empty or larger than the images.
    """
    if images.ndim != 4:
        raise ValueError(f"A batch of images has shape (batch, channels, height, width), got {tuple(images.shape)}.")
    batch, _, height, width = images.shape
    if sizes is None:
        sizes = [(height, width)] * batch
    if len(sizes) != batch:
        raise ValueError(f"Got {len(sizes)} valid sizes for {batch} images; give one for each.")
    for index, (h, w) in enumerate(sizes):
        if not (0 < h <= height and 0 < w <= width):
            raise ValueError(f"The valid size {h} x {w} of image {index} does not fit its {height} x {width} cells.")
    on_cpu = images.detach().cpu()
    return in_threads(spanning_tree, [image[:, :h, :w] for image, (h, w) in zip(on_cpu, sizes, strict=True)])


@njit(nogil=True, cache=True)
def _argsort(keys: np.ndarray, items: np.ndarray) -> np.ndarray:
    """``items`` ordered by their unsigned integer ``keys``, equal keys in the given order.

    A radix sort: NumPy has none for keys of 32 bits, and its stable sort takes longer than all the rest of the tree.
    """
    count, digits = keys.shape[0], 1 << _DIGIT_BITS
    keys, items = keys.copy(), items.copy()
    other_keys, other_items = np.empty_like(keys), np.empty_like(items)
    places = np.empty(digits, dtype=np.int64)
    for shift in range(0, 8 * keys.itemsize, _DIGIT_BITS):
        places[:] = 0
        for i in range(count):
            places[_digit(keys[i], shift)] += 1
        if places.max() == count:
            continue  # all keys share this digit
        start = 0
        for digit in range(digits):
            amount = places[digit]
            places[digit] = start
            start += amount
        for i in range(count):
            digit = _digit(keys[i], shift)
            other_keys[places[digit]], other_items[places[digit]] = keys[i], items[i]
            places[digit] += 1
        keys, other_keys = other_keys, keys
        items, other_items = other_items, items
    return items


@njit(nogil=True, cache=True)
def _digit(key: int, shift: int) -> int:
    return int(key >> np.uint64(shift)) & ((1 << _DIGIT_BITS) - 1)


@njit(nogil=True, cache=True)
def _root(above: np.ndarray, cell: int) -> int:
    """The representative of a cell's component; halves the path on the way."""
    while above[cell] != cell:
        above[cell] = above[above[cell]]
        cell = above[cell]
    return cell


@njit(nogil=True, cache=True)
def _kruskal(steps: np.ndarray, count: int, width: int) -> np.ndarray:
    """(count,) uint8: the directions in which each cell is linked to a neighbour.

    Args:
        steps: ``2 * cell + (0 right, 1 down)`` of every step of the grid, cheapest first.
        count: number of cells.
        width: of the grid.
    """
    above = np.arange(count).astype(np.int32)
    links = np.zeros(count, dtype=np.uint8)
    missing = count - 1
    for step in steps:
        if missing == 0:
            break
        here, down = step >> 1, step & 1
        there = here + (width if down else 1)
        first, second = _root(above, here), _root(above, there)
        if first != second:
            above[max(first, second)] = min(first, second)
            links[here] |= _DOWN if down else _RIGHT
            links[there] |= _UP if down else _LEFT
            missing -= 1
    return links


@njit(nogil=True, cache=True)
def _depth_first(
    links: np.ndarray, weights: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The fields ``cells``, ``parents``, ``squared_distances`` and ``depth`` of a `SpanningTree`; uses up ``links``.

    Args:
        links: of `_kruskal`.
        weights: (2 * count,), weight of each cell's step to the right and down.
        width: of the grid.
    """
    count = links.shape[0]
    cells, parents = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    distances, depths = np.empty(count, dtype=weights.dtype), np.zeros(count, dtype=np.int32)
    stack, stack_parents = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    stack_distances = np.empty(count, dtype=weights.dtype)
    stack[0], stack_parents[0], stack_distances[0] = 0, 0, 0
    size = 1
    for place in range(count):
        size -= 1
        cell, parent = stack[size], stack_parents[size]
        cells[place], parents[place], distances[place] = cell, parent, stack_distances[size]
        depths[place] = depths[parent] + 1 if place else 0
        for direction in (_RIGHT, _DOWN, _LEFT, _UP):
            if links[cell] & direction:
                if direction == _RIGHT:
                    child, back, step = cell + 1, _LEFT, 2 * cell
                elif direction == _DOWN:
                    child, back, step = cell + width, _UP, 2 * cell + 1
                elif direction == _LEFT:
                    child, back, step = cell - 1, _RIGHT, 2 * (cell - 1)
                else:
                    child, back, step = cell - width, _DOWN, 2 * (cell - width) + 1
                links[child] &= ~np.uint8(back)  # a child does not go back to its parent
                stack[size], stack_parents[size], stack_distances[size] = child, place, weights[step]
                size += 1
    return cells, parents, distances, depths.max()
