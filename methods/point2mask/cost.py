"""What a path costs from a labelled pixel to another one (Point2Mask Eq. 2-3), and what pixels pay for their suppliers."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.ops.assignment import DistanceScale
from methods.ops.edges import edge_crossing, feature_change, semantic_change


def path_costs(
    probs: Tensor,
    high: Tensor | None = None,
    low: Tensor | None = None,
    embedding: Tensor | None = None,
    beta: float = 0.1,
    lambda_manifold: float = 0.1,
    low_directed: bool = False,
) -> Tensor:
    """Cost of every step between neighbouring cells k and l (Point2Mask Eq. 3).

    ``|P^s(k) - P^s(l)| + β max(P^b(k), P^b(l))``, the second term once for each boundary map that is given, and the
    embedding's change where one is given. Distance in space has no cost; a diagonal step costs what others cost.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur, P^s in [0, 1].
        high: (h, w) float boundary map of the decoder, in [0, 1], or None.
        low: (h, w) float edge strength of the image, in [0, 1], or None.
        embedding: (D, h, w) float pixel embedding of norm at most 1, or None.
        beta: weight of each boundary map, not negative.
        lambda_manifold: weight of the embedding's change, not negative.
        low_directed: a step pays the low-level strength of the cell that it enters (released code), not the maximum.

    Returns:
        (h, w, 8) float, not negative, for `methods.ops.geodesic.geodesic_distances`.
    """
    costs = semantic_change(probs)
    if high is not None:
        costs = costs + beta * edge_crossing(high, directed=False)
    if low is not None:
        costs = costs + beta * edge_crossing(low, low_directed)
    if embedding is not None:
        costs = costs + lambda_manifold * feature_change(embedding)
    return costs


def supply_costs(distances: Tensor, scale: DistanceScale = DistanceScale(), normalise: bool = False) -> Tensor:
    """The cost c of transport: the length of the cheapest path from each supplier (Point2Mask Eq. 2).

    Args:
        distances: (n, h, w) float32; inf where a supplier has no source.
        scale: the finite distance that stands for inf, and what is added to the maximum.
        normalise: divide by the maximum; the paper and its code take the sums as they are.

    Returns:
        (n, h, w) float32, finite.
    """
    finite = torch.where(torch.isinf(distances), scale.missing, distances)
    return finite / (finite.max() + scale.epsilon) if normalise and len(finite) else finite


def paid_costs(costs: Tensor, offsets: Tensor) -> Tensor:
    """What each cell pays to the supplier that it is assigned to, ``argmin_i(c_i - u_i)``.

    Args:
        costs: (n, h, w) float32, finite.
        offsets: (n,) float32 u, as `methods.ops.unit_transport.transport_offsets` gives them; zeros: the smallest cost.

    Returns:
        (h, w) float32, inf if n is 0.
    """
    if not len(costs):
        return costs.new_full(costs.shape[1:], torch.inf)
    return costs.gather(0, (costs - offsets[:, None, None]).argmin(dim=0, keepdim=True))[0]
