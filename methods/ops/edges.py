"""Edge maps, and costs of the edges of an 8-connected grid for `methods.ops.geodesic`.

Every cost function returns (h, w, 8) in the order of `methods.ops.geodesic.NEIGHBOURS`; edges that leave the grid have
unspecified finite values, which the geodesics ignore.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.color import rgb_to_lab
from methods.ops.geodesic import NEIGHBOURS


@dataclass(frozen=True, slots=True)
class Sobel:
    """How the edge map is normalised; defaults are those of the PSPS released code.

    Attributes:
        border: cells at each side that the maximum leaves out; less on maps that would have no interior.
        epsilon: smallest maximum that is divided by.
    """

    border: int = 5
    epsilon: float = 1e-5


def sobel_edges(image: Tensor, sobel: Sobel = Sobel()) -> Tensor:
    """Edge strength of an image: Sobel responses on the three CIELAB channels (PSPS released code).

    The mean of the six squared responses (zero padding), divided by its maximum over the interior and clipped. Because of
    the zero padding the outermost ring of an image that is not black is an edge.

    Args:
        image: (3, h, w) float RGB in [0, 1].
        sobel: how it is normalised.

    Returns:
        (h, w) float32 in [0, 1].
    """
    lab = rgb_to_lab(image)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=lab.device)
    kernels = torch.stack([across, across.T])[:, None]
    squared = F.conv2d(lab[:, None], kernels, padding=1).square().mean(dim=(0, 1))
    rows, cols = (min(sobel.border, (side - 1) // 2) for side in squared.shape)
    interior = squared[rows : squared.shape[0] - rows, cols : squared.shape[1] - cols]
    return (squared / interior.max().clamp(min=sobel.epsilon)).clamp(max=1)


def neighbour_values(values: Tensor) -> Tensor:
    """(8, C, h, w) values of each neighbour of a map (C, h, w), 0 outside the map."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (1, 1, 1, 1))
    return torch.stack([padded[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width] for r, c in NEIGHBOURS])


def semantic_change(probs: Tensor) -> Tensor:
    """L1 distance ``sum_k |P_k(u) - P_k(v)|`` of the class probabilities (K, h, w) at both ends of an edge: (h, w, 8)."""
    return _both_ways(probs, lambda u, v: (u - v).abs().sum(dim=0))


def feature_change(embedding: Tensor) -> Tensor:
    """Cosine-like distance ``max(0, 1 - F(u) . F(v))`` of embeddings (D, h, w), not normalised here: (h, w, 8)."""
    return _both_ways(embedding, lambda u, v: (1 - (u * v).sum(dim=0)).clamp(min=0))


def _both_ways(values: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A symmetric cost of the ends of an edge, computed once and entered in both directions; 0 where edges leave the map."""
    height, width = values.shape[-2:]
    costs = values.new_zeros(height, width, len(NEIGHBOURS))
    for k, (down, right) in enumerate(NEIGHBOURS):
        if (down, right) < (0, 0):
            continue  # the opposite direction of a later neighbour, which is number 7 - k
        u = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        v = slice(down, height), slice(max(0, right), width + min(0, right))
        cost = change(values[:, *u], values[:, *v])
        costs[*u, k] = cost
        costs[*v, len(NEIGHBOURS) - 1 - k] = cost
    return costs


def edge_crossing(strength: Tensor, directed: bool = True) -> Tensor:
    """Cost of an edge map (h, w) on the edges of the grid: (h, w, 8).

    Args:
        strength: (h, w) float, not negative.
        directed: True takes the value of the cell that is entered (PSPS released code), so that the two directions of an
            edge differ; False the maximum of both ends (Point2Mask Eq. 3).
    """
    entered = neighbour_values(strength[None])[:, 0]
    cost = entered if directed else torch.maximum(entered, strength)
    return cost.permute(1, 2, 0)


def path_costs(probs: Tensor, image: Tensor, lambda_edge: float = 0.1, sobel: Sobel = Sobel()) -> Tensor:
    """Cost of every step between neighbouring cells: ``d_sem + λ_edge d_edge``, the traversing distance of PSPS without its
    pixel embedding.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur, in [0, 1].
        image: (3, h, w) float RGB in [0, 1].
        lambda_edge: weight of the Sobel edges; 0 leaves them out.
        sobel: how the edge map is normalised.

    Returns:
        (h, w, 8) float, not negative, for `methods.ops.geodesic.geodesic_distances`.
    """
    costs = semantic_change(probs)
    return costs + lambda_edge * edge_crossing(sobel_edges(image, sobel)) if lambda_edge else costs
