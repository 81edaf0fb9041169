"""The tree filter of Point2Mask as a linear operator: P -> S P / S 1 and its transpose, on the CPU and on a GPU.

The affinity of two cells is the product of ``w_l = exp(-||I_l - I_k||^2 / sigma)`` over the steps (l, k) of the tree path
between them. With W the matrix that holds ``w_l`` at (l, parent of l),

    S = (I - W)^-1  diag(1 - w^2)  (I - W^T)^-1,

that is a sweep from the leaves to the root, a factor for each cell (1 at the root), and a sweep from the root to the leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.ops.parallel import in_threads
from methods.point2mask.spanning_tree import SpanningTree


def _places(tree: SpanningTree, width: int) -> Tensor:
    """(n,) row-major index of each cell of the list in a grid of another width."""
    own = tree.size[1]
    return tree.cells if own == width else tree.cells + tree.cells.div(own, rounding_mode="floor") * (width - own)


class CompiledSweeps:
    """The filter on the CPU: two compiled sweeps over each image, the images in threads.

    Args:
        trees, sigma: of the filter.
        like: (B, K, h, w) gives the precision and the grid.
    """

    def __init__(self, trees: Sequence[SpanningTree], sigma: float, like: Tensor):
        empty = np.empty(0, dtype=like.detach().numpy().dtype)
        self.images = []
        for tree in trees:
            links = _link_weights(tree.parents.cpu().numpy(), tree.squared_distances.cpu().numpy(), float(sigma), empty)
            self.images.append((_places(tree, like.shape[3]).cpu().numpy(), tree.parents.cpu().numpy(), *links))

    def __call__(self, probs: Tensor, transposed: bool = False) -> Tensor:
        """(B, K, h, w) -> the same shape: ``S P / S 1``, or its transpose ``S (P / S 1)``."""
        values = probs.detach().contiguous().flatten(2)
        result = torch.zeros_like(values)
        in_threads(
            lambda *image: _sweep(*image, transposed), values.numpy(), result.numpy(), *zip(*self.images, strict=True)
        )
        return result.view(probs.shape)


class DoublingSweeps:
    """The filter in tensor operations, for CUDA tensors: the whole batch is one forest.

    A tree of a 200 x 300 image is a thousand levels deep or more, too many for one launch per level. But
    ``(I - W)^-1 = sum_n W^n = prod_k (I + W^(2^k))``, and row i of ``W^(2^k)`` holds one number, the affinity of i to its
    ancestor 2^k steps up: log2(depth) gathers go from the root to the leaves, as many scatters from the leaves to the root.
    This keeps the probabilities on the device, where a trip to the CPU would make it wait twice in every step.

    Args:
        trees, sigma: of the filter.
        like: (B, K, h, w) gives precision, grid and device.
    """

    def __init__(self, trees: Sequence[SpanningTree], sigma: float, like: Tensor):
        device, (_, _, height, width) = like.device, like.shape
        starts = np.cumsum([0, *(tree.cells.numel() for tree in trees)]).tolist()
        cells = [_places(tree, width).long() + i * height * width for i, tree in enumerate(trees)]
        parents = [tree.parents.long() + start for tree, start in zip(trees, starts, strict=False)]
        self.cells = torch.cat(cells).to(device)
        parent = torch.cat(parents).to(device)
        exponent = torch.cat([tree.squared_distances.double() for tree in trees]).to(device) / -sigma
        self.kept = -torch.expm1(2 * exponent)  # 1 - w^2 without cancellation
        weight = exponent.exp()
        roots = torch.tensor(starts[:-1], device=device)
        weight[roots], self.kept[roots] = 0.0, 1.0
        self.kept = self.kept.to(like.dtype)[:, None]
        self.jumps = []
        for _ in range(max(tree.depth for tree in trees).bit_length()):
            self.jumps.append((parent, weight.to(like.dtype)[:, None]))
            weight, parent = weight * weight[parent], parent[parent]
        self.normaliser = self._product(torch.ones_like(self.kept))

    def _product(self, values: Tensor) -> Tensor:
        """``S values`` for values (n, K) in the order of the trees, which it overwrites."""
        for parent, weight in self.jumps:
            values.index_add_(0, parent, weight * values)
        values *= self.kept
        for parent, weight in self.jumps:
            values.addcmul_(weight, values[parent])
        return values

    def __call__(self, probs: Tensor, transposed: bool = False) -> Tensor:
        """(B, K, h, w) -> the same shape: ``S P / S 1``, or its transpose ``S (P / S 1)``."""
        batch, channels, height, width = probs.shape
        rows = probs.permute(0, 2, 3, 1).reshape(-1, channels)
        values = rows[self.cells]
        values = self._product(values / self.normaliser) if transposed else self._product(values) / self.normaliser
        result = torch.zeros_like(rows).index_copy(0, self.cells, values)
        return result.view(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


@njit(nogil=True, cache=True)
def _link_weights(
    parents: np.ndarray, squared: np.ndarray, sigma: float, like: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) w, 1 - w^2 and S 1 in the order of the tree and the precision of ``like``; at the root w = 0."""
    count = parents.shape[0]
    weights, kept = np.empty(count, dtype=like.dtype), np.empty(count, dtype=like.dtype)
    weights[0], kept[0] = 0, 1
    sums = np.ones(count, dtype=like.dtype)
    for i in range(1, count):
        exponent = -np.float64(squared[i]) / sigma
        weights[i], kept[i] = math.exp(exponent), -math.expm1(2 * exponent)
    for i in range(count - 1, 0, -1):
        sums[parents[i]] += weights[i] * sums[i]
    for i in range(1, count):
        sums[i] = kept[i] * sums[i] + weights[i] * sums[parents[i]]
    return weights, kept, sums


@njit(nogil=True, cache=True)
def _sweep(
    planes: np.ndarray, result: np.ndarray, cells: np.ndarray, parents: np.ndarray, weights: np.ndarray, kept: np.ndarray,
    sums: np.ndarray, transposed: bool,
) -> None:
    """Filter (K, cells of the grid) planes into ``result``; cells that the tree does not have are left alone.

    The values are copied into the order of the tree with the channels innermost: a sweep then reads and writes whole
    vectors, in rows that mostly follow one another.
    """
    channels, count = planes.shape[0], cells.shape[0]
    values = np.empty((count, channels), dtype=planes.dtype)
    one = sums.dtype.type(1)
    for i in range(count):
        factor = one / sums[i] if transposed else one
        for k in range(channels):
            values[i, k] = planes[k, cells[i]] * factor
    for i in range(count - 1, 0, -1):
        parent, weight = parents[i], weights[i]
        for k in range(channels):
            values[parent, k] += weight * values[i, k]
    for i in range(1, count):
        parent, weight, own = parents[i], weights[i], kept[i]
        for k in range(channels):
            values[i, k] = own * values[i, k] + weight * values[parent, k]
    for i in range(count):
        factor = one if transposed else one / sums[i]
        for k in range(channels):
            result[k, cells[i]] = values[i, k] * factor
