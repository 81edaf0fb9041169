"""Verdicts on cells and claims: pure functions of numbers. Qualities are in [0, 1].

A *cell* is compared with the number that a paper prints for the same experiment. A *claim* is an ordering between cells of
ours; what counts is the difference paired by seed and, where sums per image are stored, by image as well: it is separable
only if both intervals leave zero on the same side. With fewer than three seeds nothing is separable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmark.runs import State
from benchmark.statistics import (
    LEAST_SEEDS,
    LEVEL,
    ImageSums,
    Interval,
    paired_differences,
    paired_image_interval,
    pooled,
    prediction_interval,
    seed_interval,
)

REPRODUCED = 0.005
"""A gap of half a point or less is none: the papers' own single runs of one setting differ by as much."""

PREDICTIONS = frozenset({"pq", "pq_th", "pq_st", "sq", "rq"})
AT_FLOOR = {"mini": PREDICTIONS}
"""Scale -> the metrics that have no signal there: full masks reach a PQ_th of 2 to 3 at mini."""

FAILURES = (State.FAILED, State.DIVERGED, State.OUT_OF_MEMORY, State.TIMEOUT, State.NODE_FAILED, "broken")


class Verdict(StrEnum):
    """On a cell: how our number stands to the paper's."""

    REPRODUCED = "reproduced"
    WITHIN_NOISE = "within noise"
    BELOW = "below"
    ABOVE = "above"
    NOT_COMPARABLE = "not comparable"
    NOT_RUN = "not run"
    FAILED = "failed"


