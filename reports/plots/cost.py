"""Quality against the time that a training step takes."""

from __future__ import annotations

from reports.plots.figures import Plot, log_scale, look, panels, short, to_svg
from reports.plots.series import TITLES, headlines, labels, names, percent
from reports.rows import Stat
from reports.tables import ResultTable

TITLE = "Quality against cost"


def quality_and_cost(table: ResultTable) -> Plot | None:
    """None unless two rows have both a quality and a timed step."""
    keys = headlines(table, 1)
    shown = [
        (row, name, step) for row, name in zip(table.rows, names(table), strict=True)
        if isinstance(step := row.values.get("step_seconds"), Stat) and keys and percent(row, keys[0]) is not None
    ]  # fmt: skip
    if len(shown) < 2:
        return None
    kinds = {label: look(i) for i, label in enumerate(dict.fromkeys(labels(table)))}
    figure, (axis,) = panels(1, 3.0, 5.2)
    for order, (row, name, step) in enumerate(sorted(shown, key=lambda found: found[2].mean)):
        kind = kinds[str(row.values["label"])]
        place = (1000 * step.mean, percent(row, keys[0]))
        axis.plot(*place, linestyle="none", marker=kind["marker"], color=kind["color"], markersize=7)
        if len(shown) <= 16:
            beside = (6, -10 if order % 2 else 3)
            axis.annotate(short(name, 24), place, xytext=beside, textcoords="offset points", fontsize=7)
    log_scale(axis, "x")
    axis.set_xlabel("training step (ms)")
    axis.set_ylabel(f"{TITLES[keys[0]]} (%)")
    axis.margins(x=0.2, y=0.12)
    return Plot("cost", TITLE, "Times are of the machine under which the page lists the runs; better is up and left.",
                to_svg(figure, "cost", TITLE))  # fmt: skip
