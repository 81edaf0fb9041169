"""Result tables as text: cells, Markdown and CSV. Numbers are raw up to here.

With one seed a value has no ±; from two seeds on it is the mean ± the sample standard deviation.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence

from reports.claims import JudgedClaim, evidence
from reports.columns import Column
from reports.tables import ResultTable, Row, Stat

NOTHING = "–"
GAP = "paper_gap"
"""The column of differences, shown with their sign."""

WIDEST_PADDING = 40
"""Cells of Markdown tables are padded to the width of their column, up to this many characters."""


def format_value(column: Column, row: Row) -> str:
    """The text of a cell: "43.2", "43.2 ± 0.4", with "(n=2)" if the row has more seeds than this value; – for nothing."""
    return "".join(format_parts(column, row))


def format_parts(column: Column, row: Row) -> tuple[str, str]:
    """The text of a cell, cut after the mean: ("43.2", " ± 0.4 (n=2)")."""
    value = row.values.get(column.key)
    if isinstance(value, float):
        sign = "+" if column.key == GAP else ""
        return f"{value * column.scale:{sign}.{column.digits}f}", ""
    if not isinstance(value, Stat):
        return value or NOTHING, ""
    spread = "" if value.std is None else f" ± {value.std * column.scale:.{column.digits}f}"
    seeds = "" if value.n == row.done else f" (n={value.n})"
    return f"{value.mean * column.scale:.{column.digits}f}", spread + seeds


def format_stat(value: Stat, scale: float, digits: int) -> str:
    """"43.2 ± 0.4"; without ± for a single seed."""
    spread = "" if value.std is None else f" ± {value.std * scale:.{digits}f}"
    return f"{value.mean * scale:.{digits}f}{spread}"


def to_markdown(table: ResultTable, claims: Sequence[JudgedClaim] = ()) -> str:
    """The quality table, the cost table, what their columns mean, the claims and the notes, as GitHub Markdown."""
    parts = [f"# {markdown_text(table.title)}"]
    for part in table.parts():
        columns = table.shown(part)
        parts.append(f"## {part.capitalize()}")
        lines = [[markdown_text(c.title) for c in columns]]
        lines += [[markdown_text(format_value(c, row)) for c in columns] for row in table.rows]
        parts.append(markdown_table(lines, [c.right for c in columns]))
        meanings = [*table.explanations(part).items(), *(table.remarks() if part == "quality" else ())]
        parts.append("\n".join(f"* **{markdown_text(term)}**: {markdown_text(meaning)}" for term, meaning in meanings))
    if claims:
        parts += ["## Claims", claims_markdown(claims)]
    parts += ["## Notes", "\n".join(f"* {markdown_text(note)}" for note in table.notes)]
    return "\n\n".join(parts) + "\n"


def claims_markdown(claims: Sequence[JudgedClaim]) -> str:
    """One line for each claim and metric: the verdict, what it rests on, and what the paper prints. Notes stand below."""
    lines = [["claim", "source", "metric", "verdict", "ours, better minus worse", "paper"]]
    told = ""
    for judged in claims:
        verdict = judged.verdict
        found = "; ".join(
            (f"{c.better} over {c.worse}: " if len(verdict.comparisons) > 1 else "") + evidence(c)
            for c in verdict.comparisons
        )
        first = judged.sentence != told
        told = judged.sentence
        names = [told, judged.claim.source] if first else ["", ""]
        lines.append([*names, judged.metric_name, verdict.text, found or NOTHING, judged.paper or NOTHING])
    body = markdown_table([[markdown_text(cell) for cell in line] for line in lines], [False] * len(lines[0]))
    notes = dict.fromkeys((j.claim.sentence, j.claim.note) for j in claims if j.claim.note)
    return "\n\n".join([body, "\n".join(f"* {markdown_text(f'{claim} {note}')}" for claim, note in notes)]).rstrip()


def markdown_table(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table whose source is aligned as well; the first line is the head."""
    widths = [min(WIDEST_PADDING, max(4, *(len(line[i]) for line in lines))) for i in range(len(right))]
    padded = [
        [text.rjust(width) if end else text.ljust(width) for text, width, end in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    rule = ["-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, right, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


def markdown_text(text: str) -> str:
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
