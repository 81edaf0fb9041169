"""Pixel-to-anchor distances, soft assignment and aggregation. Our reading of EPLD: none of these formulas is the paper's.

n counts anchors (one per target, or per labelled pixel), i the cells of the 1/8 map, g the attention heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.instance_losses import among_present
from methods.base.losses import mean_over_devices
from methods.ops.rasterize import UNLABELLED


def attention_logits(queries: Tensor, keys: Tensor, head_weights: Tensor) -> Tensor:
    """``sum_g w_g q_gn . k_gi / sqrt(D / G)``: the logits of a cross-attention with G heads, fused linearly.

    Args:
        queries: (..., N, D) projected anchors.
        keys: (..., S, D) projected cells.
        head_weights: (G,) w, where G divides D.

    Returns:
        (..., N, S) float32, in (-inf, inf).
    """
    width = queries.shape[-1] // len(head_weights)
    # The fusion is linear, so that it can weigh the queries: one map per anchor in memory instead of G.
    weights = head_weights.repeat_interleave(width) * width**-0.5
    return ((queries * weights) @ keys.transpose(-1, -2)).float()


def anchor_distances(logits: Tensor, bias: Tensor) -> Tensor:
    """``softplus(b_n - logit_n(i))``: how far each cell is from each anchor.

    Args:
        logits: (..., N, S) float32.
        bias: (..., N) or (..., N, S), added inside the softplus.

    Returns:
        (..., N, S) float32, >= 0, small where anchor and cell match.
    """
    bias = bias if bias.dim() == logits.dim() else bias[..., None]
    return F.softplus(bias.float() - logits)


def squared_distances(queries: Tensor, keys: Tensor, head_weights: Tensor) -> Tensor:
    """``sum_g |w_g| ||q_gn - k_gi||^2 / sqrt(D / G)``: twice the `attention_logits` of weights |w|, taken from the norms.

    Unlike a softplus of the logits it does not flatten where two anchors are both near: what tells them apart in the
    softmax over n is linear in the logits.

    Args:
        queries: (..., N, D) projected anchors.
        keys: (..., S, D) projected cells.
        head_weights: (G,) w, where G divides D.

    Returns:
        (..., N, S) float32, >= 0. Computed in float32 also under autocast, as it is a difference of large numbers.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, weights = queries.float(), keys.float(), head_weights.float().abs()
        width = queries.shape[-1] // len(weights)
        per_channel = weights.repeat_interleave(width) * width**-0.5
        norms = (queries.square() @ per_channel)[..., None] + (keys.square() @ per_channel)[..., None, :]
        return (norms - 2 * attention_logits(queries, keys, weights)).clamp(min=0)


def assignment_logits(distances: Tensor, temperature: Tensor | float, present: Tensor) -> Tensor:
    """``-d / τ``, whose softmax over N is the soft assignment.

    Args:
        distances: (B, N, h, w) float32.
        temperature: τ > 0, a number or a scalar tensor.
        present: (B, N) bool, False for anchors that only fill up the batch and for targets without a labelled pixel.

    Returns:
        (B, N, h, w) float32; so low where not ``present`` that the softmax is 0 there.
    """
    return among_present(-distances / temperature, present)


def soft_assignment(distances: Tensor, temperature: Tensor | float, present: Tensor) -> Tensor:
    """``P_n(i) = softmax_n(-d_n(i) / τ)``, arguments as for `assignment_logits`.

    Returns:
        (B, N, h, w) float32 in [0, 1] with sum 1 over N, exactly 0 where not ``present`` if any anchor of the image is.
    """
    return assignment_logits(distances, temperature, present).softmax(dim=1)


def aggregated(probs: Tensor, values: Tensor, inside: Tensor | None = None, epsilon: float = 1e-6) -> Tensor:
    """``sum_i P_n(i) v_i / (sum_i P_n(i) + ε)``: the mean value of the cells that are assigned to an anchor.

    Cells are shared out among the anchors (P sums to 1 over n), as in soft k-means; in cross-attention each anchor would
    look at the cells for itself.

    Args:
        probs: (..., N, S) float in [0, 1].
        values: (..., S, D).
        inside: (..., S) bool, cells that count (not padding); None for all.
        epsilon: ε > 0, in cells.

    Returns:
        (..., N, D); about 0 for an anchor without a cell.
    """
    if inside is not None:
        probs = probs * inside[..., None, :]
    return (probs @ values.to(probs.dtype)) / (probs.sum(dim=-1, keepdim=True) + epsilon)


def nearest_of_owner(distances: Tensor, owner: Tensor, count: int) -> Tensor:
    """The distance of a target with several anchors: that of its nearest anchor.

    Args:
        distances: (B, M, h, w) float, one map per anchor.
        owner: (B, M) int64 in ``0 .. count``, the target of each anchor; ``count`` for anchors that belong to none.
        count: number N of targets.

    Returns:
        (B, N, h, w) float; 0 for a target without an anchor.
    """
    index = owner[..., None, None].expand_as(distances)
    zeros = distances.new_zeros(len(distances), count + 1, *distances.shape[2:])
    return zeros.scatter_reduce(1, index, distances, "amin", include_self=False)[:, :count]


def point_hinge(distances: Tensor, labels: Tensor, present: Tensor, margin: float = 1.0) -> Tensor:
    """``d_own + sum over the N - 1 others of max(0, margin - d_m) / (N - 1)``, averaged over the labelled cells.

    The literal reading of "regressing" distances at labelled points: the own one small, the others at least the margin.

    Args:
        distances: (B, N, h, w) float32.
        labels: (B, h, w) int64 target of each cell, `UNLABELLED` where nothing is known.
        present: (B, N) bool.
        margin: in units of the distance.

    Returns:
        Scalar, over all labelled cells of the batch; 0 if there is none. An image with one target has no others.
    """
    known = labels != UNLABELLED
    own = F.one_hot(labels[known], distances.shape[1]).bool()
    others = present[:, None, None].expand(*labels.shape, -1)[known] & ~own
    at_cells = distances.movedim(1, -1)[known]
    apart = ((margin - at_cells).clamp(min=0) * others).sum(dim=1) / others.sum(dim=1).clamp(min=1)
    total = ((at_cells * own).sum(dim=1) + apart).sum()
    return total / mean_over_devices(known.sum()).clamp(min=1)
