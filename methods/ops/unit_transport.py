"""Transport of the pixels of an image to suppliers that each have a number of units to give (Point2Mask section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.ops.rasterize import resample
from methods.ops.transport import Transport, sinkhorn_batch, solve_transport


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

    Raises:
        ValueError: unknown name or resolution.
    """

    name: Literal["sinkhorn", "converged"] = "sinkhorn"
    epsilon: float = 1e-3
    iterations: int = 80
    tolerance: float = 1e-6
    resolution: Literal["full", "grid"] = "grid"

    def __post_init__(self):
        for what, known in (("name", ("sinkhorn", "converged")), ("resolution", ("full", "grid"))):
            if getattr(self, what) not in known:
                raise ValueError(f"Transport has no {what} '{getattr(self, what)}'; it is one of {', '.join(known)}.")

    def solve(self, costs: list[Tensor], supplies: list[Tensor], demands: list[Tensor]) -> list[Transport]:
        """Solutions of several problems: costs (n, m), supplies (n,), demands (m,)."""
        if self.name == "sinkhorn":
            return sinkhorn_batch(costs, supplies, demands, self.epsilon, self.iterations)
        problems = zip(costs, supplies, demands, strict=True)
        return [solve_transport(*problem, self.epsilon, self.tolerance) for problem in problems]


def cell_demands(consumers: Tensor, grid: tuple[int, int]) -> Tensor:
    """(gh, gw) float32: how many of the consumers (h, w) bool lie in each cell of the grid that covers the image."""

    def members(pixels: int, cells: int) -> Tensor:
        """(cells, pixels) of 0 and 1: which pixels of an axis belong to which cell."""
        place = torch.arange(pixels, device=consumers.device) * cells // pixels
        return (place == torch.arange(cells, device=consumers.device)[:, None]).float()

    # whole numbers, those that are multiplied below 2^11: exact, also in TF32
    rows, cols = (members(pixels, cells) for pixels, cells in zip(consumers.shape, grid, strict=True))
    return rows @ consumers.float() @ cols.T


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
            size = tuple(wanted.shape)
            columns, demand = resample(cost, size, size, size).flatten(1), wanted.flatten().float()
        else:
            columns, demand = cost.flatten(1), cell_demands(wanted, tuple(cost.shape[1:])).flatten()
        used = demand > 0
        open_ones.append(index)
        problems.append((columns[:, used], supply, demand[used]))
    if problems:
        for index, transport in zip(open_ones, solver.solve(*map(list, zip(*problems, strict=True))), strict=True):
            offsets[index] = transport.row_potential.float()
    return offsets
