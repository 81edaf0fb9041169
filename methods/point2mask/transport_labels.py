"""From costs and unit numbers to labels: the decoding of transport, and the segments that follow."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.ops.full_size import cheapest_supplier
from methods.ops.unit_transport import Solver, transport_offsets

__all__ = ["Solver", "claimed_segments", "transport_offsets", "transported_owners"]


def transported_owners(costs: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """The supplier of every pixel, ``argmin_i (c_ij - u_i)``.

    Args:
        costs: (n, gh, gw) float32 on the grid.
        offsets: (n,) float32 u; zeros give the minimum-cost assignment.
        size: (height, width) of the image.

    Returns:
        (height, width) int64 in ``0 .. n - 1``, the lowest index on ties; zeros if n is 0.
    """
    if not len(costs):
        return torch.zeros(size, dtype=torch.int64, device=costs.device)
    return cheapest_supplier(costs, offsets, size)


def claimed_segments(
    costs: Tensor, offsets: Tensor, probs: Tensor, rows: Tensor, is_thing: Tensor, stuff_threshold: float
) -> Tensor:
    """Segment ids where every target is a supplier: the plan decides things and stuff alike.

    Args:
        costs: (n, gh, gw) float32 on the grid; n may be 0.
        offsets: (n,) float32; zeros give the minimum-cost assignment.
        probs: (c, h, w) float probabilities of the classes that occur.
        rows: (n,) int64 in ``0 .. c - 1``, the class of each target in ``probs``.
        is_thing: (n,) bool.
        stuff_threshold: a pixel of a stuff target is void where the probability of its class is lower; the rule that the
            semantic branch's stuff pixels have.

    Returns:
        (h, w) int64, 0 = void, ``i + 1`` = target ``i``; the lowest target on ties.
    """
    size = tuple(probs.shape[1:])
    if not len(costs):
        return torch.zeros(size, dtype=torch.int64, device=probs.device)
    owners = cheapest_supplier(costs, offsets, size)
    if probs.device.type != "cpu" or probs.dtype != torch.float32:
        return sure_segments_plain(owners, probs, rows, is_thing, stuff_threshold)
    arrays = (each.detach().contiguous().numpy() for each in (owners, probs, rows, is_thing))
    return torch.from_numpy(_sure_segments(*arrays, np.float32(stuff_threshold)))


def sure_segments_plain(
    owners: Tensor, probs: Tensor, rows: Tensor, is_thing: Tensor, stuff_threshold: float
) -> Tensor:
    """Segment ids of the owners (h, w) of the pixels, void where `claimed_segments` has it; on any device."""
    certainty = probs.gather(0, rows[owners][None])[0]
    unsure = ~is_thing[owners] & (certainty < stuff_threshold)
    return torch.where(unsure, 0, owners + 1)


@njit(nogil=True, cache=True)
def _sure_segments(
    owners: np.ndarray, probs: np.ndarray, rows: np.ndarray, is_thing: np.ndarray, stuff_threshold: np.float32
) -> np.ndarray:
    """`sure_segments_plain` in one pass."""
    segments = np.empty_like(owners)
    for y in range(owners.shape[0]):
        for x in range(owners.shape[1]):
            owner = owners[y, x]
            unsure = not is_thing[owner] and probs[rows[owner], y, x] < stuff_threshold
            segments[y, x] = 0 if unsure else owner + 1
    return segments
