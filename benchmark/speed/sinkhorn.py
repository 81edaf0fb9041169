"""Section ``sinkhorn``: entropic transport, against the plain loop of two log-sum-exps and against POT."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.speed.harness import Settings, closeness, compare, interleaved, pinned, same_labels
from benchmark.speed.inputs import EPSILON, transport_problem
from benchmark.speed.plain import two_logsumexp_sinkhorn
from benchmark.speed.rows import COMPARISONS, OURS, Table, comparison_row, error_row, summary
from benchmark.speed.targets import SAME_LABELS, SINKHORN_CONVERGED, SINKHORN_ITERATIONS
from methods.ops.transport import sinkhorn, solve_transport

SUPPLIERS = (5, 20)
SIZES = ((100, 100), (250, 400))
ITERATIONS = 80
ERROR = 1e-6
"""Share of the mass that may be misplaced, summed over rows or over columns, whichever the last update leaves open."""
EPSILONS = (EPSILON, 0.05)
"""Of the comparison with POT: that of the papers, and one at which POT arrives."""
POT_SECONDS, POT_CHUNK = 10.0, 50
"""POT is stopped after so many seconds; between calls of so many iterations its error is looked at."""


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """A fixed number of iterations, and convergence."""
    yield _iterations(settings)
    yield _converged(settings)


def _iterations(settings: Settings) -> Table:
    table = Table(
        f"{ITERATIONS} iterations", COMPARISONS,
        f"Float32 path costs of a scene, ε = {EPSILON:g}, on {settings.device.type}, one thread each. The other side is the "
        "loop of two `torch.logsumexp` as papers write it.",
    )
    with pinned(1):
        for count in SUPPLIERS:
            for size in SIZES:
                settings.tell(f"{ITERATIONS} Sinkhorn iterations, {count} x {size[0] * size[1]}")
                problem = [each.to(settings.device) for each in transport_problem(count, size, seed=3)]
                cost = problem[0]
                table.rows.append(compare(
                    f"{count} suppliers, {size[0] * size[1]:,} pixels", "two log-sum-exps",
                    lambda problem=problem: sinkhorn(*problem, eps=EPSILON, iterations=ITERATIONS),
                    lambda problem=problem: two_logsumexp_sinkhorn(*problem, EPSILON, ITERATIONS),
                    lambda ours, other, cost=cost: same_labels(ours.labels(), other.labels(cost), SAME_LABELS),
                    settings.budget(8, least=3), settings.device, SINKHORN_ITERATIONS,
                ))  # fmt: skip
    return table


def _converged(settings: Settings) -> Table:
    table = Table(
        f"To a marginal error of {ERROR:g}", COMPARISONS,
        f"`solve_transport` against `ot.bregman.sinkhorn_log` from POT, both to {ERROR:g} of the mass misplaced; float64, "
        f"one thread each. POT is stopped after {POT_SECONDS:g} s, and its time is then a lower bound.",
    )
    for count in SUPPLIERS:
        for eps in EPSILONS:
            pixels = SIZES[0][0] * SIZES[0][1]
            case = f"{count} suppliers, {pixels:,} pixels, ε = {eps:g}"
            if find_spec("ot") is None:
                table.rows.append(error_row(case, "POT is not installed; pip install POT", "POT"))
                continue
            settings.tell(f"transport to convergence, {case}")
            with pinned(1):
                table.rows.append(_against_pot(case, transport_problem(count, SIZES[0], seed=3), eps, settings))
    return table


def misplaced(plan: np.ndarray, supply: np.ndarray, demand: np.ndarray) -> float:
    """Share of the mass by which the row sums or the column sums of a plan (n, m) miss theirs, whichever is more."""
    rows, columns = np.abs(plan.sum(axis=1) - supply).sum(), np.abs(plan.sum(axis=0) - demand).sum()
    return float(max(rows, columns) / demand.sum())


def _against_pot(case: str, problem: tuple[Tensor, Tensor, Tensor], eps: float, settings: Settings) -> dict[str, Any]:
    cost, supply, demand = problem[0].double(), problem[1], problem[2]
    on_device = [each.to(settings.device) for each in (cost, supply, demand)]

    def ours():
        return solve_transport(*on_device, eps=eps, tolerance=ERROR)

    plan = ours().plan().cpu().numpy()
    error = misplaced(plan, supply.numpy(), demand.numpy())
    if error > 1.1 * ERROR:  # the plan is computed from the potentials once more
        return error_row(case, f"ours misplaces {error:.2g} of the mass, more than {ERROR:g}", "POT")
    seconds = interleaved({OURS: ours}, settings.budget(2), settings.device)[OURS]
    pot = run_pot(cost.numpy(), supply.numpy(), demand.numpy(), eps, POT_SECONDS / 20 if settings.quick else POT_SECONDS)
    arrived = pot.error <= ERROR
    figures = {"misplaced by ours": error, "misplaced by POT": pot.error}
    if arrived:
        agreement = closeness(plan, pot.plan, 1e-3)
        figures |= agreement.figures
        if not agreement.same:
            return error_row(case, f"the results differ: {agreement}", "POT")
    note = f"{pot.iterations:,} iterations" + ("" if arrived else f"; stopped at an error of {pot.error:.2g}")
    median = summary(seconds)["median"]
    row = comparison_row(case, "POT", {OURS: [median], "POT": [pot.seconds]}, figures, SINKHORN_CONVERGED, note)
    row |= {OURS: summary(seconds), "lower_bound": not arrived}
    if not arrived and not row["met"]:  # it would take POT longer, nobody knows how long
        row |= {"met": None}
    return row


@dataclass(frozen=True, eq=False)
class PotRun:
    """What POT reached: its plan in units of the demand, iterations, seconds and share of misplaced mass."""

    plan: np.ndarray
    iterations: int
    seconds: float
    error: float


def run_pot(cost: np.ndarray, supply: np.ndarray, demand: np.ndarray, eps: float, limit: float) -> PotRun:
    """`ot.bregman.sinkhorn_log` until its plan misplaces at most `ERROR`, or for ``limit`` seconds.

    It goes in chunks from the potentials that it had, because it measures its error in another norm and cannot be given a
    time; looking at the error between chunks is not timed.
    """
    from ot.bregman import sinkhorn_log

    mass = demand.sum()
    start, iterations, seconds, error, plan = None, 0, 0.0, np.inf, np.empty(0)
    while error > ERROR and seconds < limit:
        began = time.perf_counter()
        with np.errstate(over="ignore"):  # of scalings that it reports beside its potentials
            plan, log = sinkhorn_log(
                supply / mass, demand / mass, cost, eps, POT_CHUNK, stopThr=0, log=True, warn=False, warmstart=start
            )
        seconds += time.perf_counter() - began
        iterations += POT_CHUNK
        start, plan = (log["log_u"], log["log_v"]), plan * mass
        error = misplaced(plan, supply, demand)
    return PotRun(plan, iterations, seconds, error)
