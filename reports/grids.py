"""Grid files as typed objects: the cells of a grid with their records, and the grids that it is composed of.

Only a grid file that can't be read is an error; records never are (`reports.records`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.records import Record, load_record


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid: its run, the axis values and seed that name it in tables, and the paper row it stands for.

    ``grid`` is the grid that the cell belongs to, also where another grid is composed of several. ``paper_table``
    (``<paper>/<table>``) is the table that ``paper_row`` is a row of. ``further`` are the other rows, (table, row), that its
    run stands for in members of the grid: a cell that several have is listed once, as one of the first of them.
    """

    record: Record
    axes: Mapping[str, Any]
    seed: int | None
    grid: str = ""
    paper_table: str | None = None
    paper_row: str | None = None
    further: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid's cells in table order; ``members`` are the grids that it is composed of, in this order too, each with all of
    its own cells."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    members: tuple[Grid, ...] = ()

    @property
    def records(self) -> list[Record]:
        """Every run once, in table order (a run may be in several cells)."""
        return list({cell.record.run_id: cell.record for cell in self.cells}.values())


def load_grid(results_dir: Path | str, grid: str) -> Grid:
    """Read ``<results_dir>/<grid>/grid.json``, the files of its members below it and the records of its runs.

    A grid below it whose runs are not all its own is no member (any more).

    Raises:
        FileNotFoundError: there is no such grid; lists those that exist.
        ValueError: the grid file, or one below it, is not a grid.
    """
    results = Path(results_dir)
    title, listed = _listed(results, grid)
    records = {run_id: load_record(results, run_id) for run_id in dict.fromkeys(run_id for run_id, _ in listed)}
    members = []
    for path in sorted((results / grid).glob("*/grid.json")):
        name = path.parent.relative_to(results).as_posix()
        its_title, its_cells = _listed(results, name)
        if all(run_id in records for run_id, _ in its_cells):
            members.append(Grid(name, its_title, _cells(its_cells, records)))
    order = list(dict.fromkeys(cell["grid"] for _, cell in listed))
    members.sort(key=lambda member: next((order.index(c.grid) for c in member.cells if c.grid in order), len(order)))
    return Grid(grid, title, _with_rows_of(_cells(listed, records), members), tuple(members))


Listed = list[tuple[str, dict[str, Any]]]
"""The cells of a grid file: run id and the fields of a `Cell` beside its record."""


def _listed(results: Path, grid: str) -> tuple[str, Listed]:
    """Title and cells of a grid file, in table order; errors as in `load_grid`."""
    path = results / grid / "grid.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = str(content.get("grid") or grid)
        order = [str(run_id) for run_id in content["runs"]]
        listed = [(str(cell["run_id"]), _cell(cell, own, content)) for cell in content.get("cells", [])]
    except FileNotFoundError:
        known = ", ".join(grid_names(results)) or "none"
        raise FileNotFoundError(f"There is no grid '{grid}' in {results} (known: {known}).") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a grid file ({type(error).__name__}: {error}); run the grid to write it.") from None
    named = {run_id for run_id, _ in listed}
    listed += [(run_id, {"axes": {}, "seed": None, "grid": own}) for run_id in order if run_id not in named]
    place = {run_id: index for index, run_id in enumerate(order)}
    listed.sort(key=lambda cell: place.get(cell[0], len(order)))
    return str(content.get("title") or grid), listed


def _cells(listed: Listed, records: Mapping[str, Record]) -> tuple[Cell, ...]:
    return tuple(
        Cell(records[run_id], **cell | {"seed": records[run_id].seed if cell["seed"] is None else cell["seed"]})
        for run_id, cell in listed
    )


def _with_rows_of(cells: Sequence[Cell], members: Sequence[Grid]) -> tuple[Cell, ...]:
    """Cells with the paper rows that their runs stand for in members: the first one where they name none themselves."""
    named: dict[str, list[tuple[str, str]]] = {}
    for cell in (cell for member in members for cell in member.cells):
        if cell.paper_table and cell.paper_row:
            named.setdefault(cell.record.run_id, []).append((cell.paper_table, cell.paper_row))
    found = []
    for cell in cells:
        own = [(cell.paper_table, cell.paper_row)] if cell.paper_table and cell.paper_row else []
        rows = list(dict.fromkeys(own + named.get(cell.record.run_id, [])))
        if rows:
            (table, row), *others = rows
            cell = replace(cell, paper_table=table, paper_row=row, further=tuple(others))
        found.append(cell)
    return tuple(found)


def _cell(raw: Mapping[str, Any], grid: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "axes": dict(raw["axes"]),
        "seed": raw.get("seed"),
        "grid": raw.get("grid") or grid,
        "paper_table": raw.get("paper_table") or content.get("paper_table"),
        "paper_row": raw.get("paper_row"),
    }


def grid_names(results_dir: Path) -> list[str]:
    """The grids of a results folder, sorted; ``<grid>/<member>`` for those that another grid is composed of."""
    found = [path for pattern in ("*/grid.json", "*/*/grid.json") for path in results_dir.glob(pattern)]
    return sorted(path.parent.relative_to(results_dir).as_posix() for path in found)
