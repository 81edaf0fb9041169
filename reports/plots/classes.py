"""The quality of every class in every row, as a heat map."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import seaborn
from matplotlib.figure import Figure

from reports.plots.figures import Plot, short, to_svg
from reports.plots.series import names as names_of
from reports.records import Record
from reports.tables import ResultTable

TITLE = "Classes"
MOST_WRITTEN = 14
"""Numbers are written into the cells up to this many classes."""


def _pq(record: Record) -> Mapping[str, float | None]:
    return {name: c.pq if c else None for name, c in record.panoptic.per_class.items()} if record.panoptic else {}


def _label_pq(record: Record) -> Mapping[str, float | None]:
    quality = record.labels_train
    return {name: c.pq if c else None for name, c in quality.panoptic.per_class.items()} if quality else {}


def _iou(record: Record) -> Mapping[str, float | None]:
    return record.semantic.per_class if record.semantic else {}


KINDS: tuple[tuple[str, Callable[[Record], Mapping[str, float | None]]], ...] = (
    ("PQ", _pq), ("PQ of pseudo labels, training images", _label_pq), ("IoU", _iou),
)  # fmt: skip


def class_heat_map(table: ResultTable) -> Plot | None:
    """PQ of the classes, else that of pseudo labels, else IoU: the first that most rows have. None without any."""
    found = [
        (title, {i: _mean([values(r) for r in row.finished]) for i, row in enumerate(table.rows)}) for title, values in KINDS
    ]
    most = max((sum(map(bool, rows.values())) for _, rows in found), default=0)
    title, rows = next((title, rows) for title, rows in found if sum(map(bool, rows.values())) >= most / 2)
    rows = {i: values for i, values in rows.items() if values}
    if not rows:
        return None
    named = names_of(table)
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    grid = np.array([[values.get(name, np.nan) for name in names] for values in rows.values()])
    figure = Figure(figsize=(2.6 + max(0.34 * len(names), 2.4), 1.1 + 0.26 * len(rows)), layout="constrained")
    axis = figure.subplots()
    seaborn.heatmap(
        100 * grid, ax=axis, cmap="cividis", vmin=0, vmax=100, annot=len(names) <= MOST_WRITTEN, fmt=".0f",
        annot_kws={"fontsize": 7}, yticklabels=[short(named[i]) for i in rows],
        xticklabels=[short(name, 18) for name in names], cbar_kws={"label": "%"},
    )  # fmt: skip
    axis.grid(visible=False)
    axis.tick_params(length=0, rotation=0)
    axis.set_xticks(axis.get_xticks(), [t.get_text() for t in axis.get_xticklabels()], rotation=45, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    caption = f"{title} of every class, mean over seeds; an empty cell is a class that does not occur."
    return Plot("classes", TITLE, caption, to_svg(figure, "classes", TITLE))


def _mean(seeds: list[Mapping[str, float | None]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in seeds for name in values)
    known = {name: [v for values in seeds if (v := values.get(name)) is not None] for name in names}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in known.items()}
