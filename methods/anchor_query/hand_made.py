"""Distances by rule instead of learned ones: shortest paths on a grid, and transport over them.

Neither gets a gradient from the points, which is what EPLD sets out to change. The Euclidean distance is
`methods.ops.assignment.point_distances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.assignment import assign
from methods.ops.transport import sinkhorn_batch


@dataclass(frozen=True, slots=True)
class TransportSolver:
    """Sinkhorn's constants; defaults are those of Point2Mask.

    Attributes:
        epsilon: entropic regularisation, where the largest cost is 1.
        iterations: Sinkhorn iterations.
    """

    epsilon: float = 1e-3
    iterations: int = 80


def target_supplies(distances: Tensor, classes: Tensor, cell_classes: Tensor) -> Tensor:
    """How many cells each target has to give: those of its class that are nearest to it.

    Args:
        distances: (n, h, w) float.
        classes: (n,) int64 class of each target.
        cell_classes: (h, w) int64 class of each cell, all of them in ``classes``.

    Returns:
        (n,) float64, positive, with sum h w: at least a cell for each target before that sum is made up.
    """
    size = tuple(cell_classes.shape)
    owners = assign(distances, size, classes, cell_classes)
    counts = torch.bincount(owners.flatten(), minlength=len(classes) + 1)[1:].clamp(min=1).double()
    return counts * (cell_classes.numel() / counts.sum())


def transported(
    distances: Sequence[Tensor], supplies: Sequence[Tensor], solver: TransportSolver = TransportSolver()
) -> list[Tensor]:
    """Distances whose argmin is the argmax of an optimal transport plan that has the distances as cost.

    The plan is ``exp((u_n + v_i - d_n(i)) / ε)``: within a cell only ``d_n(i) - u_n`` differs.

    Args:
        distances: of B images, (n, h, w) float32, finite, not negative, n >= 1.
        supplies: (n,) each, with sum h w.
        solver: ε and iterations.

    Returns:
        B tensors (n, h, w) float32 ``d - u + max u``, not negative, in shares of the image's largest distance.
    """
    costs = [(d / d.max().clamp(min=torch.finfo(d.dtype).tiny)).flatten(1) for d in distances]
    demands = [torch.ones(cost.shape[1], dtype=torch.float64, device=cost.device) for cost in costs]
    plans = sinkhorn_batch(costs, list(supplies), demands, solver.epsilon, solver.iterations)
    return [
        (plan.cost + (plan.row_potential.max() - plan.row_potential).to(plan.cost.dtype)[:, None]).view_as(d)
        for plan, d in zip(plans, distances, strict=True)
    ]


def at_pixels(distances: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """Distances of some targets, bilinearly at full resolution.

    Args:
        distances: (k, h, w) float32, finite.
        chosen: (n,) bool with k of them True.
        size: (height, width).

    Returns:
        (n, height, width) float32, inf for the targets that are not chosen.
    """
    full = distances.new_full((len(chosen), *size), torch.inf)
    if len(distances):
        full[chosen] = F.interpolate(distances[None], size=size, mode="bilinear", align_corners=False)[0]
    return full
