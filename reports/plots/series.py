"""What plots read from a table: which measures are worth drawing, names of rows, values by seed."""

from __future__ import annotations

from reports.columns import VALUE_COLUMNS
from reports.rows import Row, Stat
from reports.tables import ResultTable

HEADLINES = ("pq", "train_instance_iou", "train_ambiguous_accuracy", "val_instance_iou", "miou")
"""Measures in the order in which they are drawn."""

TITLES = {column.key: column.title for column in VALUE_COLUMNS}
MOST_PANELS = 3


def headlines(table: ResultTable, most: int = MOST_PANELS) -> list[str]:
    """The measures that most rows of a table have, in the order of `HEADLINES`."""
    counts = {key: sum(isinstance(row.values.get(key), Stat) for row in table.rows) for key in HEADLINES}
    full = max(counts.values(), default=0)
    return [key for key in HEADLINES if counts[key] and counts[key] >= full / 2][:most]


def percent(row: Row, key: str) -> float | None:
    """A row's mean in percent; None without one."""
    value = row.values.get(key)
    return 100 * value.mean if isinstance(value, Stat) else None


def by_seed(row: Row, key: str) -> list[float]:
    """The values of a row's seeds in percent."""
    return [100 * value for _, value in row.by_run(key)]


def labels(table: ResultTable) -> list[str]:
    """The label of each row, for colours: rows of one method share one."""
    return [str(row.values["label"]) for row in table.rows]


def names(table: ResultTable) -> list[str]:
    """A name for every row without what all rows share: the method and points of an ablation."""
    full = [table.name(row).split(", ") for row in table.rows]
    shared = set(full[0]).intersection(*map(set, full)) if len(full) > 1 else set()
    return [
        ", ".join(part.removeprefix("method.") for part in parts if part not in shared) or ", ".join(parts) for parts in full
    ]


def varying_axes(table: ResultTable) -> list[str]:
    """The keys of the axes that are columns of the table, but for the method."""
    return [c.key for c in table.columns if c.key.startswith("axis:") and c.key != "axis:method"]
