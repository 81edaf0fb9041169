"""Ablation curves: quality along the values of an axis, the paper's curve beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from benchmark.papers import METRICS
from reports.plots.figures import Plot, look, panels, short, to_svg
from reports.plots.series import TITLES, by_seed, headlines, percent, varying_axes
from reports.rows import Row
from reports.tables import ResultTable

TITLE = "Along the axis"
MOST_VALUES = 16


@dataclass(frozen=True, slots=True)
class _Line:
    """Rows of one method and number of points; ``places`` are their positions along the axis."""

    name: str
    places: list[int]
    rows: list[Row]


def ablation(table: ResultTable) -> Plot | None:
    """None unless rows differ in an axis beside method and points, with at most `MOST_VALUES` values.

    Settings of several axes are places without order and are not joined by lines; a numeric axis is ordered by its numbers.
    """
    axes = varying_axes(table)
    keys = headlines(table, 2)
    if not axes or not keys:
        return None
    values = list(dict.fromkeys(_value(row, axes) for row in table.rows))
    numbers = _numbers(values)
    if numbers:
        values = [value for _, value in sorted(zip(numbers, values, strict=True))]
    if not 2 <= len(values) <= MOST_VALUES:
        return None
    lines = _lines(table, axes, values)
    metric = next((m for m in METRICS for row in table.rows if row.paper and m in row.paper.values), None)
    name = " × ".join(axis.removeprefix("axis:").removeprefix("method.") for axis in axes)
    figure, drawn = panels(len(keys) + (metric is not None), 2.9 + (0.7 if max(map(len, values)) > 9 else 0), 3.3)
    joined = bool(numbers)
    if metric is not None:
        _draw_paper(drawn[0], lines, metric, joined)
    for axis, key in zip(drawn[metric is not None :], keys, strict=True):
        _draw_ours(axis, lines, key, joined)
    for axis in drawn:
        steep = max(map(len, values)) > 5 and len(values) > 3
        axis.set_xticks(range(len(values)), [short(value, 26) for value in values], rotation=35 if steep else 0,
                        ha="right" if steep else "center", rotation_mode="anchor")  # fmt: skip
        axis.margins(x=0.08)
        axis.set_xlabel(short(name, 48))
    if len(lines) > 1:
        drawn[0].legend(fontsize=7)
    beside = "The paper's curve has a panel of its own: it is of another experiment unless the table says otherwise. "
    caption = (beside if metric else "") + "Large marks are means, small dots the seeds; the vertical axes differ."
    return Plot("ablation", TITLE, caption, to_svg(figure, "ablation", TITLE))


def _value(row: Row, axes: Sequence[str]) -> str:
    known = [(axis, str(row.values[axis])) for axis in axes if row.values.get(axis)]
    if len(axes) == 1:
        return known[0][1] if known else "–"
    return ", ".join(f"{axis.rsplit('.', 1)[-1].removeprefix('axis:')} {value}" for axis, value in known) or "–"


def _numbers(values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        return []


def _lines(table: ResultTable, axes: Sequence[str], values: Sequence[str]) -> list[_Line]:
    lines: dict[str, _Line] = {}
    for row in table.rows:
        points = f"P{row.values['points']}" if row.values["points"] else ""
        name = ", ".join(filter(None, [str(row.values["label"]), points]))
        line = lines.setdefault(name, _Line(name, [], []))
        line.places.append(values.index(_value(row, axes)))
        line.rows.append(row)
    return list(lines.values())


def _draw_paper(axis: Axes, lines: Sequence[_Line], metric: str, joined: bool) -> None:
    for index, line in enumerate(lines):
        points = [(x, row.paper.values[metric]) for x, row in zip(line.places, line.rows, strict=True)
                  if row.paper and metric in row.paper.values]  # fmt: skip
        _draw(axis, points, index, line.name, joined)
    axis.set_ylabel(f"paper: {METRICS[metric]} (%)")


def _draw_ours(axis: Axes, lines: Sequence[_Line], key: str, joined: bool) -> None:
    for index, line in enumerate(lines):
        places = list(zip(line.places, line.rows, strict=True))
        _draw(axis, [(x, mean) for x, row in places if (mean := percent(row, key)) is not None], index, line.name, joined)
        seeds = [(x, value) for x, row in places for value in by_seed(row, key)]
        axis.plot([x for x, _ in seeds], [y for _, y in seeds], ".", color=look(index)["color"], markersize=3, alpha=0.8)
    axis.set_ylabel(f"ours: {TITLES[key]} (%)")


def _draw(axis: Axes, points: Sequence[tuple[int, float]], index: int, label: str, joined: bool) -> None:
    kind = look(index) if joined else {**look(index), "linestyle": "none"}
    ordered = sorted(points)
    axis.plot([x for x, _ in ordered], [y for _, y in ordered], label=label, markersize=5, **kind)
