"""What a paper reports, beside our numbers: its columns, their setting, and why the two may not be compared.

A grid's cells name rows of paper tables; the numbers are looked up in `benchmark.papers`, so that a correction there
reaches every report. Verdicts are made in `reports.verdicts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.configs import ConfigError, value_at
from benchmark.papers import DATA, METRICS, PaperRow, PaperTable, Setting, paper_table
from benchmark.papers.schedules import schedule_differences
from reports.columns import Column
from reports.grids import Cell, Grid
from reports.paper_config import config_differences
from reports.records import Record
from reports.supervision import is_told_points_only, reads_masks, starts

SCALES = {"voc": "paper", "coco": "paper_coco"}
"""Data set of a paper -> the scale with its input size and schedule."""


IMPORTED = "sparse label maps"
"""Supervision of runs on label maps made elsewhere; whether these are points or scribbles is not recorded."""

Reference = tuple[str, str]
"""Table (``<paper>/<table>``) and row."""


@dataclass(frozen=True, slots=True)
class Citation:
    """The paper rows that a grid's cells stand for, their tables, and what is wrong with names that are not known.

    ``further`` are rows that a cell stands for as well, in a grid that this one is composed of.
    """

    tables: Mapping[str, PaperTable] = field(default_factory=dict)
    rows: Mapping[Reference, PaperRow] = field(default_factory=dict)
    further: Mapping[Reference, PaperRow] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def row(self, cell: Cell) -> PaperRow | None:
        """The row that a cell names; None if it names none or an unknown one."""
        return self.rows.get((cell.paper_table or "", cell.paper_row or ""))

    def columns(self) -> tuple[Column, ...]:
        """One column for each metric that a row has, below a heading with the setting that the rows share."""
        rows = list(self.rows.values())
        if not rows:
            return ()
        shared = [part for part in rows[0].setting.parts if all(part in row.setting.parts for row in rows)]
        group = f"paper ({', '.join(shared)})" if shared else "paper"
        decimals = max(table.decimals for table in self.tables.values())
        return tuple(
            Column(f"paper_{key}", f"paper {name}", "", "quality", 100.0, decimals, group, name, measured=False)
            for key, name in METRICS.items() if any(key in row.values for row in rows)
        )  # fmt: skip


def cite(grid: Grid) -> Citation:
    """The paper rows of a grid. A name that `benchmark.papers` does not have is a problem to tell, not an error."""
    names = dict.fromkeys((cell.paper_table, cell.paper_row) for cell in grid.cells if cell.paper_table and cell.paper_row)
    known: dict[Reference, PaperRow] = {}
    problems = []
    for of, name in dict.fromkeys([*names, *(reference for cell in grid.cells for reference in cell.further)]):
        try:
            row = paper_table(of).row(name)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if row.contradicted:
            problems.append(f"the row '{name}' of {of} is no target. {row.contradicted}")
        else:
            known[of, name] = row
    rows = {reference: known[reference] for reference in names if reference in known}
    tables = {of: paper_table(of) for of, _ in rows}
    return Citation(tables, rows, known, tuple(dict.fromkeys(problems)))


def paper_values(row: PaperRow | None) -> dict[str, float]:
    """The cells of a paper's columns, in [0, 1]."""
    return {f"paper_{key}": round(value / 100, 6) for key, value in row.values.items()} if row else {}


def paper_notes(
    citation: Citation, rows: Sequence[tuple[str, PaperRow | None, Sequence[Record], Reference | None]]
) -> list[str]:
    """What belongs under a table with a paper's columns: source, setting, comparability, and known slips.

    Args:
        citation: of the grid.
        rows: name, paper row, runs and table and name of the paper row of each row of our table.
    """
    notes = [f"A paper's numbers are missing: {problem}" for problem in citation.problems]
    cited = [(name, row, runs, reference) for name, row, runs, reference in rows if row is not None]
    if not cited:
        return notes
    sources = "; ".join(dict.fromkeys(row.source for _, row, _, _ in cited))
    titles = "; ".join(table.title for table in citation.tables.values())
    settings = _by_text((_setting_text(row.setting), row.name) for _, row, _, _ in cited)
    notes.append(f"Columns under paper are as printed in {sources} ({titles}): {settings}.")
    notes += _comparability(cited)
    remarks = [("table", table.note) for table in citation.tables.values()]
    remarks += [(f"row {row.name}", text) for _, row, _, _ in cited for text in (row.note, row.slip, row.inconsistent)]
    return notes + [f"Paper, {what}: {text}" for what, text in dict.fromkeys(remarks) if text]


