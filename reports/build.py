"""``python -m reports.build grid=NAME [results_dir=results]``: write a grid's report.

The report is ``<results_dir>/<grid>/report/`` with ``index.html`` (one file that asks for nothing outside), ``table.md``,
``table.csv`` and ``gallery/*.png``. It is made from records only and replaces an older one as a whole.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark.runs import State
from reports import render
from reports.columns import Column
from reports.gallery import Gallery, load_gallery
from reports.guards import check
from reports.records import Grid, Record, load_grid
from reports.tables import ResultTable, Stat, result_table
from reports.writers import format_parts, to_csv, to_markdown

USAGE = "usage: python -m reports.build grid=NAME [results_dir=results]"


def build_report(results_dir: Path | str, grid: str) -> Path:
    """Write the report of a grid and return its page, ``<results_dir>/<grid>/report/index.html``.

    The new report is complete before it takes the old one's place.

    Raises:
        FileNotFoundError, ValueError: the grid file is missing or not a grid (see `load_grid`). Records that are missing or
            broken are rows of the report.
    """
    loaded = load_grid(results_dir, grid)
    table = result_table(loaded)
    gallery = load_gallery(table)
    folder = Path(results_dir) / grid / "report"
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".report."))
    try:
        fresh.chmod(0o755)
        (fresh / "gallery").mkdir()
        (fresh / "table.md").write_text(to_markdown(table), encoding="utf-8")
        (fresh / "table.csv").write_text(to_csv(table), encoding="utf-8")
        for image in gallery.images:
            (fresh / "gallery" / f"{image.key}.png").write_bytes(render.png_bytes(image.sheet()))
        (fresh / "index.html").write_text(page(loaded, table, gallery), encoding="utf-8")
        _replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder / "index.html"


def _replace_folder(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; a folder that is in the way is set aside first and deleted last."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".report-old."))
    try:
        if folder.exists():
            folder.rename(aside / "report")
        fresh.rename(folder)
    except OSError:
        if (aside / "report").exists() and not folder.exists():
            (aside / "report").rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def markdown_table(results_dir: Path | str, grid: str) -> str:
    """The tables of a grid as Markdown, straight from its records."""
    return to_markdown(result_table(load_grid(results_dir, grid)))


def page(grid: Grid, table: ResultTable, gallery: Gallery) -> str:
    """The report as one HTML page. What comes from files is escaped; only the script that the page brings may run."""
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    origins = _provenance(grid.records, table.run_names())
    script = resources.files("reports").joinpath("templates/sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        grid=grid,
        table=table,
        classes=_classes,
        cell=format_parts,
        spread=lambda column: max((len(format_parts(column, row)[1]) for row in table.rows), default=0),
        sort_value=lambda column, row: _sort_value(row.values.get(column.key)),
        guards=check(grid, table),
        unfinished=[r for r in grid.records if r.reason and r.state != State.DONE],
        supervision=_supervision(table),
        seeds=sorted({r.seed for r in grid.records if r.seed is not None}),
        agreed=[(what, values[0][0]) for what, values in origins if len(values) == 1],
        differing=[(what, values) for what, values in origins if len(values) > 1],
        gallery=gallery,
        picture=lambda panel: render.data_uri(render.png_bytes(panel)),
        script=Markup(script),
        script_digest=digest,
    )


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
        text = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in read.items() if value is not None)
        rows.setdefault(text or "no record", []).append(table.name(row))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _provenance(records: Sequence[Record], names: Mapping[str, str]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """(what, [(value, names of the runs with it)]); the names are left out where all runs with a record agree."""
    known = [(names[r.run_id], {**dict(_flat(r.provenance)), "created": r.created, "finished": r.finished}) for r in records]
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


def main(arguments: Sequence[str]) -> int:
    """Build the report that the command line asks for; returns the exit status."""
    options = {"results_dir": "results"}
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if key not in ("grid", "results_dir") or not sign or not value:
            print(f"'{argument}' is not understood; {USAGE}", file=sys.stderr)
            return 2
        options[key] = value
    if "grid" not in options:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        print(build_report(options["results_dir"], options["grid"]))
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
