"""The traversing distance of PSPS: how much semantics, edges and appearance change on the way from a labelled pixel.

Source: PSPS released code (the body of the paper was not available).
"""

from __future__ import annotations

from torch import Tensor

from methods.ops.edges import edge_crossing, feature_change, semantic_change


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
