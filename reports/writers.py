"""Result tables as text: cells, Markdown and CSV. Numbers are raw up to here; no other module formats them.

With one seed a value has no ±; from two seeds on it is the mean ± the sample standard deviation.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence

from reports.columns import Column
from reports.tables import ResultTable, Row, Stat

NOTHING = "–"
WIDEST_PADDING = 40
"""Cells of Markdown tables are padded to the width of their column, up to this many characters."""


def format_value(column: Column, row: Row) -> str:
    """The text of a cell: "43.2", "43.2 ± 0.4", with "(n=2)" if the row has more seeds than this value; – for nothing."""
    return "".join(format_parts(column, row))


def format_parts(column: Column, row: Row) -> tuple[str, str]:
    """The text of a cell, cut after the mean: ("43.2", " ± 0.4 (n=2)")."""
    value = row.values.get(column.key)
    if isinstance(value, float):
        return f"{value * column.scale:.{column.digits}f}", ""
    if not isinstance(value, Stat):
        return value or NOTHING, ""
    spread = "" if value.std is None else f" ± {value.std * column.scale:.{column.digits}f}"
    seeds = "" if value.n == row.done else f" (n={value.n})"
    return f"{value.mean * column.scale:.{column.digits}f}", spread + seeds


def to_markdown(table: ResultTable) -> str:
    """The quality table, the cost table, what their columns mean and the notes, as GitHub Markdown."""
    parts = [f"# {_markdown_text(table.title)}"]
    for part in table.parts():
        columns = table.shown(part)
        parts.append(f"## {part.capitalize()}")
        lines = [[_markdown_text(c.title) for c in columns]]
        lines += [[_markdown_text(format_value(c, row)) for c in columns] for row in table.rows]
        parts.append(_markdown_table(lines, [c.right for c in columns]))
        meanings = [*table.explanations(part).items(), *(table.remarks() if part == "quality" else ())]
        parts.append("\n".join(f"* **{_markdown_text(term)}**: {_markdown_text(meaning)}" for term, meaning in meanings))
    parts += ["## Notes", "\n".join(f"* {_markdown_text(note)}" for note in table.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table whose source is aligned as well; the first line is the head."""
    widths = [min(WIDEST_PADDING, max(4, *(len(line[i]) for line in lines))) for i in range(len(right))]
    padded = [
        [text.rjust(width) if end else text.ljust(width) for text, width, end in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    rule = ["-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, right, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


def _markdown_text(text: str) -> str:
    """Text from a record that can neither break a table nor become HTML or a link."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    for sign in ("\\", "|", "[", "]", "`", "*"):
        escaped = escaped.replace(sign, "\\" + sign)
    return escaped


def to_csv(table: ResultTable) -> str:
    """Every column with raw numbers (metrics in [0, 1], seconds, MB): mean, ``_std`` and ``_n``; a paper's numbers and text
    columns as they are.

    A text that a spreadsheet would run as a formula is quoted with an apostrophe.
    """
    header = []
    for column in table.columns:
        key = column.key.removeprefix("axis:")
        header += [key, f"{key}_std", f"{key}_n"] if column.scale is not None and column.measured else [key]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "run_ids"])
    for row in table.rows:
        line: list[str | float | int] = []
        for column in table.columns:
            value = row.values.get(column.key)
            if column.scale is None:
                line.append(_csv_text(value or ""))
            elif not column.measured:
                line.append("" if value is None else value)
            elif isinstance(value, Stat):
                line += [value.mean, "" if value.std is None else value.std, value.n]
            else:
                line += ["", "", 0]
        writer.writerow([*line, _csv_text(" ".join(r.run_id for r in row.records))])
    return out.getvalue()


def _csv_text(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
