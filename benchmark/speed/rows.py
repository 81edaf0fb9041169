"""Rows and tables of measurements as plain JSON values: seconds of every round, never a formatted number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.speed.targets import Target

OURS = "ours"
COMPARISONS, MEASUREMENTS, STEPS = "comparisons", "measurements", "steps"
"""Kinds of tables, each with its columns (`benchmark.speed.tables`)."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one kind under a title, with a sentence on how they were measured."""

    title: str
    kind: str
    note: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"title": self.title, "kind": self.kind, "note": self.note, "rows": self.rows}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles (linear interpolation) of a value per round, and the values; ValueError without a round."""
    if not len(values):
        raise ValueError("Nothing was measured: there is no round to summarise.")
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "lower": lower, "upper": upper, "rounds": [float(value) for value in values]}


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """``seconds / reference`` of each round."""
    return [mine / other for mine, other in zip(seconds, reference, strict=True)]


def judged(target: Target | None, number: float) -> dict[str, Any]:
    """``target`` and ``met`` of a row; both None without a target."""
    return {"target": str(target) if target else None, "met": target.met(number) if target else None}


def comparison_row(
    case: str, against: str, seconds: Mapping[str, Sequence[float]], figures: Mapping[str, float],
    target: Target | None = None, note: str = "",
) -> dict[str, Any]:
    """How many times longer another implementation takes than ours.

    Args:
        case: what was computed.
        against: name of the other implementation.
        seconds: of each round, for ``ours`` and for ``against``.
        figures: how far the results agree.
        target: of the median ratio.
        note: what a reader has to know.
    """
    ratio = summary(ratios(seconds[against], seconds[OURS]))
    return {
        "case": case, "against": against, OURS: summary(seconds[OURS]), "other": summary(seconds[against]), "ratio": ratio,
        **judged(target, ratio["median"]), "agreement": _finite(figures), "note": note,
    }


def measurement_row(
    case: str, value: float, unit: str, target: Target | None = None, note: str = "", **raw: Any
) -> dict[str, Any]:
    """A number that is compared with nothing but its target; ``raw`` is stored beside it."""
    return {"case": case, "value": value, "unit": unit, **judged(target, value), "note": note, **raw}


def error_row(case: str, error: str, against: str = "") -> dict[str, Any]:
    """What could not be measured, or whose result is wrong: there is no speed of a wrong result."""
    return {"case": case, "against": against, "error": error}


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
