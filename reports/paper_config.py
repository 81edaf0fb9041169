"""The config of our cell that stands for a row of a paper: what a grid file says, without the words of a command line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from benchmark.configs import ConfigError, names_in, value_at
from benchmark.expand import expand
from benchmark.grid import GridDefinition, load_grid

COMPARED = {
    "head": "head.name", "short side": "input.short", "long side": "input.long", "range of short sides": "input.short_range",
    "crop": "input.crop", "choice of points": "dataset.points.strategy", "learning rate": "schedule.lr",
}  # fmt: skip
"""What a run has in common with the cell of the grid that stands for a paper's row: name -> config key."""


@cache
def _grids() -> tuple[GridDefinition, ...]:
    return tuple(load_grid(name) for name in names_in("grid"))


@lru_cache(maxsize=64)
def configs_of_rows(table: str, scale: str) -> Mapping[str, Mapping[str, Any]]:
    """Row of a paper's table -> the config of the first cell of the grid files that stands for it at a scale."""
    found: dict[str, Mapping[str, Any]] = {}
    for grid in (grid for grid in _grids() if grid.paper_table == table):
        try:
            cells = expand(grid, [f"scale={scale}"], [0])
        except ConfigError:
            continue  # it has nothing at this scale
        for cell in cells:
            if cell.paper_row:
                found.setdefault(cell.paper_row, cell.config)
    return found


def config_differences(config: Mapping[str, Any], table: str, row: str, scale: str) -> list[str]:
    """Where a run's config departs from the grid file's in `COMPARED`: ["learning rate 0.01, not 0.0001"].

    Keys that the run's config does not have are not compared.
    """
    usual = configs_of_rows(table, scale).get(row)
    if usual is None:
        return []
    pairs = {what: (value_at(config, key), value_at(usual, key)) for what, key in COMPARED.items()}
    return [f"{what} {ours}, not {theirs}" for what, (ours, theirs) in pairs.items() if ours not in (None, theirs)]