class Outcome(StrEnum):
    """On a claim: whether our cells have its order."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not separable"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """A verdict with its reason; ``gap`` is ours minus theirs, None where it is not taken."""

    verdict: Verdict
    why: str = ""
    gap: float | None = None

    @property
    def text(self) -> str:
        """"below" or "failed (RuntimeError)"."""
        return f"{self.verdict} ({self.why})" if self.why else str(self.verdict)


def cell_verdict(
    theirs: float,
    ours: Sequence[float],
    states: Sequence[str],
    apart: Sequence[str] = (),
    failure: str = "",
) -> CellVerdict:
    """How a cell stands to a paper's number.

    Args:
        theirs: the printed value, a single run.
        ours: the value of every seed that is done and measured it.
        states: of all runs of the cell.
        apart: in what our experiment is another one (data, scale, network, schedule).
        failure: class of the error of a run that failed.

    A gap is *within noise* if the printed value lies where a further seed of ours would (`prediction_interval`, three seeds
    or more); one or two seeds can be reproduced, below or above.
    """
    if State.DONE not in states:
        if any(state in FAILURES for state in states):
            return CellVerdict(Verdict.FAILED, failure or next(s for s in states if s in FAILURES))
        return CellVerdict(Verdict.NOT_RUN, ", ".join(dict.fromkeys(str(s) for s in states if s != State.PLANNED)))
    if apart:
        return CellVerdict(Verdict.NOT_COMPARABLE, "; ".join(apart))
    if not ours:
        return CellVerdict(Verdict.NOT_COMPARABLE, "not measured")
    gap = sum(ours) / len(ours) - theirs
    if abs(gap) <= REPRODUCED + 1e-9:
        return CellVerdict(Verdict.REPRODUCED, "", gap)
    noise = prediction_interval(ours)
    if noise is not None and theirs in noise:
        return CellVerdict(Verdict.WITHIN_NOISE, "", gap)
    unknown = "" if noise else f"n = {len(ours)}: noise not known"
    return CellVerdict(Verdict.BELOW if gap < 0 else Verdict.ABOVE, unknown, gap)


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one cell: its value by seed and, where stored, its sums per image by seed; ``name`` is the cell's."""

    name: str
    by_seed: Mapping[int, float]
    by_image: Mapping[int, ImageSums]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ordering of a claim: ``share * better - worse`` is negative exactly if the order is wrong.

    Attributes:
        better, worse: names of the cells.
        difference: mean over the ``seeds`` paired seeds; None without any.
        over_seeds, over_images: intervals of the difference, None where there are too few.
        outcome, why: the verdict on this ordering alone.
    """

    better: str
    worse: str
    difference: float | None
    seeds: int
    over_seeds: Interval | None
    over_images: Interval | None
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """The verdict on a claim by one metric, with the comparisons that it rests on."""

    outcome: Outcome
    why: str
    comparisons: tuple[Comparison, ...]

    @property
    def text(self) -> str:
        """"not separable: n = 1, 3 seeds are needed"."""
        return f"{self.outcome}: {self.why}" if self.why else str(self.outcome)


def compare(better: Measured, worse: Measured, share: float = 1.0, alternatives: int = 1) -> Comparison:
    """Compare two cells, paired by seed and by image.

    Args:
        better, worse: the cells, in the claimed order.
        share: the worse one has less than this share of the better one.
        alternatives: number of orderings of the claim. One wrong ordering refutes a claim, so that a refutation is held to a
            level corrected for their number (Bonferroni); that all hold needs no correction.
    """
    differences = paired_differences(better.by_seed, worse.by_seed, share)
    mean = sum(differences) / len(differences) if differences else None
    seeds = seed_interval(differences)
    images = _image_interval(better, worse, share, LEVEL)
    outcome, why = Outcome.OPEN, ""
    if mean is None:
        missing = [cell.name for cell in (better, worse) if not cell.by_seed]
        outcome, why = Outcome.NOT_RUN, f"no result of {' and '.join(missing)}" if missing else "no seed in both"
    elif seeds is None:
        why = f"n = {len(differences)}, {LEAST_SEEDS} seeds are needed"
    elif _all(1, seeds, images):
        outcome = Outcome.HOLDS
    elif _refuted(differences, better, worse, share, 1 - (1 - LEVEL) / alternatives):
        outcome = Outcome.FAILS
    else:
        held = [what for what, interval in (("seeds", seeds), ("images", images)) if interval and interval.sign == 0]
        why = f"the interval over {' and '.join(held)} holds zero" if held else "seeds and images differ in sign"
        if not held and seeds.sign < 0:
            why = f"wrong order, but not beyond chance among {alternatives} comparisons"
    return Comparison(better.name, worse.name, mean, len(differences), seeds, images, outcome, why)


def _image_interval(better: Measured, worse: Measured, share: float, level: float) -> Interval | None:
    seeds = [seed for seed in better.by_image if seed in worse.by_image]
    if not seeds:
        return None
    first, second = (pooled([cell.by_image[seed] for seed in seeds]) for cell in (better, worse))
    return paired_image_interval(first, second, share, level)


def _refuted(differences: Sequence[float], better: Measured, worse: Measured, share: float, level: float) -> bool:
    return _all(-1, seed_interval(differences, level), _image_interval(better, worse, share, level))


def _all(sign: int, seeds: Interval | None, images: Interval | None) -> bool:
    return seeds is not None and seeds.sign == sign and (images is None or images.sign == sign)


def claim_verdict(comparisons: Sequence[Comparison], metric: str, scale: str) -> ClaimVerdict:
    """All orderings must hold; one that does not refutes the claim. A metric at its floor separates nothing.

    Args:
        comparisons: of the claim's orderings; none if the grid lacks a cell.
        metric: key of the metric.
        scale: of the runs.
    """
    found = tuple(comparisons)
    if not found:
        return ClaimVerdict(Outcome.NOT_RUN, "the grid has no such cells", found)
    by_outcome = {outcome: [c for c in found if c.outcome == outcome] for outcome in Outcome}
    if len(by_outcome[Outcome.NOT_RUN]) == len(found):
        return ClaimVerdict(Outcome.NOT_RUN, found[0].why, found)
    if metric in AT_FLOOR.get(scale, ()):
        return ClaimVerdict(Outcome.OPEN, f"the metric is at its floor at scale {scale}", found)
    if wrong := by_outcome[Outcome.FAILS]:
        return ClaimVerdict(Outcome.FAILS, _told(wrong, found), found)
    if missing := by_outcome[Outcome.NOT_RUN]:
        return ClaimVerdict(Outcome.NOT_RUN, missing[0].why, found)
    if undecided := by_outcome[Outcome.OPEN]:
        return ClaimVerdict(Outcome.OPEN, undecided[0].why + _told(undecided, found, "; "), found)
    return ClaimVerdict(Outcome.HOLDS, "", found)


def _told(some: Sequence[Comparison], found: Sequence[Comparison], before: str = "") -> str:
    """Which of several orderings are meant."""
    if len(found) == 1:
        return ""
    return f"{before}{len(some)} of {len(found)} orderings, first {some[0].better} over {some[0].worse}"
