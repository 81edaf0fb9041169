"""What goes into a transport problem and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TINY = 1e-8
"""Added to supply and demand inside the logarithms of Sinkhorn's iterations (Point2Mask released code)."""

TOTALS_TOLERANCE = 1e-6
"""Largest relative difference between total supply and total demand."""

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Transport:
    """An entropic transport plan ``exp((u_i + v_j - cost_ij) / eps)``, kept as its potentials.

    All tensors are on the device of the cost and carry no gradient.

    Attributes:
        cost: (n, m) float32 or float64, as it was given (half precision becomes float32).
        supply: (n,) float64. demand: (m,) float64.
        eps: > 0, in units of the cost.
        row_potential: (n,) float64 u, in units of the cost; -inf for a supplier that takes no part.
        column_potential: (m,) float64 v, in units of the cost; -inf for a column without mass.
        iterations: how many were done: Sinkhorn iterations, or sweeps over the whole matrix of the converged solver.
        converged: whether the asked tolerance was met; None if none was asked.
    """

    cost: Tensor
    supply: Tensor
    demand: Tensor
    eps: float
    row_potential: Tensor
    column_potential: Tensor
    iterations: int
    converged: bool | None = None

    def plan(self) -> Tensor:
        """(n, m) transported mass >= 0 in the dtype of the cost; computed anew by every call."""
        return torch.cat([weights.mul_(scale) for weights, scale in self._chunks()], dim=1)

    def labels(self) -> Tensor:
        """(m,) int64, the supplier that sends most to each column: ``plan().argmax(0)``, lowest index on ties.

        That is ``argmin_i(cost_ij - u_i)``, so that columns without demand have a label too. Entries of a column that are
        equal in the dtype of the cost are ties.
        """
        return torch.cat([weights.argmax(dim=0) for weights, _ in self._chunks()])

    @property
    def row_error(self) -> float:
        """Largest |row sum of the plan - supply|, in units of mass."""
        return self._errors[0]

    @property
    def column_error(self) -> float:
        """Largest |column sum of the plan - demand|, in units of mass."""
        return self._errors[1]

    @cached_property
    def _errors(self) -> tuple[float, float]:
        row_sums, column_error, start = torch.zeros_like(self.supply), torch.zeros_like(self.supply[0]), 0
        for weights, scale in self._chunks():
            part = weights.double() * scale.double()
            row_sums += part.sum(dim=1)
            misfit = part.sum(dim=0) - self.demand[start : start + len(scale)]
            column_error = torch.maximum(column_error, misfit.abs().amax())
            start += len(scale)
        return float((row_sums - self.supply).abs().amax()), float(column_error)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Over blocks of columns: weights (n, w), 1 for the largest of each column, and their scale (w,); plan = product.

        Rounding a product with a positive factor keeps the largest entry of a column apart from the others, so the plan and
        the weights have the same argmax.
        """
        for start in range(0, self.cost.shape[1], _CHUNK):
            some = slice(start, start + _CHUNK)
            exponents = (self.row_potential[:, None] - self.cost[:, some].double()).div_(self.eps)
            best = exponents.amax(dim=0)
            scale = (best + self.column_potential[some] / self.eps).exp()
            yield exponents.sub_(best).exp_().to(self.cost.dtype), scale.to(self.cost.dtype)


def closing_potential(cost: Tensor, row_potential: Tensor, demand: Tensor, eps: float) -> Tensor:
    """(m,) float64 column potential for which the columns of the plan meet the demand exactly; -inf without demand."""
    parts = [
        torch.logsumexp((row_potential[:, None] - some.double()) / eps, dim=0) for some in cost.split(_CHUNK, dim=1)
    ]
    return eps * (demand.log() - torch.cat(parts))


@torch.no_grad()
def checked_problem(cost: Tensor, supply: Tensor, demand: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cost in float32 or float64, supply and demand in float64 on its device, none with a gradient.

    Raises:
        ValueError: see `methods.ops.transport.sinkhorn`.
    """
    if not 0 < eps < float("inf"):
        raise ValueError(f"The entropic regularisation eps must be a positive number, got {eps}.")
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"A transport cost has shape (suppliers, consumers), both at least 1, got {tuple(cost.shape)}.")
    cost = cost.detach()
    if cost.dtype not in (torch.float32, torch.float64):
        cost = cost.float()
    if not bool(torch.isfinite(cost).all()):
        raise ValueError("The transport cost has NaN or infinite entries; give unreachable pairs a large finite cost.")
    marginals = []
    for name, values, size in (("supply", supply, cost.shape[0]), ("demand", demand, cost.shape[1])):
        if values.shape != (size,):
            raise ValueError(f"The {name} must have shape ({size},) for this cost, got {tuple(values.shape)}.")
        values = values.detach().to(device=cost.device, dtype=torch.float64)
        if not bool(((values >= 0) & torch.isfinite(values)).all()):
            raise ValueError(f"The {name} must be finite and non-negative; at least one entry is negative, infinite or NaN.")
        marginals.append(values)
    given, wanted = (float(values.sum()) for values in marginals)
    if abs(given - wanted) > TOTALS_TOLERANCE * max(given, wanted):
        raise ValueError(f"Total supply {given:.9g} and total demand {wanted:.9g} differ; transport needs equal totals.")
    return cost, *marginals
