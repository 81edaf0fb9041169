"""The result table of a grid: one object, written as Markdown and CSV (`reports.writers`) and as HTML (the page template).

A row is a cell of the grid over its seeds; numbers stay raw. A row is never left out: a run that is not done has its state
and the reason in the row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pandas as pd

from benchmark.papers import PaperRow
from benchmark.runs import State
from reports.columns import NAME_COLUMNS, PREDICTION, STATE_COLUMNS, VALUE_COLUMNS, Column
from reports.papers import Citation, cite, paper_notes, paper_values
from reports.records import Cell, Grid, Reason, Record, frame

LONGEST_REASON = 200
POINTS_AXES = ("points", "dataset.points.count")
"""Axes that say the number of points per target, for runs whose record doesn't."""

IDENTITY = ("label", "note", "supervision", "points")
"""What names a row, beside the axes of the grid."""

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
class Stat:
    """Mean over the seeds that have a value; ``std`` is the sample standard deviation, None for a single seed."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the grid over its seeds.

    Attributes:
        values: column key -> text, `Stat`, or float for a paper's number; missing or None where there is nothing.
        records: the runs of the row, one per seed.
        reasons: why runs of the row are not done.
        done: number of runs that are done.
        paper: the row of a paper that this one stands for.
    """

    values: dict[str, str | float | Stat | None]
    records: tuple[Record, ...]
    reasons: tuple[Reason, ...]
    done: int
    paper: PaperRow | None = None


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
        it), and the state if all runs are done.
        """
        parts = {"quality": ("name", "quality", "state"), "cost": ("name", "cost")}[part]
        told: set[str] = set()
        if all(row.done == len(row.records) for row in self.rows):
            told.add("state")
        if len(_sources(self.rows)) < 2:
            told.add("miou_source")
        columns = [c for c in self.columns if c.part in parts and c.key not in told]
        return [c for c in columns if any(row.values.get(c.key) for row in self.rows)]

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
    groups: dict[str, list[int]] = {}
    for index, cell in enumerate(grid.cells):
        groups.setdefault(_group_key(cell), []).append(index)
    measured = frame(grid)
    citation = cite(grid)
    rows = [_row([grid.cells[i] for i in members], measured.iloc[members], citation) for members in groups.values()]
    _tell_points_apart(rows)
    columns = (*NAME_COLUMNS, *_axis_columns(rows), *_value_columns(citation), *STATE_COLUMNS)
    table = ResultTable(grid.title, columns, tuple(rows), tuple(_notes(columns, rows)))
    cited = paper_notes(citation, [(table.name(row), row.paper, row.records) for row in rows])
    return replace(table, notes=(*table.notes, *cited))


def _value_columns(citation: Citation) -> list[Column]:
    """The measures, those of a paper behind ours of the validation images."""
    ours = [column for column in VALUE_COLUMNS if column.group == PREDICTION]
    others = [column for column in VALUE_COLUMNS if column.group != PREDICTION]
    return [*ours, *citation.columns(), *others]


def _group_key(cell: Cell) -> str:
    if cell.axes:
        return json.dumps(cell.axes, sort_keys=True, default=str)
    record = cell.record
    return json.dumps([record.method, record.label, record.note, _supervision(record)]) if record.method else record.run_id


def _row(cells: Sequence[Cell], measured: pd.DataFrame, citation: Citation) -> Row:
    records = tuple({cell.record.run_id: cell.record for cell in cells}.values())
    known = [r for r in records if r.method] or [records[0]]
    done = [r for r in records if r.state == State.DONE]
    axes = cells[0].axes
    paper = citation.row(cells[0].paper_row)
    values: dict[str, str | float | Stat | None] = {
        "label": known[0].label if known[0].method else str(axes.get("method", known[0].label)),
        "note": _joined(r.note for r in records),
        "supervision": _joined(_supervision(r) for r in records),
        "points": _joined(_points(r) if r.method else _points_axis(axes) for r in records),
        **{f"axis:{axis}": _axis_text(value) for axis, value in axes.items() if axis != "seed"},
        "miou_source": _joined(r.semantic_source or "" for r in done),
        **paper_values(paper),
    }
    finished = measured[measured["state"] == State.DONE.value].drop_duplicates("run_id")
    for column in VALUE_COLUMNS:
        if column.scale is not None:
            values[column.key] = _stat(finished[column.key].dropna())
    reasons = tuple(r.reason for r in records if r.reason and r.state != State.DONE)
    states = Counter(r.state for r in records)
    values["seeds"] = f"{len(done)}/{len(records)}"
    values["state"] = ", ".join(s if len(records) == 1 else f"{count} {s}" for s, count in states.items())
    values["reason"] = _joined(_shortened(reason.sentence) for reason in reasons)
    return Row(values, records, reasons, len(done), paper)


def _stat(values: pd.Series) -> Stat | None:
    if values.empty:
        return None
    return Stat(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def _tell_points_apart(rows: Sequence[Row]) -> None:
    """Give rows that differ in nothing but their number of points that number: training on masks records none."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        same = {key: value for key, value in row.values.items() if key in IDENTITY or key.startswith("axis:")}
        for axis in POINTS_AXES:
            same.pop(f"axis:{axis}", None)
        alike.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(row)
    for members in alike.values():
        counts = ["".join(str(row.values.get(f"axis:{axis}") or "") for axis in POINTS_AXES) for row in members]
        if len(set(counts)) > 1:
            for row, count in zip(members, counts, strict=True):
                row.values["points"] = row.values["points"] or count


def _sources(rows: Sequence[Row]) -> list[str]:
    """The maps that mIoU is measured on, in any row."""
    return sorted({str(row.values["miou_source"]) for row in rows if row.values.get("miou_source")})


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def _supervision(record: Record) -> str:
    """"points"; "masks"; "points, 3 boxes"."""
    read = record.supervision
    kind = str(read.get("kind", ""))
    parts = [kind]
    parts += [f"{read[key]} {key}" for key in ("boxes", "masks") if read.get(key) and key != kind]
    return ", ".join(parts)


def _points(record: Record) -> str:
    count = record.supervision.get("points_per_target")
    return "" if count is None or record.supervision.get("kind") == "masks" else str(count)


def _axis_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _points_axis(axes: Mapping[str, object]) -> str:
    return next((_axis_text(axes[axis]) for axis in POINTS_AXES if axis in axes), "")


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
    fixed = {
        key.removeprefix("axis:"): value
        for key, value in (rows[0].values if rows else {}).items()
        if key.startswith("axis:") and key != "axis:method" and not _repeats(rows, key, "points")
        and all(row.values.get(key) == value for row in rows)
    }  # fmt: skip
    if fixed:
        notes.append(f"The same in all rows: {', '.join(f'{axis} = {value}' for axis, value in fixed.items())}.")
    measures = [c for c in columns if c.part in ("quality", "cost") and c.scale is not None]
    absent = [c.title for c in measures if not any(row.values.get(c.key) for row in rows)]
    if absent:
        notes.append(f"Measured in no run of this grid: {', '.join(absent)}.")
    return notes
