"""Rows of result tables: a cell of the grid over its seeds, with what names it, its numbers and its verdicts."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from benchmark.papers import METRICS, PaperRow
from benchmark.runs import State
from benchmark.statistics import image_interval, pooled
from reports.columns import IMAGE_COLUMNS, VALUE_COLUMNS
from reports.grids import Cell
from reports.measures import BY_IMAGE, image_sums
from reports.papers import Citation, Reference, differences, paper_values
from reports.records import Reason, Record
from reports.supervision import supervision_text
from reports.verdicts import FAILURES, CellVerdict, Verdict, cell_verdict

LONGEST_REASON = 200
POINTS_AXES = ("points", "dataset.points.count")
"""Axes that say the number of points per target, for runs whose record doesn't."""

IDENTITY = ("label", "note", "supervision", "points")
"""What names a row, beside the axes of the grid."""


@dataclass(frozen=True, slots=True)
class Stat:
    """Mean over the seeds that have a value; ``std`` is the sample standard deviation, None for a single seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """The statistics of one or more values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the grid over its seeds.

    Attributes:
        values: column key -> text, `Stat`, or float for a number without seeds (a paper's, the end of an interval); missing
            or None where there is nothing.
        records: the runs of the row, one per seed.
        reasons: why runs of the row are not done.
        done: number of runs that are done.
        cells: the cells of the grid that the row is made of.
        measured: key of a number -> its value in every run that is done (`finished`), None where it was not measured.
        paper: the row of a paper that this one stands for.
        verdicts: metric of the paper's row -> how ours stands to it.
    """

    values: dict[str, str | float | Stat | None]
    records: tuple[Record, ...]
    reasons: tuple[Reason, ...]
    done: int
    cells: tuple[Cell, ...] = ()
    measured: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    paper: PaperRow | None = None
    verdicts: Mapping[str, CellVerdict] = field(default_factory=dict)

    @property
    def finished(self) -> list[Record]:
        """The runs that are done."""
        return [r for r in self.records if r.state == State.DONE]

    @property
    def reference(self) -> Reference | None:
        """Table and name of the paper's row."""
        return reference_of(self.cells)

    def by_run(self, key: str) -> list[tuple[Record, float]]:
        """The runs that measured a number, with its value."""
        pairs = zip(self.finished, self.measured[key], strict=True)
        return [(record, value) for record, value in pairs if value is not None]


def make_rows(cells: Sequence[Cell], measured: pd.DataFrame, citation: Citation) -> list[Row]:
    """The rows of a grid, its cells grouped over seeds, in table order.

    Args:
        cells: in table order.
        measured: `reports.measures.frame` of the same grid, a line for each cell.
        citation: the paper rows of the grid.
    """
    groups: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        groups.setdefault(_group_key(cell), []).append(index)
    numbers = [column.key for column in VALUE_COLUMNS if column.scale is not None]
    columns = {key: measured[key].to_list() for key in numbers}
    rows = []
    for members in groups.values():
        done = {cells[i].record.run_id: i for i in reversed(members) if cells[i].record.state == State.DONE}
        places = sorted(done.values())  # a run that is in several cells counts once
        seeds = {key: tuple(None if math.isnan(values[i]) else values[i] for i in places) for key, values in columns.items()}
        rows.append(_row([cells[i] for i in members], seeds, citation))
    _tell_points_apart(rows)
    return rows


def _group_key(cell: Cell) -> str:
    if cell.axes:
        return json.dumps([cell.grid, cell.axes], sort_keys=True, default=str)
    record = cell.record
    if not record.method:
        return record.run_id
    return json.dumps([record.method, record.label, record.note, supervision_text(record)])


def _row(cells: Sequence[Cell], seeds: Mapping[str, tuple[float | None, ...]], citation: Citation) -> Row:
    records = tuple({cell.record.run_id: cell.record for cell in cells}.values())
    known = [r for r in records if r.method] or [records[0]]
    done = [r for r in records if r.state == State.DONE]
    axes = cells[0].axes
    paper = citation.row(cells[0])
    verdicts = _verdicts(records, seeds, paper, reference_of(cells))
    judged = main_metric(verdicts)
    values: dict[str, str | float | Stat | None] = {
        "label": known[0].label if known[0].method else str(axes.get("method", known[0].label)),
        "note": joined(r.note for r in records),
        "supervision": joined(supervision_text(r) for r in records),
        "points": joined(_points(r) if r.method else _points_axis(axes) for r in records),
        **{f"axis:{axis}": axis_text(value) for axis, value in axes.items() if axis != "seed"},
        "miou_source": joined(r.semantic_source or "" for r in done),
        **paper_values(paper),
        "paper_gap": verdicts[judged].gap if judged else None,
        "verdict": _verdict_text(verdicts, judged),
        **_image_values(done),
    }
    for key, found in seeds.items():
        kept = [value for value in found if value is not None]
        values[key] = Stat.of(kept) if kept else None
    reasons = tuple(r.reason for r in records if r.reason and r.state != State.DONE)
    states = Counter(r.state for r in records)
    values["seeds"] = f"{len(done)}/{len(records)}"
    values["state"] = ", ".join(s if len(records) == 1 else f"{count} {s}" for s, count in states.items())
    values["reason"] = joined(_shortened(reason.sentence) for reason in reasons)
    return Row(values, records, reasons, len(done), tuple(cells), seeds, paper, verdicts)


def _verdict_text(verdicts: Mapping[str, CellVerdict], judged: str | None) -> str:
    """The metric is named where it is not PQ; what notes or the state tell is not said again."""
    if judged is None:
        return ""
    found = verdicts[judged]
    if found.verdict in (Verdict.NOT_COMPARABLE, Verdict.NOT_RUN):
        return str(found.verdict)
    return found.text if judged == "pq" or found.verdict == Verdict.FAILED else f"{METRICS[judged]} {found.text}"


def reference_of(cells: Sequence[Cell]) -> Reference | None:
    """Table and name of the paper's row that the cells of a row stand for."""
    first = next(iter(cells), None)
    return (first.paper_table, first.paper_row) if first and first.paper_table and first.paper_row else None


def _verdicts(
    records: Sequence[Record], seeds: Mapping[str, tuple[float | None, ...]], paper: PaperRow | None,
    reference: Reference | None,
) -> dict[str, CellVerdict]:
    """The verdict by every metric that the paper prints."""
    if paper is None:
        return {}
    done = [r for r in records if r.state == State.DONE]
    apart = differences(done[0], paper.setting, reference) if done else ()
    failure = next((r.reason.kind for r in records if r.state in FAILURES and r.reason), "")
    states = [r.state for r in records]
    return {
        metric: cell_verdict(
            printed / 100, [value for value in seeds[metric] if value is not None], states, apart, failure
        )
        for metric, printed in paper.values.items()
    }  # fmt: skip


def main_metric(verdicts: Mapping[str, CellVerdict]) -> str | None:
    """The metric that tables judge a row by: of those compared the first in the order of `METRICS`, else the first."""
    ordered = [metric for metric in METRICS if metric in verdicts]
    return next((metric for metric in ordered if verdicts[metric].gap is not None), next(iter(ordered), None))


def _image_values(records: Sequence[Record]) -> dict[str, float]:
    """Ends of the intervals over images, of the seeds taken together."""
    values: dict[str, float] = {}
    wanted = {column.key.rsplit("_images_", 1)[0] for column in IMAGE_COLUMNS}
    for measure in (m for m in BY_IMAGE if m in wanted):
        sums = [found for r in records if (found := image_sums(r, measure)) is not None]
        interval = image_interval(pooled(sums)) if sums else None
        if interval is not None:
            values |= {f"{measure}_images_low": interval.low, f"{measure}_images_high": interval.high}
    return values


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


def joined(texts: Iterable[str]) -> str:
    """Different texts that are not empty, with semicolons."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def _points(record: Record) -> str:
    count = record.supervision.get("points_per_target")
    return "" if count is None or record.supervision.get("kind") == "masks" else str(count)


def axis_text(value: object) -> str:
    """A value of an axis in a table."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _points_axis(axes: Mapping[str, object]) -> str:
    return next((axis_text(axes[axis]) for axis in POINTS_AXES if axis in axes), "")


