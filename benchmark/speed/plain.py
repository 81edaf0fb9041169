"""The textbook versions that the kernels are compared with: what a user would write from SciPy, torch and NumPy.

Each does the work in the plainest way that is not wasteful; tests use them as the reference for the fast versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, dijkstra, minimum_spanning_tree
from torch import Tensor

# --- shortest paths -------------------------------------------------------------------------------------------------------


def scipy_distances(graph: csr_matrix, cells: Sequence[int]) -> np.ndarray:
    """(n, cells of the grid) float64 shortest-path costs from each of n cells, one Dijkstra each."""
    return dijkstra(graph, indices=np.asarray(cells))


# --- entropic transport ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Potentials:
    """Dual variables u (n,) and v (m,) of an entropic plan ``exp((u_i + v_j - cost_ij) / eps)``, in units of the cost."""

    u: Tensor
    v: Tensor

    def plan(self, cost: Tensor, eps: float) -> Tensor:
        """(n, m) transported mass."""
        return ((self.u[:, None] + self.v - cost) / eps).exp()

    def labels(self, cost: Tensor) -> Tensor:
        """(m,) int64, the row that sends most to each column."""
        return (cost - self.u[:, None]).argmin(dim=0)


def two_logsumexp_sinkhorn(cost: Tensor, supply: Tensor, demand: Tensor, eps: float, iterations: int) -> Potentials:
    """The two update lines of Point2Mask (supplement, Algorithm 1) without any rearrangement, v first.

    Args:
        cost: (n, m) float; everything is computed in its precision and on its device.
        supply, demand: (n,) and (m,) mass, with 1e-8 added inside the logarithms.
        eps: entropic regularisation in units of the cost.
        iterations: how many.
    """
    log_supply, log_demand = ((mass.to(cost) + 1e-8).log() for mass in (supply, demand))
    u, v = torch.ones_like(log_supply), torch.ones_like(log_demand)
    for _ in range(iterations):
        v = v + eps * (log_demand - torch.logsumexp((u[:, None] + v - cost) / eps, dim=0))
        u = u + eps * (log_supply - torch.logsumexp((u[:, None] + v - cost) / eps, dim=1))
    return Potentials(u, v)


# --- tree filter ----------------------------------------------------------------------------------------------------------


def grid_links(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(from, to, squared colour step) of the 4-connected grid of an image (C, h, w), in its precision.

    In row-major order of ``from``, to the right before down.
    """
    height, width = image.shape[1:]
    cells = np.arange(height * width).reshape(height, width)
    right = np.square(image[:, :, 1:] - image[:, :, :-1]).sum(axis=0).ravel()
    down = np.square(image[:, 1:] - image[:, :-1]).sum(axis=0).ravel()
    start = np.concatenate([cells[:, :-1].ravel(), cells[:-1].ravel()])
    end = np.concatenate([cells[:, 1:].ravel(), cells[1:].ravel()])
    order = np.lexsort((end, start))
    return start[order], end[order], np.concatenate([right, down])[order]


def ranked_graph(image: np.ndarray) -> csr_matrix:
    """The 4-connected grid with the rank of each link, from 1, as its weight: equal colour steps keep their order.

    A minimum spanning tree depends on the order of the weights alone, and to SciPy a weight of 0 is no edge.
    """
    start, end, weight = grid_links(image)
    rank = np.empty(weight.size)
    rank[np.argsort(weight, kind="stable")] = np.arange(1, weight.size + 1)
    return csr_matrix((rank, (start, end)), shape=(image[0].size,) * 2)


@dataclass(frozen=True, eq=False)
class LevelTree:
    """A spanning tree rooted at cell 0, by levels.

    Attributes:
        levels: for each level below the root, its cells, their parents, and where the children of each parent begin:
            siblings follow one another.
        weights: (n,) float64 affinity of each cell to its parent, 0 at the root.
    """

    levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    weights: np.ndarray


def scipy_tree(graph: csr_matrix, image: np.ndarray, sigma: float) -> LevelTree:
    """Minimum spanning tree and breadth-first order by SciPy, cut into levels.

    Args:
        graph: of `ranked_graph`. image: (C, h, w). sigma: of the filter, see `methods.point2mask.tree_energy.tree_filter`.
    """
    order, above = breadth_first_order(minimum_spanning_tree(graph), 0, directed=False)
    place = np.empty(order.size, dtype=np.int64)
    place[order] = np.arange(order.size)
    parent_places = place[above[order[1:]]]  # does not fall: cells follow in the order of their parents
    levels, begin = [], 0
    while begin < parent_places.size:
        end = int(np.searchsorted(parent_places, begin + 1))
        cells, parents = order[1 + begin : 1 + end], above[order[1 + begin : 1 + end]]
        levels.append((cells, parents, np.flatnonzero(np.diff(parents, prepend=-1))))
        begin = end
    colours = image.reshape(len(image), -1)
    weights = np.zeros(order.size)
    weights[order[1:]] = np.exp(-np.square(colours[:, order[1:]] - colours[:, above[order[1:]]]).sum(axis=0) / sigma)
    return LevelTree(levels, weights)


