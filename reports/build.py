"""``python -m reports.build``: write reports from the records of a results folder.

    grid=NAME           this grid's report: <results_dir>/NAME/report/ with index.html (one file that asks for nothing
                        outside), table.md, table.tex, table.csv, gallery/*.png and sources.json; it replaces an older one
    grid=all            the reports of all grids, and the reproduction tables
    (no grid)           the reproduction tables alone: reproduction_<scale>.md, every number and claim of the papers beside
                        ours, and claims.md, the verdicts at every scale; says which reports are stale
    format=FORMAT       markdown, latex or csv: print a grid's table in this form and write nothing
    check=true          write nothing; say which reports are stale, exit status 1 if any is
    photographs=false   leave the photographs out of the gallery: points, labels, maps and outlines alone
    results_dir=FOLDER  where the records are (results)
    to=FOLDER           where the reproduction tables go (reports)

Reports are made from records only.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmark.runs import write_json_atomically
from reports import render
from reports.claims import judge_claims
from reports.gallery import load_gallery
from reports.grids import grid_names, load_grid
from reports.latex import to_latex
from reports.page import page
from reports.reproduction import write_reproductions
from reports.sources import SOURCES, digests, staleness
from reports.tables import result_table
from reports.writers import to_csv, to_markdown

DEFAULTS = {"results_dir": "results", "format": "html", "photographs": "true", "check": "false", "to": "reports", "grid": ""}
CHOICES = {"format": ("html", "markdown", "latex", "csv"), "photographs": ("true", "false"), "check": ("true", "false")}
ALL = "all"
USAGE = (
    "usage: python -m reports.build [grid=NAME|all] [format=html|markdown|latex|csv] [check=true] [photographs=false] "
    "[results_dir=results] [to=reports]"
)


def build_report(results_dir: Path | str, grid: str, photographs: bool = True) -> Path:
    """Write the report of a grid and return its page, ``<results_dir>/<grid>/report/index.html``.

    The new report is complete before it takes the old one's place.

    Args:
        results_dir: folder of grids and runs.
        grid: name of the grid's folder.
        photographs: draw them in the gallery, where runs stored them.

    Raises:
        FileNotFoundError, ValueError: the grid file is missing or not a grid (see `load_grid`). Records that are missing or
            broken are rows of the report.
    """
    loaded = load_grid(results_dir, grid)
    sources = digests(Path(results_dir), grid, loaded)
    table = result_table(loaded)
    claims = judge_claims(loaded, table)
    gallery = load_gallery(table, photographs)
    folder = Path(results_dir) / grid / "report"
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".report."))
    try:
        fresh.chmod(0o755)
        (fresh / "gallery").mkdir()
        (fresh / "table.md").write_text(to_markdown(table, claims), encoding="utf-8")
        (fresh / "table.tex").write_text(to_latex(table), encoding="utf-8")
        (fresh / "table.csv").write_text(to_csv(table), encoding="utf-8")
        for image in gallery.images:
            (fresh / "gallery" / f"{image.key}.png").write_bytes(render.png_bytes(image.sheet(), few_colors=True))
        (fresh / "index.html").write_text(page(loaded, table, claims, gallery, sources), encoding="utf-8")
        write_json_atomically(fresh / SOURCES, sources)
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
    """The tables and claims of a grid as Markdown, straight from its records."""
    loaded = load_grid(results_dir, grid)
    table = result_table(loaded)
    return to_markdown(table, judge_claims(loaded, table))


FORMATS: Mapping[str, Callable[[Path, str], str]] = {
    "markdown": markdown_table,
    "latex": lambda results_dir, grid: to_latex(result_table(load_grid(results_dir, grid))),
    "csv": lambda results_dir, grid: to_csv(result_table(load_grid(results_dir, grid))),
}


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    options = dict(DEFAULTS)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if key not in DEFAULTS or not sign or not value or value not in CHOICES.get(key, (value,)):
            print(f"'{argument}' is not understood; {USAGE}", file=sys.stderr)
            return 2
        options[key] = value
    results, grid = Path(options["results_dir"]), options["grid"]
    grids = grid_names(results) if grid in ("", ALL) else [grid]
    if options["format"] != "html" and len(grids) != 1:
        print(f"format={options['format']} is one table, of grid=NAME; {USAGE}", file=sys.stderr)
        return 2
    if not grids:
        print(f"There is no grid in {results}; python -m benchmark.run makes some.", file=sys.stderr)
        return 1
    try:
        return _do(options, results, grids)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _do(options: Mapping[str, str], results: Path, grids: Sequence[str]) -> int:
    if options["check"] == "true":
        stale = [why for grid in grids if (why := staleness(results, grid))]
        print("\n".join(stale) or "All reports are up to date.")
        return 1 if stale else 0
    if options["format"] != "html":
        print(FORMATS[options["format"]](results, grids[0]), end="")
        return 0
    if options["grid"]:
        for grid in grids:
            print(build_report(results, grid, options["photographs"] == "true"))
    if options["grid"] in ("", ALL):
        for path in write_reproductions(results, Path(options["to"])):
            print(path)
        for why in filter(None, (staleness(results, grid) for grid in grids)):
            print(why)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
