"""From costs and unit numbers to labels: transport, its decoding, and the segments that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.ops.transport import Transport, sinkhorn_batch, solve_transport
from methods.point2mask.cost import at_pixels


@dataclass(frozen=True, slots=True)
class Solver:
    """How transport is solved.

    Attributes:
        name: ``"sinkhorn"``, so many sweeps as published, or ``"converged"``.
        epsilon: entropic regularisation, in units of the cost, positive.
        iterations: sweeps of ``"sinkhorn"``.
        tolerance: of ``"converged"``.
        resolution: ``"full"`` transports pixels, ``"grid"`` the cells of the distance grid, which want as many units as they
            have consuming pixels.
    """

    name: Literal["sinkhorn", "converged"] = "sinkhorn"
    epsilon: float = 1e-3
    iterations: int = 80
    tolerance: float = 1e-6
    resolution: Literal["full", "grid"] = "grid"

    def solve(self, costs: list[Tensor], supplies: list[Tensor], demands: list[Tensor]) -> list[Transport]:
        """Solutions of several problems: costs (n, m), supplies (n,), demands (m,)."""
        if self.name == "sinkhorn":
            return sinkhorn_batch(costs, supplies, demands, self.epsilon, self.iterations)
        problems = zip(costs, supplies, demands, strict=True)
        return [solve_transport(*problem, self.epsilon, self.tolerance) for problem in problems]


def cell_demands(consumers: Tensor, grid: tuple[int, int]) -> Tensor:
    """(gh, gw) float32: how many of the consumers (h, w) bool lie in each cell of the grid that covers the image."""
    rows, cols = torch.nonzero(consumers, as_tuple=True)
    rows = torch.div(rows * grid[0], consumers.shape[0], rounding_mode="floor")
    cols = torch.div(cols * grid[1], consumers.shape[1], rounding_mode="floor")
    return torch.bincount(rows * grid[1] + cols, minlength=grid[0] * grid[1]).view(grid).float()


def transport_offsets(
    costs: Sequence[Tensor], supplies: Sequence[Tensor], consumers: Sequence[Tensor], solver: Solver = Solver()
) -> list[Tensor]:
    """Optimal transport as one offset per supplier: a pixel j belongs to ``argmin_i(c_ij - u_i)``.

    The plan is ``Γ_ij = exp((u_i + v_j - c_ij) / ε)``, so that ``argmax_i Γ_ij`` (Point2Mask Algorithm 1) does not depend on
    v. Pixels without demand take no part.

    Args:
        costs: of B images, (n, gh, gw) float32 on the grid, finite.
        supplies: (n,) float64 each, not negative; the sum is the number of consumers.
        consumers: (h, w) bool each.
        solver: how it is solved.

    Returns:
        B tensors (n,) float32 u, in units of the cost; very small or -inf for a supplier that has nothing to give. Zeros
        where there is nothing to decide: fewer than two suppliers, or no consumer.
    """
    offsets = [cost.new_zeros(len(cost)) for cost in costs]
    open_ones, problems = [], []
    for index, (cost, supply, wanted) in enumerate(zip(costs, supplies, consumers, strict=True)):
        if len(cost) < 2 or not wanted.any():
            continue
        if solver.resolution == "full":
            columns, demand = at_pixels(cost, tuple(wanted.shape)).flatten(1), wanted.flatten().float()
        else:
            columns, demand = cost.flatten(1), cell_demands(wanted, tuple(cost.shape[1:])).flatten()
        used = demand > 0
        open_ones.append(index)
        problems.append((columns[:, used], supply, demand[used]))
    if problems:
        for index, transport in zip(open_ones, solver.solve(*map(list, zip(*problems, strict=True))), strict=True):
            offsets[index] = transport.row_potential.float()
    return offsets


def supplier_scores(costs: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """``u_i - c_ij`` at full resolution, largest at the supplier of a pixel.

    Args:
        costs: (n, gh, gw) float32 on the grid.
        offsets: (n,) float32; zeros give the minimum-cost assignment.
        size: (height, width) of the image.

    Returns:
        (n, height, width) float32.
    """
    return offsets[:, None, None] - at_pixels(costs, size)


def claimed_segments(scores: Tensor, probs: Tensor, rows: Tensor, is_thing: Tensor, stuff_threshold: float) -> Tensor:
    """Segment ids where every target is a supplier: the plan decides things and stuff alike.

    Args:
        scores: (n, h, w) float, largest at the target that a pixel belongs to; n may be 0.
        probs: (c, h, w) float probabilities of the classes that occur.
        rows: (n,) int64 in ``0 .. c - 1``, the class of each target in ``probs``.
        is_thing: (n,) bool.
        stuff_threshold: a pixel of a stuff target is void where the probability of its class is lower; the rule that the
            semantic branch's stuff pixels have.

    Returns:
        (h, w) int64, 0 = void, ``i + 1`` = target ``i``; the lowest target on ties.
    """
    if not len(scores):
        return torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
    owners = scores.max(dim=0).indices
    certainty = probs.gather(0, rows[owners][None])[0]
    unsure = ~is_thing[owners] & (certainty < stuff_threshold)
    return torch.where(unsure, 0, owners + 1)
