"""The result table of a grid: one object, written as Markdown, CSV and (by the page template) HTML.

A row is a cell of the grid over its seeds. Numbers stay raw up to here; this is the only module that formats them. With one
seed a value has no ±; from two seeds on it is the mean ± the sample standard deviation. A row is never left out: a run that
is not done has its state and the reason in the row.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from benchmark.runs import State
from reports.columns import NAME_COLUMNS, STATE_COLUMNS, VALUE_COLUMNS, Column
from reports.records import Cell, Grid, Reason, Record, frame

NOTHING = "–"
LONGEST_REASON = 200
POINTS_AXES = ("points", "dataset.points.count")
"""Axes that say the number of points per target, for runs that have no record yet."""


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
        values: column key -> text or `Stat`; missing or None where there is nothing.
        records: the runs of the row, one per seed.
        reasons: why runs of the row are not done.
        done: number of runs that are done.
    """

    values: dict[str, str | Stat | None]
    records: tuple[Record, ...]
    reasons: tuple[Reason, ...]
    done: int


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Columns, rows and the sentences that belong under the table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def shown(self, part: str) -> list[Column]:
        """Columns of the quality or cost table: names, then those of the part that have a value in some row."""
        parts = {"quality": ("name", "quality", "state"), "cost": ("name", "cost")}[part]
        return [c for c in self.columns if c.part in parts and any(row.values.get(c.key) for row in self.rows)]

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
    rows = [_row([grid.cells[i] for i in members], measured.iloc[members]) for members in groups.values()]
    columns = (*NAME_COLUMNS, *_axis_columns(rows), *VALUE_COLUMNS, *STATE_COLUMNS)
    return ResultTable(grid.title, columns, tuple(rows), tuple(_notes(columns, rows)))


def _group_key(cell: Cell) -> str:
    if cell.axes:
        return json.dumps(cell.axes, sort_keys=True, default=str)
    record = cell.record
    return json.dumps([record.method, record.label, record.note, _supervision(record)]) if record.method else record.run_id


def _row(cells: Sequence[Cell], measured: pd.DataFrame) -> Row:
    records = tuple({cell.record.run_id: cell.record for cell in cells}.values())
    known = [r for r in records if r.method] or [records[0]]
    done = [r for r in records if r.state == State.DONE]
    axes = cells[0].axes
    values: dict[str, str | Stat | None] = {
        "label": known[0].label if known[0].method else str(axes.get("method", known[0].label)),
        "note": _joined(r.note for r in records),
        "supervision": _joined(_supervision(r) for r in records),
        "points": _joined(_points(r) if r.method else _points_axis(axes) for r in records),
        **{f"axis:{axis}": _axis_text(value) for axis, value in axes.items() if axis != "seed"},
        "miou_source": _joined(r.semantic_source or "" for r in done),
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
    return Row(values, records, reasons, len(done))


def _stat(values: pd.Series) -> Stat | None:
    if values.empty:
        return None
    return Stat(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def _supervision(record: Record) -> str:
    """"points"; "masks (all training images)"; "points, 3 boxes"."""
    read = record.supervision
    kind = str(read.get("kind", ""))
    parts = [f"{kind} ({read[kind]})" if read.get(kind) else kind]
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
    notes = ["PQ, SQ, RQ, IoU and accuracies are x100. mIoU is the mean over the classes that occur."]
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
    absent = [c.title for c in columns if c.part in ("quality", "cost") and not any(row.values.get(c.key) for row in rows)]
    if absent:
        notes.append(f"Measured in no run of this grid: {', '.join(absent)}.")
    return notes


def format_value(column: Column, row: Row) -> str:
    """The text of a cell: "43.2", "43.2 ± 0.4", with "(n=2)" if the row has more seeds than this value; – for nothing."""
    value = row.values.get(column.key)
    if isinstance(value, Stat):
        text = f"{value.mean * column.scale:.{column.digits}f}"
        if value.std is not None:
            text += f" ± {value.std * column.scale:.{column.digits}f}"
        return text if value.n == row.done else f"{text} (n={value.n})"
    return value or NOTHING


def to_markdown(table: ResultTable) -> str:
    """The quality table, the cost table and the notes as GitHub Markdown."""
    parts = [f"# {_markdown_text(table.title)}"]
    for part in ("quality", "cost"):
        columns = table.shown(part)
        if part == "cost" and not any(c.part == "cost" for c in columns):
            continue
        lines = [[_markdown_text(c.title) for c in columns]]
        lines.append(["---:" if c.scale is not None else "---" for c in columns])
        lines += [[_markdown_text(format_value(c, row)) for c in columns] for row in table.rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    parts.append("\n".join(f"* {_markdown_text(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _markdown_text(text: str) -> str:
    """Text from a record that can neither break a table nor become HTML or a link."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    for sign in ("\\", "|", "[", "]", "`", "*"):
        escaped = escaped.replace(sign, "\\" + sign)
    return escaped


def to_csv(table: ResultTable) -> str:
    """Every column with raw numbers (metrics in [0, 1], seconds, MB): mean, ``_std`` and ``_n``; text columns as they are.

    A text that a spreadsheet would run as a formula is quoted with an apostrophe.
    """
    header = []
    for column in table.columns:
        key = column.key.removeprefix("axis:")
        header += [key] if column.scale is None else [key, f"{key}_std", f"{key}_n"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "run_ids"])
    for row in table.rows:
        line: list[str | float | int] = []
        for column in table.columns:
            value = row.values.get(column.key)
            if column.scale is None:
                line.append(_csv_text(value or ""))
            elif isinstance(value, Stat):
                line += [value.mean, "" if value.std is None else value.std, value.n]
            else:
                line += ["", "", 0]
        writer.writerow([*line, _csv_text(" ".join(r.run_id for r in row.records))])
    return out.getvalue()


def _csv_text(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
