"""``<results>/<grid>/grid.json``: the runs that a grid's report shows, in table order, with the axes that name them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.grid import Cell, GridDefinition, Planned
from benchmark.runs import write_json_atomically


def write_grid(folder: Path, grid: GridDefinition, cells: Sequence[Planned], part: bool = False) -> str:
    """Write ``<folder>/grid.json``, unless it lists these runs and further ones.

    A command for a part of a comparison (one seed of three, one method) is no reason to take the rest out of its report.
    Runs that only start others are under ``pretraining``. A cell of a member says whose it is, and the member's own table.

    Args:
        folder: of the grid.
        grid: its definition.
        cells: of the command, in table order.
        part: these are some cells of those that the file should list: they take the places of those with the same axes, seed
            and grid, others stay. Without a file they are all it lists.

    Returns:
        What a person should know about runs that the file lists or listed and the command does not; "" if there are none.
    """
    path = folder / "grid.json"
    table = [(cell, run) for cell, run in cells if not cell.starts_others]
    entries = [
        {"run_id": run.run_id, "axes": cell.axes, "seed": cell.seed, **_of_member(cell, grid)} for cell, run in table
    ]
    sources = [run.run_id for cell, run in cells if cell.starts_others]
    listed = _listed(path)
    if part and listed:
        entries, sources = _merged(listed["cells"], entries), _together(listed.get("pretraining", []), sources)
    asked = [entry["run_id"] for entry in entries]
    known = {entry["run_id"] for entry in (listed or {}).get("cells", [])}
    beyond = known - set(asked)
    if beyond and known.issuperset(asked):
        return (
            f"{path} lists {len(known)} runs, {len(asked)} of them asked for here; the report keeps all. Remove the file "
            "for a report of these alone."
        )
    content = {"grid": grid.name, "title": grid.title, "paper_table": grid.paper_table, "runs": asked, "cells": entries}
    if sources:
        content["pretraining"] = sources
    write_json_atomically(path, content)
    if not beyond or part:
        return ""
    return (
        f"{len(beyond)} of {len(known)} runs that {path} listed are none of this command's and leave the report; their "
        "records stay, and the command that made them puts them back."
    )


def _listed(path: Path) -> dict[str, Any] | None:
    """The file as it is; None if there is none, or none that could be shown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("cells"), list) else None


def _merged(listed: Sequence[Mapping[str, Any]], entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The listed cells with the others in their places, those that have none behind them."""
    fresh = {_place(entry): entry for entry in entries}
    kept = [fresh.pop(_place(entry), dict(entry)) for entry in listed]
    return [*kept, *fresh.values()]


def _place(entry: Mapping[str, Any]) -> str:
    return json.dumps([entry.get("grid"), entry.get("axes"), entry.get("seed")], sort_keys=True)


def _together(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _of_member(cell: Cell, grid: GridDefinition) -> dict[str, str]:
    """The paper row of a cell, and grid and paper table where they are those of a member."""
    told = {"grid": cell.grid, "paper_table": cell.paper_table, "paper_row": cell.paper_row}
    own = {"grid": grid.name, "paper_table": grid.paper_table}
    return {key: value for key, value in told.items() if value is not None and value != own.get(key)}
