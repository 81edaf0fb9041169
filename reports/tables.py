"""The result table of a grid: one object, written as Markdown, CSV and LaTeX (`reports.writers`, `reports.latex`) and as
HTML (the page template).

A row is a cell of the grid over its seeds; numbers stay raw. A row is never left out: a run that is not done has its state
and the reason in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from reports.columns import (
    IMAGE_COLUMNS,
    NAME_COLUMNS,
    PREDICTION,
    SETTING_COLUMN,
    STATE_COLUMNS,
    VALUE_COLUMNS,
    VERDICT_COLUMNS,
    Column,
)
from reports.grids import Grid
from reports.measures import frame
from reports.papers import Citation, cite, further_notes, paper_notes
from reports.rows import Row, Stat, make_rows

__all__ = ["ResultTable", "Row", "Stat", "result_table"]

GENERAL = {
    "quality": {
        "IoU": "intersection over union",
        "PQ": "panoptic quality by COCO's rule: mean over categories of segmentation quality times recognition quality",
        "train, val": "training images; validation images, for pseudo labels given their points as in training",
    },
    "cost": {},
}
"""Words of the printed tables that are no column."""


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Columns, rows and the sentences that belong under the table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def shown(self, part: str) -> list[Column]:
        """Columns of the quality or cost table: names, then those of the part that have something to tell.

        Left out are columns without a value, the map that mIoU is measured on if it is the same in all rows (a note says
        it), the state if all runs are done, and axes that a column of settings tells.
        """
        parts = {"quality": ("name", "quality", "state"), "cost": ("name", "cost")}[part]
        told: set[str] = set()
        if all(row.done == len(row.records) for row in self.rows):
            told.add("state")
        if len(_sources(self.rows)) < 2:
            told.add("miou_source")
        if SETTING_COLUMN in self.columns:
            told.update(c.key for c in self.columns if c.key.startswith("axis:"))
        columns = [c for c in self.columns if c.part in parts and c.key not in told]
        return [c for c in columns if any(row.values.get(c.key) not in (None, "") for row in self.rows)]

    def parts(self) -> list[str]:
        """The printed tables: "quality" always, for the states of runs; "cost" if something of it was measured."""
        return ["quality", "cost"] if any(c.part == "cost" for c in self.shown("cost")) else ["quality"]

    def headings(self, part: str) -> list[tuple[str, int]]:
        """The upper level of a printed table's head: (group, number of its columns), "" over columns without a group."""
        return [(group, len(list(columns))) for group, columns in groupby(self.shown(part), key=lambda c: c.group)]

    def explanations(self, part: str) -> dict[str, str]:
        """Term -> meaning for the list under a printed table; what the quality table explains is not said again."""
        columns = [c for c in self.shown(part) if c.help and not (part == "cost" and c.part == "name")]
        return GENERAL[part] | {c.term: c.help for c in columns}

    def remarks(self) -> list[tuple[str, str]]:
        """(rows, note): what a reader must know about rows, each note once. Rows that share a label are named by it."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if note := row.values.get("note"):
                alike = {other.values["note"] for other in self.rows if other.values["label"] == row.values["label"]}
                found.setdefault(str(note), []).append(str(row.values["label"]) if len(alike) == 1 else self.name(row))
        return [(", ".join(dict.fromkeys(names)), note) for note, names in found.items()]

    def run_names(self) -> dict[str, str]:
        """Run id -> name of its row, with the seed where the table has several."""
        seeds = {record.seed for row in self.rows for record in row.records}
        return {
            record.run_id: self.name(row) + (f", seed {record.seed}" if len(seeds) > 1 and record.seed is not None else "")
            for row in self.rows for record in row.records
        }  # fmt: skip

    def name(self, row: Row) -> str:
        """The row's label with the points and axis values that tell it from other rows."""
        parts = [str(row.values["label"])]
        if row.values.get("points"):
            parts.append(f"P{row.values['points']}")
        for column in self.columns:
            if column.key.startswith("axis:") and row.values.get(column.key):
                parts.append(f"{column.title}={row.values[column.key]}")
        return ", ".join(parts)


def result_table(grid: Grid) -> ResultTable:
    """The table of a grid: its cells grouped over seeds, in table order."""
    citation = cite(grid)
    rows = make_rows(grid.cells, frame(grid), citation)
    axes = _axis_columns(rows)
    if grid.members:
        rows = [replace(row, values=row.values | {SETTING_COLUMN.key: _setting(row, rows, axes)}) for row in rows]
        axes = [SETTING_COLUMN, *axes]
    columns = (*NAME_COLUMNS, *axes, *_value_columns(citation), *STATE_COLUMNS)
    table = ResultTable(grid.title, columns, tuple(rows), tuple(_notes(columns, rows)))
    cited = paper_notes(citation, [(table.name(row), row.paper, row.records, row.reference) for row in rows])
    cited += further_notes(citation, [(table.name(row), row.paper, row.cells[0]) for row in rows])
    return replace(table, notes=(*table.notes, *cited))


