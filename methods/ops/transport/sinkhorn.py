"""Sinkhorn's iterations in the log domain, with the update order of Point2Mask's released code: v first, u last.

    v_j <- eps (log(demand_j + tiny) - LSE_i((u_i - c_ij) / eps))
    u_i <- eps (log(supply_i + tiny) - LSE_j((v_j - c_ij) / eps))

They start at 0: another constant is absorbed by the first sweep. CPU tensors go through `kernels`, which eliminates v;
tensors on other devices take the two lines above, all images at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.ops.parallel import in_threads
from methods.ops.transport import kernels
from methods.ops.transport.problem import TINY, Transport, checked_problem

_LN2 = math.log(2.0)

Problem = tuple[Tensor, Tensor, Tensor]


def sinkhorn(
    cost: Tensor, supply: Tensor, demand: Tensor,
    eps: float = 1e-3, iterations: int = 80, tolerance: float | None = None,
) -> Transport:
    """Entropic transport plan after a number of Sinkhorn iterations (Point2Mask §3.3, Algorithm 1 and supplement).

    The row sums of the plan are the supply (+ 1e-8); its column sums carry what convergence lacks. With costs far above
    ``eps`` a few dozen iterations are far from convergence, so that their number is a hyper-parameter (Table A2);
    `methods.ops.transport.solve_transport` gives the converged plan.

    Args:
        cost: (n, m) finite, from n >= 1 suppliers to m >= 1 consumers, on any device. Computed in float32 or float64 as
            given, half precision and integers in float32. With a ``tolerance`` the iterations run in float64.
        supply: (n,) mass >= 0, any real dtype.
        demand: (m,) mass >= 0, any real dtype; the same total as the supply up to 1e-6 of it. Both may be all 0.
        eps: entropic regularisation in units of the cost, > 0. ``eps * iterations`` bounds how far mass can be moved:
            every iteration changes the potentials by O(eps log).
        iterations: >= 1; the cap if there is a tolerance.
        tolerance: stop after the first iteration that leaves every column sum within ``tolerance * demand.max()`` of its
            demand. None does all iterations. ``converged`` says whether it was met.

    Raises:
        ValueError: NaN or infinite cost, negative or NaN supply or demand, totals that differ, shapes that do not fit,
            no supplier or no consumer, ``eps <= 0``, ``iterations < 1``, ``tolerance < 0``.
    """
    return sinkhorn_batch([cost], [supply], [demand], eps, iterations, tolerance)[0]


def sinkhorn_batch(
    costs: Sequence[Tensor], supplies: Sequence[Tensor], demands: Sequence[Tensor],
    eps: float = 1e-3, iterations: int = 80, tolerance: float | None = None,
) -> list[Transport]:
    """`sinkhorn` of several images, whose numbers of suppliers and consumers may differ.

    On the CPU each image has a thread; elsewhere all images are padded to one tensor (with a tolerance they run one by one).

    Args:
        costs, supplies, demands: B tensors each, as `sinkhorn` takes them, the costs on one device.
        eps, iterations, tolerance: as there.

    Returns:
        B plans, the same as one by one (bitwise on the CPU).
    """
    if not len(costs) == len(supplies) == len(demands):
        raise ValueError(
            f"Got {len(costs)} costs, {len(supplies)} supplies and {len(demands)} demands; every image needs one of each."
        )
    if iterations < 1:
        raise ValueError(f"Sinkhorn needs at least one iteration, got {iterations}.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"The tolerance must be None or non-negative, got {tolerance}.")
    problems = [checked_problem(c, s, d, eps) for c, s, d in zip(costs, supplies, demands, strict=True)]
    if not problems:
        return []
    if problems[0][0].device.type == "cpu":
        return in_threads(lambda problem: _on_cpu(problem, eps, iterations, tolerance), problems)
    if tolerance is None:
        return iterate_padded(problems, eps, iterations)
    return [_until(problem, eps, iterations, tolerance) for problem in problems]


def scaled_cost(cost: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cost above the minimum of its column in units of ``eps ln 2`` (bits), and those minima.

    The minima only shift v. Without them, near-ties keep more digits in float32.

    Returns:
        (n, m) >= 0 in ``dtype``, contiguous, and (m,) float64.
    """
    lowest = cost.amin(dim=0)
    scaled = (cost - lowest).to(dtype).mul_(1.0 / (eps * _LN2))
    return scaled.contiguous(), lowest.double()


