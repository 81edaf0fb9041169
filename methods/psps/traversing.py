"""The traversing distance of PSPS: how much semantics, edges and appearance change on the way from a labelled pixel.

Source: PSPS released code (the body of the paper was not available).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.edges import edge_crossing, feature_change, semantic_change


@dataclass(frozen=True, slots=True)
class DistanceScale:
    """How distances become likelihoods; defaults are those of the PSPS released code.

    Attributes:
        missing: distance of every cell to an instance without a labelled pixel.
        epsilon: added to the maximum that is divided by.
    """

    missing: float = 10.0
    epsilon: float = 1e-5



def traversing_costs(
    probs: Tensor,
    edges: Tensor | None,
    embedding: Tensor | None,
    lambda_semantic: float = 1.0,
    lambda_edge: float = 0.1,
    lambda_manifold: float = 0.1,
    directed: bool = True,
) -> Tensor:
    """Cost of every step between neighbouring cells, ``λ_sem d_sem + λ_edge d_edge + λ_man d_man``.

    Distance in space has no cost, and diagonal steps cost no more than others.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur, in [0, 1], not normalised over c.
        edges: (h, w) float edge strength in [0, 1], or None for no edge term.
        embedding: (D, h, w) float pixel embedding of norm at most 1, or None for no manifold term.
        lambda_semantic, lambda_edge, lambda_manifold: weights of the terms, not negative.
        directed: True: a step costs the edge strength of the cell that it enters; False: the maximum of both cells.

    Returns:
        (h, w, 8) float, not negative, for `methods.ops.geodesic.geodesic_distances`.
    """
    costs = lambda_semantic * semantic_change(probs)
    if edges is not None and lambda_edge:
        costs = costs + lambda_edge * edge_crossing(edges, directed)
    if embedding is not None and lambda_manifold:
        costs = costs + lambda_manifold * feature_change(embedding)
    return costs


def distance_likelihood(
    distances: Tensor, size: tuple[int, int], scale: DistanceScale = DistanceScale()
) -> Tensor:
    """``1 - D`` with D normalised by its maximum over all instances and cells, at full resolution.

    Args:
        distances: (n, h, w) float32 traversing distances; inf where an instance has no labelled pixel.
        size: (height, width) of the image.
        scale: constants of the normalisation.

    Returns:
        (n, height, width) float32 in [0, 1].
    """
    if not len(distances):
        return distances.new_zeros(0, *size)
    finite = torch.where(torch.isinf(distances), scale.missing, distances)
    normalised = finite / (finite.max() + scale.epsilon)
    return 1 - F.interpolate(normalised[None], size=size, mode="bilinear", align_corners=False)[0]


def class_compatibility(probs: Tensor, present: Tensor, is_stuff: Tensor, classes: Tensor) -> Tensor:
    """How well the semantics of a pixel fit an instance: ``P_class(n)(x) + sum of P over the present stuff classes``.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur.
        present: (c,) int64, those classes, ascending.
        is_stuff: (c,) bool.
        classes: (n,) int64 class of each instance, each in ``present``.

    Returns:
        (n, h, w) float.
    """
    return probs[torch.searchsorted(present, classes)] + probs[is_stuff].sum(dim=0)
