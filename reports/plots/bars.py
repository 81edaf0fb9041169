"""Bars: the mean of every row, its seeds as dots."""

from __future__ import annotations

from reports.plots.figures import INK, Plot, look, panels, short, to_svg
from reports.plots.series import TITLES, by_seed, headlines, labels, names, percent
from reports.tables import ResultTable

TITLE = "Quality of every row"


def bars(table: ResultTable) -> Plot | None:
    """None if nothing was measured."""
    keys = headlines(table)
    shown = [(row, name) for row, name in zip(table.rows, names(table), strict=True)
             if any(percent(row, key) is not None for key in keys)]  # fmt: skip
    rows, named = [row for row, _ in shown], [name for _, name in shown]
    if not keys or len(rows) < 2:
        return None
    colors = {label: look(i) for i, label in enumerate(dict.fromkeys(labels(table)))}
    figure, axes = panels(len(keys), 0.7 + 0.26 * len(rows), 2.9)
    for place, (axis, key) in enumerate(zip(axes, keys, strict=True)):
        for y, row in enumerate(rows):
            mean = percent(row, key)
            if mean is None:
                continue
            kind = colors[str(row.values["label"])]
            axis.barh(y, mean, height=0.62, color=kind["color"], alpha=0.55)
            axis.plot(by_seed(row, key), [y] * len(by_seed(row, key)), "o", color=INK, markersize=3)
            axis.annotate(f"{mean:.1f}", (0, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
        axis.set_yticks(range(len(rows)), [short(name) if place == 0 else "" for name in named])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(f"{TITLES[key]} (%)")
    return Plot("bars", TITLE, "Bars are means over seeds, dots are the seeds. A single dot says nothing about noise.",
                to_svg(figure, "bars", TITLE))  # fmt: skip
