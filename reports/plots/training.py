"""Training curves: the loss of every row along its steps."""

from __future__ import annotations

from collections.abc import Mapping

from reports.curves import Curve
from reports.plots.figures import Plot, log_scale, look, panels, short, to_svg
from reports.plots.series import names
from reports.tables import ResultTable

TITLE = "Training"
MOST_LINES = 16


def training_curves(table: ResultTable, curves: Mapping[str, Curve]) -> Plot | None:
    """None without a logged step, or with more rows than lines can be told apart."""
    rows = [(name, [c for r in row.records if (c := curves.get(r.run_id)) and "loss" in c.series])
            for row, name in zip(table.rows, names(table), strict=True)]  # fmt: skip
    rows = [(name, found) for name, found in rows if found]
    if not rows or len(rows) > MOST_LINES:
        return None
    figure, (axis,) = panels(1, 3.0, 6.4)
    for index, (name, found) in enumerate(rows):
        kind = look(index)
        for number, curve in enumerate(found):
            axis.plot(
                curve.steps, curve.series["loss"], color=kind["color"], linestyle=kind["linestyle"], linewidth=1.1,
                marker=kind["marker"], markevery=max(1, len(curve.steps) // 6), markersize=4,
                label=short(name) if number == 0 else None,
            )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    log_scale(axis, "y")
    figure.legend(loc="outside right upper", fontsize=7)
    caption = "The sum of all losses, one line for each seed. Methods have different losses: compare shapes, not heights."
    return Plot("training", TITLE, caption, to_svg(figure, "training", TITLE))