def _on_cpu(problem: Problem, eps: float, iterations: int, tolerance: float | None) -> Transport:
    cost, supply, demand = problem
    dtype = cost.dtype if tolerance is None else torch.float64
    scaled, lowest = scaled_cost(cost.to(dtype), eps, dtype)
    limit = -1.0 if tolerance is None else tolerance * float(demand.amax())
    padded = demand + TINY
    potential, log_totals, done = kernels.iterate(
        scaled.numpy(), (supply + TINY).log2().numpy(), demand.to(dtype).numpy(), padded.to(dtype).numpy(), iterations, limit
    )
    bits = eps * _LN2
    row_potential = torch.from_numpy(potential) * bits
    column_potential = (padded.log2() - torch.from_numpy(log_totals)) * bits + lowest
    return _finished(problem, eps, row_potential, column_potential, done, limit)


def _finished(problem: Problem, eps: float, u: Tensor, v: Tensor, done: int, limit: float) -> Transport:
    """The result; ``limit`` < 0 if no tolerance was asked. The last bits may exceed a limit that was just met."""
    cost, supply, demand = problem
    result = Transport(cost, supply, demand, eps, u, v, done)
    if limit < 0:
        return result
    met = result.column_error <= max(limit * (1 + 1e-6), torch.finfo(cost.dtype).eps * float(demand.amax()))
    return Transport(cost, supply, demand, eps, u, v, done, met)


def iterate_padded(problems: Sequence[Problem], eps: float, iterations: int) -> list[Transport]:
    """Sinkhorn's iterations of several images in one padded tensor, on any device.

    Padded suppliers and consumers have the logarithm of their mass at -inf: they add exact zeros to every sum.
    """
    count = max(cost.shape[0] for cost, _, _ in problems)
    size = max(cost.shape[1] for cost, _, _ in problems)
    dtype = torch.float64 if any(cost.dtype == torch.float64 for cost, _, _ in problems) else torch.float32
    device = problems[0][0].device
    log_kernel = torch.zeros(len(problems), count, size, dtype=dtype, device=device)
    log_supply = torch.full((len(problems), count), -torch.inf, dtype=dtype, device=device)
    log_demand = torch.full((len(problems), size), -torch.inf, dtype=dtype, device=device)
    u, lowest = torch.full_like(log_supply, -torch.inf), []
    for index, (cost, supply, demand) in enumerate(problems):
        rows, columns = cost.shape
        scaled, minima = scaled_cost(cost, eps, dtype)
        log_kernel[index, :rows, :columns] = -_LN2 * scaled
        log_supply[index, :rows] = (supply + TINY).log()
        log_demand[index, :columns] = (demand + TINY).log()
        u[index, :rows] = 0
        lowest.append(minima)
    scratch = torch.empty_like(log_kernel)
    for _ in range(iterations):
        v = log_demand - torch.logsumexp(torch.add(log_kernel, u[:, :, None], out=scratch), dim=1)
        u = log_supply - torch.logsumexp(torch.add(log_kernel, v[:, None, :], out=scratch), dim=2)
    return [
        Transport(
            *problem, eps, eps * rows[: len(problem[1])].double(), eps * columns[: len(minima)].double() + minima, iterations
        )
        for problem, rows, columns, minima in zip(problems, u, v, lowest, strict=True)
    ]


def _until(problem: Problem, eps: float, iterations: int, tolerance: float) -> Transport:
    """One image off the CPU until its column sums are within the tolerance. Each iteration waits for the device once."""
    cost, supply, demand = problem
    limit = tolerance * float(demand.amax())
    scaled, lowest = scaled_cost(cost.double(), eps, torch.float64)
    log_kernel, log_demand, log_supply = scaled.mul_(-_LN2), (demand + TINY).log(), (supply + TINY).log()
    u = torch.zeros_like(supply)
    following = log_demand - torch.logsumexp(log_kernel, dim=0)
    done = 0
    while done < iterations:
        done += 1
        v = following
        u = log_supply - torch.logsumexp(log_kernel + v, dim=1)
        following = log_demand - torch.logsumexp(log_kernel + u[:, None], dim=0)
        columns = (log_demand + v - following).exp()
        if float((columns - demand).abs().amax()) <= limit:
            break
    return _finished(problem, eps, u * eps, v * eps + lowest, done, limit)