def further_notes(citation: Citation, rows: Iterable[tuple[str, PaperRow | None, Cell]]) -> list[str]:
    """Where papers print other numbers for the same experiment: those of the rows that members of a grid stand for. Tables
    with one and with two digits may print the same number, so that one digit is compared.

    Args:
        citation: of the grid.
        rows: name, paper row and first cell of each row of our table.
    """
    notes = []
    for name, shown, cell in rows:
        for of, other in cell.further:
            row = citation.further.get((of, other))
            if row is None or shown is None:
                continue
            both = {key: (value, shown.values.get(key, value)) for key, value in row.values.items()}
            apart = {key: theirs for key, (theirs, beside) in both.items() if f"{theirs:.1f}" != f"{beside:.1f}"}
            if apart:
                printed = ", ".join(f"{METRICS[key]} {value:g}" for key, value in apart.items())
                notes.append(f"{name} is also the row {other} of {row.source}, which prints {printed}.")
    return list(dict.fromkeys(notes))


def _comparability(cited: Sequence[tuple[str, PaperRow, Sequence[Record], Reference | None]]) -> list[str]:
    found, alike = [], []
    for name, row, runs, reference in cited:
        run = next((r for r in runs if r.config), None)
        if run is None:
            continue  # nothing of ours to compare
        apart = differences(run, row.setting, reference)
        found += [(text, name) for text in apart]
        alike += [] if apart else [name]
    compared = len({name for _, name in found}) + len(alike)
    notes = []
    if found:
        notes.append(f"The paper's numbers are not comparable with ours: {_by_text(found, compared)}.")
    if alike:
        rows = "" if len(alike) == compared else f" in {'; '.join(alike)}"
        same = (
            "has the data set, scale, network, supervision and, where it is known, schedule of the paper, and head, input, "
            "choice of points and learning rate of the grid file"
        )
        notes.append(f"Ours {same}{rows}; options of the method are not compared.")
    return notes


def differences(run: Record, setting: Setting, reference: Reference | None = None) -> list[str]:
    """In what a run is another experiment than a paper's: data set, scale, network, supervision, pretraining, schedule, and
    where it departs from the grid file's cell for the row in head, input, choice of points or learning rate.

    [] if in none. What the paper does not say is no difference. Schedule and cell are compared at the papers' scales only:
    elsewhere they are others by design, and the scale is named already.

    Args:
        run: ours.
        setting: of the paper's row.
        reference: the row, for the cell; None compares no cell.
    """
    kind = run.supervision.get("kind", "points")
    points = f"P{value_at(run.config, 'dataset.points.count')}"
    read = {"masks": "M", "points": points, IMPORTED: setting.supervision}.get(kind, kind)
    scale = SCALES.get(setting.data, "paper")
    ours_theirs = {
        "data set": (value_at(run.config, "dataset.name"), setting.data, DATA[setting.data].title),
        "scale": (value_at(run.config, "scale"), scale, scale),
        "network": (value_at(run.config, "model.name"), setting.backbone.lower().replace("-", "_"), setting.backbone),
        "supervision": (read, setting.supervision, setting.supervision),
    }  # fmt: skip
    apart = [f"{what} {ours}, not {name}" for what, (ours, theirs, name) in ours_theirs.items() if theirs and ours != theirs]
    apart += _pretraining_differences(run, setting)
    if ours_theirs["scale"][0] == scale:
        apart += schedule_differences(run.config.get("schedule") or {}, setting.schedule)
        apart += config_differences(run.config, *reference, scale) if reference else []
    return apart


def _pretraining_differences(run: Record, setting: Setting) -> list[str]:
    before = starts(run)
    if not before or not setting.pretraining:
        return ["pretrained"] if before else [f"not pretrained on {setting.pretraining}"] if setting.pretraining else []
    told = next((start["data_set"] for start in before if "data_set" in start), "")
    title = DATA[told].title if told in DATA else told
    if setting.supervision != "M" and not all(map(is_told_points_only, before)):
        return ["pretrained on masks" if any(map(reads_masks, before)) else "pretrained on what has no record"]
    return [] if title == setting.pretraining else [f"pretrained on {title}, not {setting.pretraining}"]


def _setting_text(setting: Setting) -> str:
    return ", ".join(setting.parts) + (f", {setting.schedule}" if setting.schedule else "")


def _by_text(pairs: Iterable[tuple[str, str]], everyone: int | None = None) -> str:
    """"text (its names); ..."; without names where a text holds for all of them (``everyone``: their number)."""
    names: dict[str, list[str]] = {}
    for text, name in pairs:
        names.setdefault(text, []).append(name)
    if everyone is None:
        everyone = sum(len(of) for of in names.values())
    return "; ".join(text if len(of) == everyone else f"{text} ({'; '.join(of)})" for text, of in names.items())