def numpy_tree_product(values: np.ndarray, tree: LevelTree) -> np.ndarray:
    """``S values`` for values (n, K) with the affinities S of all cells: leaves to root, then root to leaves."""
    result, weights = values.copy(), tree.weights[:, None].astype(values.dtype)
    for cells, parents, first in reversed(tree.levels):
        result[parents[first]] += np.add.reduceat(weights[cells] * result[cells], first, axis=0)
    for cells, parents, _ in tree.levels:
        own = weights[cells]
        result[cells] = own * result[parents] + (1 - own**2) * result[cells]
    return result


def numpy_tree_filter(probs: np.ndarray, gradient: np.ndarray, tree: LevelTree) -> tuple[np.ndarray, np.ndarray]:
    """``P -> S P / S 1`` of probabilities (K, h, w), and its transpose applied to a gradient (K, h, w)."""
    sums = numpy_tree_product(np.ones((len(tree.weights), 1), dtype=probs.dtype), tree)
    filtered = numpy_tree_product(probs.reshape(len(probs), -1).T, tree) / sums
    backward = numpy_tree_product(gradient.reshape(len(probs), -1).T / sums, tree)
    return filtered.T.reshape(probs.shape), backward.T.reshape(probs.shape)


# --- panoptic quality -----------------------------------------------------------------------------------------------------


def plain_ids(path: Path) -> np.ndarray:
    """(H, W) uint32 segment ids of an RGB PNG: ``R + 256 G + 65536 B``."""
    with Image.open(path) as file:
        rgb = np.array(file.convert("RGB"), dtype=np.uint32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def panoptic_sums(
    images: Iterable[tuple[np.ndarray, Sequence[Mapping[str, Any]], np.ndarray, Sequence[Mapping[str, Any]]]],
    categories: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, float]]:
    """COCO's panoptic rule as its paper states it, over all pixels with `numpy.unique` (Kirillov et al., CVPR 2019).

    Args:
        images: prediction ids, their ``segments_info``, target ids, theirs.
        categories: COCO category dicts.

    Returns:
        Category name -> ``iou``, ``tp``, ``fp``, ``fn``.
    """
    sums = {category["id"]: {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0} for category in categories}
    for image in images:
        _add_image(sums, *image)
    return {category["name"]: sums[category["id"]] for category in categories}


def _add_image(
    sums: Mapping[int, dict[str, float]], predicted_ids: np.ndarray, predicted_segments: Sequence[Mapping[str, Any]],
    target_ids: np.ndarray, target_segments: Sequence[Mapping[str, Any]],
) -> None:
    area = dict(zip(*(values.tolist() for values in np.unique(predicted_ids, return_counts=True)), strict=True))
    pairs, counts = np.unique(target_ids.astype(np.uint64) * np.uint64(256**3) + predicted_ids, return_counts=True)
    shared = {(pair // 256**3, pair % 256**3): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}
    targets = {segment["id"]: segment for segment in target_segments}
    predictions = {segment["id"]: segment for segment in predicted_segments}
    matched_targets, matched_predictions = set(), set()
    for (target, prediction), count in shared.items():
        if target not in targets or prediction not in predictions or targets[target].get("iscrowd"):
            continue
        category = targets[target]["category_id"]
        if category != predictions[prediction]["category_id"]:
            continue
        iou = count / (targets[target]["area"] + area[prediction] - count - shared.get((0, prediction), 0))
        if iou > 0.5:
            sums[category]["iou"] += iou
            sums[category]["tp"] += 1
            matched_targets.add(target)
            matched_predictions.add(prediction)
    crowds = {segment["category_id"]: segment["id"] for segment in target_segments if segment.get("iscrowd")}
    for segment in target_segments:
        if segment["id"] not in matched_targets and not segment.get("iscrowd"):
            sums[segment["category_id"]]["fn"] += 1
    for segment in predicted_segments:
        if segment["id"] not in matched_predictions:
            void = shared.get((0, segment["id"]), 0)
            void += shared.get((crowds.get(segment["category_id"], -1), segment["id"]), 0)
            if void / area[segment["id"]] <= 0.5:
                sums[segment["category_id"]]["fp"] += 1
