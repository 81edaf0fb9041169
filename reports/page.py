"""The report as one HTML page that asks for nothing outside itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark.runs import State
from reports import render
from reports.claims import JudgedClaim, evidence, summary
from reports.columns import Column
from reports.curves import read_curve
from reports.gallery import Gallery
from reports.grids import Grid
from reports.guards import check
from reports.hard_images import hard_images
from reports.plots import MOST_ROWS, draw_plots
from reports.records import Record
from reports.run_details import flat, run_details
from reports.tables import ResultTable, Stat
from reports.verdicts import Outcome
from reports.writers import format_parts

UNDERWAY = (State.PLANNED, State.SUBMITTED, State.RUNNING)
TONES = {Outcome.HOLDS: "good", Outcome.FAILS: "bad", Outcome.OPEN: "open", Outcome.NOT_RUN: "open"}
"""Outcome of a claim -> class of the style sheet; the word always stands beside the colour."""


def page(grid: Grid, table: ResultTable, claims: Sequence[JudgedClaim], gallery: Gallery, sources: Mapping[str, str]) -> str:
    """The page of a grid. What comes from files is escaped; only the script that the page brings may run.

    Args:
        grid, table, claims, gallery: what is shown.
        sources: digests of what the page is made from (`reports.sources`).
    """
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    curves = {record.run_id: read_curve(record) for record in grid.records}
    script = resources.files("reports").joinpath("templates/page.js").read_text(encoding="utf-8")
    differing, worst = hard_images(table)
    return environment.get_template("report.html").render(
        grid=grid,
        table=table,
        claims=claims,
        counts=summary(claims),
        tone=lambda outcome: TONES[outcome],
        evidence=evidence,
        classes=_classes,
        cell=format_parts,
        spread=cache(lambda column: max((len(format_parts(column, row)[1]) for row in table.rows), default=0)),
        sort_value=lambda column, row: _sort_value(row.values.get(column.key)),
        guards=check(grid, table),
        unfinished=[r for r in grid.records if r.reason and r.state != State.DONE],
        underway=[r for r in grid.records if r.state in UNDERWAY],
        supervision=_supervision(table),
        seeds=sorted({r.seed for r in grid.records if r.seed is not None}),
        gallery=gallery,
        hard=[("rows differ most", differing), ("labels of all rows are worst", worst)] if worst else [],
        picture=lambda panel: render.data_uri(render.png_bytes(panel)),
        plots=[(plot, Markup(plot.svg)) for plot in draw_plots(table, curves)],
        too_many_rows=len(table.rows) > MOST_ROWS,
        details=json_block(run_details(grid, table, curves)),
        made_from=fingerprint(sources),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_origins(grid, table),
    )


def _origins(grid: Grid, table: ResultTable) -> dict[str, Any]:
    origins = _provenance(grid.records, table.run_names())
    return {
        "agreed": [(what, values[0][0]) for what, values in origins if len(values) == 1],
        "differing": [(what, values) for what, values in origins if len(values) > 1],
    }


def fingerprint(sources: Mapping[str, str]) -> str:
    """One short name for all sources of a page."""
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]


def json_block(value: Any) -> Markup:
    """JSON for inside a ``<script type="application/json">``: nothing in it can end the element or start another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _classes(column: Column) -> str:
    """For the style sheet and the script: the key of a text column, ``right`` for alignment, ``number`` for sorting."""
    text = column.scale is None
    names = {column.key: text and not column.key.startswith("axis:"), "right": column.right, "number": not text}
    return " ".join(name for name, holds in names.items() if holds)


def _sort_value(value: str | float | Stat | None) -> float | str:
    return value.mean if isinstance(value, Stat) else value if isinstance(value, float) else ""


def _supervision(table: ResultTable) -> dict[str, list[str]]:
    """What training read -> the rows that read it."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        read = next((r.supervision for r in row.records if r.supervision), {})
        known = [(key.replace("_", " ").replace(".", " "), value) for key, value in flat(read) if value != "None"]
        text = ", ".join(f"{key}: {value}" for key, value in known)
        rows.setdefault(text or "no record", []).append(table.name(row))
    return rows


def _provenance(records: Sequence[Record], names: Mapping[str, str]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """(what, [(value, names of the runs with it)]); the names are left out where all runs with a record agree."""
    known = [(names[r.run_id], {**dict(flat(r.provenance)), "created": r.created, "finished": r.finished}) for r in records]
    known = [(name, values) for name, values in known if any(values.values())]
    lines = []
    for key in dict.fromkeys(key for _, values in known for key in values if key not in ("created", "finished")):
        runs: dict[str, list[str]] = {}
        for name, values in known:
            runs.setdefault(values.get(key, "not recorded"), []).append(name)
        lines.append((key, [(value, found if len(runs) > 1 else []) for value, found in runs.items()]))
    starts = sorted(values["created"] for _, values in known if values["created"])
    ends = sorted(values["finished"] for _, values in known if values["finished"])
    span = [("first run created", starts[:1]), ("last run finished", ends[-1:])]
    return lines + [(what, [(value, [])]) for what, found in span for value in found]
