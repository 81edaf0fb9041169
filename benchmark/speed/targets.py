"""What is wanted of every part, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a measured number.

    Attributes:
        value: the bound.
        at_least: numbers from it on are wanted; False: numbers up to it.
        unit: ``x`` (times), ``%`` (the number is a share), or what stands behind the number.
    """

    value: float
    at_least: bool
    unit: str = "x"

    def met(self, number: float) -> bool:
        """Whether a number is within the bound."""
        return number >= self.value if self.at_least else number <= self.value

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.unit == "%":
            return f"{sign} {100 * self.value:g} %"
        return f"{sign} {self.value:g}x" if self.unit == "x" else f"{sign} {self.value:g} {self.unit}"


WITHOUT_LABEL_BRANCH = ("psps", "point2mask", "agmm")
"""Methods without a learned decoder of labels: the ratio of their step to that with full masks has a target."""

PSEUDO_LABEL_SHARE = Target(0.05, at_least=False, unit="%")
STEP_RATIO = Target(1.25, at_least=False)
GEODESIC = Target(2, at_least=True)
SINKHORN_ITERATIONS = Target(5, at_least=True)
SINKHORN_CONVERGED = Target(20, at_least=True)
TREE = Target(3, at_least=True)
QUALITY_HOTCOCO = Target(1, at_least=True)
QUALITY_PANOPTICAPI = Target(10, at_least=True)
EVALUATION = Target(1, at_least=True)
COMMAND_SECONDS = Target(3, at_least=False, unit="s")
MEMORY_SLOPE = Target(5, at_least=False, unit="MB per 1,000 steps")
SAME_LABELS = 0.9999
"""Share of pixels that have to get the same label from two solvers of one problem."""