def _value_columns(citation: Citation) -> list[Column]:
    """The measures, those of a paper and the verdicts on them behind ours of the validation images."""
    ours = [column for column in VALUE_COLUMNS if column.group == PREDICTION]
    others = [column for column in VALUE_COLUMNS if column.group != PREDICTION]
    theirs = [*citation.columns(), *VERDICT_COLUMNS] if citation.rows else []
    return [*ours, *theirs, *others, *IMAGE_COLUMNS]


def _sources(rows: Sequence[Row]) -> list[str]:
    """The maps that mIoU is measured on, in any row."""
    return sorted({str(row.values["miou_source"]) for row in rows if row.values.get("miou_source")})


def _axis_columns(rows: Sequence[Row]) -> list[Column]:
    """Axes with different values in different rows, but for those that repeat the method or the points column."""
    keys = dict.fromkeys(key for row in rows for key in row.values if key.startswith("axis:"))
    return [
        Column(key, key.removeprefix("axis:"), f"Axis {key.removeprefix('axis:')} of the grid", "name")
        for key in keys
        if len({row.values.get(key) for row in rows}) > 1
        and not (key == "axis:method" and _told_by_label(rows))
        and not _repeats(rows, key, "points")
    ]


def _setting(row: Row, rows: Sequence[Row], axes: Sequence[Column]) -> str:
    """The value of `SETTING_COLUMN`: axes that differ among the rows of its member; those of the method without a prefix."""
    member = row.cells[0].grid
    others = [other.values for other in rows if other.cells[0].grid == member]
    words = [
        f"{axis.title.removeprefix('method.')}={row.values[axis.key]}"
        for axis in axes
        if axis.key != "axis:method" and row.values.get(axis.key)
        and (len(others) == 1 or len({values.get(axis.key) for values in others}) > 1) and axis.key != "axis:grid"
    ]  # fmt: skip
    return f"{member}: {', '.join(words)}" if words else member


def _told_by_label(rows: Sequence[Row]) -> bool:
    """Whether rows of different methods have different labels."""
    labels = {row.values["label"] for row in rows}
    return len({(row.values["label"], row.values.get("axis:method")) for row in rows}) == len(labels)


def _repeats(rows: Sequence[Row], key: str, other: str) -> bool:
    """Whether a column says nothing more than another, where that has a value (it must have one somewhere)."""
    known = [row for row in rows if row.values[other]]
    return bool(known) and all(row.values.get(key) in (None, row.values[other]) for row in known)


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    notes = ["All qualities are percentages."]
    if len(sources := _sources(rows)) == 1:
        notes.append(f"mIoU is that of the {sources[0]}.")
    if any(row.done > 1 for row in rows):
        notes.append("Values with ± are mean and sample standard deviation over the n seeds done (column seeds: n/planned).")
    if any(row.done == 1 for row in rows):
        notes.append("Rows with one seed (n = 1) have no ±: n is too small to separate them from other rows.")
    if open_rows := sum(row.done < len(row.records) for row in rows):
        notes.append(f"{open_rows} of {len(rows)} rows have runs that are not done; their reason is in the row.")
    runs = [record for row in rows for record in row.records]
    if shared := sum(bool(record.trained) for record in runs):
        notes.append(
            "Took over the weights of a run that differs only in what happens after training: "
            f"{shared} of {len(runs)} runs. Their wall time and memory are those of an evaluation, the stages of their "
            "steps those of that training."
        )
    fixed = {
        key.removeprefix("axis:"): value
        for key, value in (rows[0].values if rows else {}).items()
        if key.startswith("axis:") and key != "axis:method" and not _repeats(rows, key, "points")
        and all(row.values.get(key) == value for row in rows)
    }  # fmt: skip
    if fixed:
        notes.append(f"The same in all rows: {', '.join(f'{axis} = {value}' for axis, value in fixed.items())}.")
    measures = [c for c in columns if c.part in ("quality", "cost") and c.scale is not None and c.measured and not c.rare]
    absent = [c.title for c in measures if not any(row.values.get(c.key) for row in rows)]
    if absent:
        notes.append(f"Measured in no run of this grid: {', '.join(absent)}.")
    return notes
