"""Plots of a grid, as SVG for inside a page: readable without colour vision, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Mapping

from reports.curves import Curve
from reports.plots.ablation import ablation
from reports.plots.annotation import annotation_cost
from reports.plots.bars import bars
from reports.plots.classes import class_heat_map
from reports.plots.cost import quality_and_cost
from reports.plots.figures import Plot, style
from reports.plots.training import training_curves
from reports.tables import ResultTable

__all__ = ["MOST_ROWS", "Plot", "draw_plots"]

MOST_ROWS = 40
"""Tables with more rows than this are not drawn: nobody can read them."""


def draw_plots(table: ResultTable, curves: Mapping[str, Curve]) -> list[Plot]:
    """Every plot that a grid has the numbers for.

    Args:
        table: of the grid.
        curves: run id -> training curve.
    """
    if len(table.rows) > MOST_ROWS:
        return []
    with style():
        drawn = [
            ablation(table), bars(table), quality_and_cost(table), class_heat_map(table), training_curves(table, curves),
            annotation_cost(table),
        ]  # fmt: skip
    return [plot for plot in drawn if plot is not None]
