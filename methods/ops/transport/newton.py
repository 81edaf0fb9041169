"""The converged entropic plan, by Newton's method on the semi-dual.

The column potential has a closed form, so the dual is a concave function of the n row potentials alone; its gradient is
``supply - row sums`` and its curvature ``diag(row sums) - P diag(demand) P'``, both from one sweep over the matrix. With n
of some tens and many columns a Newton step costs hardly more than a Sinkhorn iteration. ``eps`` is lowered in stages from
the scale of the cost to its value, each started from the potentials of the one before: at a small ``eps`` the semi-dual is
almost piecewise linear and far from its maximum there is no curvature to follow.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.ops.transport import kernels
from methods.ops.transport.problem import Transport, checked_problem, closing_potential

_LN2 = math.log(2.0)
_FACTOR, _SMALLEST_FACTOR = 4.0, 1.05
"""By how much a stage lowers eps; a stage that fails is tried again with the root of the factor, down to the second."""
_STAGE_STEP = 0.5
"""A stage before the last one ends where no entry of the Newton step exceeds this many eps. A small gradient would not do:
at a small eps the semi-dual is flat beside its maximum as well."""
_STAGE_SWEEPS = 80
_SAMPLE = 4096
"""Columns of the sample from which a problem of at least twice as many starts."""
_DAMPING = 0.1


def solve_transport(
    cost: Tensor, supply: Tensor, demand: Tensor, eps: float = 1e-3, tolerance: float = 1e-6, max_iterations: int = 2000
) -> Transport:
    """Entropic transport plan at convergence: the fixed point of `methods.ops.transport.sinkhorn` without its 1e-8.

    Runs in float64 on the CPU, whatever the device of the cost, and releases the GIL. The columns of the plan meet the
    demand; its rows meet the supply up to the tolerance. A supplier without supply gets nothing, a column without demand is
    empty in the plan and labelled by the same rule as the others; if all masses are 0 the labels are ``cost.argmin(0)``.

    Args:
        cost, supply, demand, eps: as for `methods.ops.transport.sinkhorn`; meant for up to about a hundred suppliers.
        tolerance: > 0; the most mass that may be misplaced, as a share of all mass:
            ``sum_i |row sum_i - supply_i| <= tolerance * supply.sum()``. The limit of float64 is about
            ``1e-16 * cost range / eps``.
        max_iterations: the most sweeps over the whole matrix; usually 5 to 40 are needed.

    Returns:
        A `Transport` that says in ``converged`` whether the tolerance was met; ``row_error`` and ``column_error`` those of
        the plan, the errors of a float32 plan include its rounding.

    Raises:
        ValueError: as `methods.ops.transport.sinkhorn`; ``tolerance <= 0`` or ``max_iterations < 1``.

    Warns:
        RuntimeWarning: the tolerance was not met.
    """
    if not tolerance > 0:
        raise ValueError(f"The tolerance of the converged solver must be positive, got {tolerance}.")
    if max_iterations < 1:
        raise ValueError(f"The converged solver needs at least one iteration, got {max_iterations}.")
    cost, supply, demand = checked_problem(cost, supply, demand, eps)
    rows, columns = supply > 0, demand > 0
    u = torch.zeros_like(supply)
    if not bool(rows.any()):
        return Transport(cost, supply, demand, eps, u, torch.full_like(demand, -torch.inf), 0, True)
    part = (cost[rows] if not bool(rows.all()) else cost)
    part = (part[:, columns] if not bool(columns.all()) else part).double().cpu().numpy()
    potential, error, sweeps = _solve(
        part, supply[rows].cpu().numpy(), demand[columns].cpu().numpy(), eps, tolerance, max_iterations
    )
    u[rows] = torch.from_numpy(potential).to(u.device)
    u[~rows] = -torch.inf
    if error > tolerance:
        warnings.warn(
            f"Transport from {len(supply)} suppliers to {len(demand)} consumers stopped after {sweeps} sweeps with a share "
            f"of {error:.2g} of the mass misplaced (tolerance {tolerance:.2g}); raise max_iterations, eps or the tolerance.",
            RuntimeWarning, stacklevel=2,
        )
    return Transport(cost, supply, demand, eps, u, closing_potential(cost, u, demand, eps), sweeps, error <= tolerance)


def _solve(
    cost: np.ndarray, supply: np.ndarray, demand: np.ndarray, eps: float, tolerance: float, max_sweeps: int
) -> tuple[np.ndarray, float, int]:
    """Row potentials (n,) in units of the cost, the share of misplaced mass and the number of sweeps over the whole matrix.

    A problem with many columns starts from the solution for a sample of them.
    """
    # shifts of columns and rows are absorbed by the potentials; small numbers keep more digits
    excess = cost - cost.min(axis=0)
    lowest = excess.min(axis=1)
    excess -= lowest[:, None]
    supply = supply * (demand.sum() / supply.sum())
    widest = max(float(excess.max()) / _FACTOR, eps)
    potential = eps * np.log(supply / supply.sum())
    if excess.shape[1] >= 2 * _SAMPLE:
        some = np.linspace(0, excess.shape[1] - 1, _SAMPLE).astype(np.int64)
        share = supply * (demand[some].sum() / supply.sum())
        sample = _Semidual(np.ascontiguousarray(excess[:, some]), share, demand[some], tolerance, max_sweeps)
        potential, _ = _anneal(sample, potential, widest, eps, refine=False)
        widest = eps
    whole = _Semidual(excess, supply, demand, tolerance, max_sweeps)
    potential, error = _anneal(whole, potential, widest, eps, refine=True)
    return potential + lowest, error, whole.sweeps


def _anneal(
    problem: _Semidual, potential: np.ndarray, widest: float, eps: float, refine: bool
) -> tuple[np.ndarray, float]:
    """Maximise the semi-dual at a falling sequence of regularisations that ends at ``eps``.

    A stage that does not converge is entered again from its predecessor in a smaller step. If the first one fails (the start
    was taken from a sample of the columns), the sequence starts again from further up.

    Args:
        problem: what to solve. potential: (n,) start, in units of the cost.
        widest: eps of the first stage.
        refine: the last stage reaches the tolerance; else it ends like the others.

    Returns:
        Row potentials (n,) in units of the cost and the share of misplaced mass there at ``eps``: the best ones that were
        found, if the goal was not reached.
    """
    solved, best, current, factor = None, None, widest, _FACTOR
    highest = max(float(problem.excess.max()), eps)
    while True:
        last = current <= eps
        found, error, met = problem.maximise(potential, current, refine and last)
        if last and (best is None or error < best[1]):
            best = found, error
        if met:
            if last:
                return found, error
            solved, potential, current = current, found, max(current / factor, eps)
        elif problem.sweeps >= problem.max_sweeps or factor < _SMALLEST_FACTOR:
            break
        elif solved is None:
            if current >= highest:
                break
            potential, current = found, min(current * _FACTOR**2, highest)
        else:
            factor = math.sqrt(factor)
            current = max(solved / factor, eps)
    if best is None:
        problem.max_sweeps = problem.sweeps + 1  # what the nearest solution is worth at the asked eps
        best = problem.maximise(potential, eps, refine)[:2]
    return best


@dataclass(frozen=True)
class _Point:
    """Row potentials (n,) in bits, the row sums there, ``supply - row sums``, and the share of misplaced mass."""

    potential: np.ndarray
    row_sums: np.ndarray
    gradient: np.ndarray
    error: float


class _Semidual:
    """The semi-dual of one problem and its maximisation at a given eps.

    Args:
        excess: (n, m) float64 cost, contiguous. supply: (n,), demand: (m,) float64 > 0 with equal totals.
        tolerance: share of misplaced mass. max_sweeps: after this many sweeps over the matrix nothing more is tried.
    """

    def __init__(
        self, excess: np.ndarray, supply: np.ndarray, demand: np.ndarray, tolerance: float, max_sweeps: int
    ) -> None:
        self.excess, self.supply, self.demand = excess, supply, demand
        self.tolerance, self.max_sweeps = tolerance, max_sweeps
        self.mass = float(demand.sum())
        self.sweeps = 0
        self._scaled = np.empty_like(excess)
        self._shift, self._total = np.empty_like(demand), np.empty_like(demand)
        self._overlap = np.empty((len(supply), len(supply)))

    def maximise(self, potential: np.ndarray, eps: float, refine: bool) -> tuple[np.ndarray, float, bool]:
        """Damped Newton ascent from ``potential`` (n,), in units of the cost.

        It stops where the share of misplaced mass is within the tolerance; unless it is to refine, also where the potentials
        are right to a fraction of ``eps``.

        Returns:
            Potentials, the share of misplaced mass there, and whether the goal was reached.
        """
        np.multiply(self.excess, 1.0 / (eps * _LN2), out=self._scaled)
        stop = min(self.sweeps + _STAGE_SWEEPS, self.max_sweeps)
        here = best = self._at(potential / (eps * _LN2))
        settled = False
        while here.error > self.tolerance and self.sweeps < stop:
            raised = self._raise_starved(here)
            if raised is not None:
                here = self._at(raised)
            else:
                step = self._direction(here)
                settled = not refine and bool(np.abs(step).max() * _LN2 <= _STAGE_STEP)
                if settled:
                    break
                here = self._line_search(here, step, stop)
            if here.error < best.error:
                best = here
        found = here if settled else best
        return found.potential * (eps * _LN2), found.error, settled or found.error <= self.tolerance

    def _at(self, potential: np.ndarray) -> _Point:
        row_sums = np.empty_like(potential)
        kernels.sweep(self._scaled, potential, self.demand, self._shift, self._total, row_sums, self._overlap)
        self.sweeps += 1
        gradient = self.supply - row_sums
        return _Point(potential, row_sums, gradient, float(np.abs(gradient).sum()) / self.mass)

    def _raise_starved(self, here: _Point) -> np.ndarray | None:
        """A Sinkhorn update of the rows that get so little that the semi-dual has no curvature there; None if none does."""
        starved = (here.row_sums < kernels.STARVED * self.mass) & (self.supply > 4 * kernels.STARVED * self.mass)
        if not starved.any():
            return None
        raised = here.potential.copy()
        for i in np.flatnonzero(starved):
            log_sum = kernels.log2_row_sum(
                self._scaled[i], raised[i], self.demand, self._shift, self._total, here.row_sums[i], self.mass
            )
            raised[i] += math.log2(self.supply[i]) - log_sum
        return raised

    def _direction(self, here: _Point) -> np.ndarray:
        """Newton step in bits, from the overlap that the sweep at ``here`` has left.

        The curvature is a weighted graph Laplacian, so that a damping of ``_DAMPING |gradient|`` on its diagonal bounds the
        step by ``1 / _DAMPING`` eps; it vanishes with the gradient, down to what the tolerance lets pass.
        """
        lower = np.tril(self._overlap, -1)
        laplacian = -(lower + lower.T)
        passing = 0.1 * self.tolerance * self.mass / len(self.supply)
        damping = _DAMPING * np.maximum(np.abs(here.gradient), passing)
        np.fill_diagonal(laplacian, damping - laplacian.sum(axis=1))
        return np.linalg.solve(laplacian, here.gradient) / _LN2

    def _line_search(self, here: _Point, step: np.ndarray, stop: int) -> _Point:
        """A point along the Newton step where the slope has fallen to half of its start in size.

        Only slopes are compared: the semi-dual itself is so large that its improvements drown in rounding. Secant steps
        alternate with bisections, because at a small eps the slope is a staircase.
        """
        start = float(here.gradient @ step)
        low, high, low_slope, high_slope = 0.0, math.inf, start, -math.inf
        length, bisect = 1.0, False
        while True:
            there = self._at(here.potential + length * step)
            slope = float(there.gradient @ step)
            if abs(slope) <= 0.5 * start or there.error <= max(self.tolerance, 0.1 * here.error) or self.sweeps >= stop:
                return there
            if slope > 0:
                low, low_slope = length, slope
            else:
                high, high_slope = length, slope
            if math.isinf(high):
                length *= 4.0
            elif high - low <= 1e-12 * high:
                return there
            elif bisect:
                length = 0.5 * (low + high)
            else:
                secant = low + (high - low) * low_slope / (low_slope - high_slope)
                margin = 0.05 * (high - low)
                length = min(max(secant, low + margin), high - margin)
            bisect = not bisect
