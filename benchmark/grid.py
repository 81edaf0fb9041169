"""Grids: which runs a comparison consists of.

A grid file ``conf/grid/<name>.yaml`` holds a ``title``, default ``overrides`` (a user's win over them), ``blocks`` and
``seeds``. A block is the product of its ``axes``' values; its own ``overrides`` are pinned, they win over a user's (an
evaluation-only control has no head whatever head is asked for). A grid's cells are resolved configs; equal cells of two
grids are the same run.

``scales`` of a grid are defaults at one scale (``paper: [schedule.epochs=24]``), again a user's win. ``scales`` of a block
are the same and the only scales that have the block: backbones are compared at ``paper``, not at ``demo``.

``paper_table`` names the table that a grid reproduces (`benchmark.papers`), ``paper_rows`` of a block the cells that stand
for its rows: ``Nearest Centroid: {method.units: centroid}``. Reports show their numbers; a run does not depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.configs import CONF, ConfigError, compose_run, names_in, parse_overrides, unknown
from benchmark.papers import paper_table
from benchmark.runs import Run, run_id, write_json_atomically


@dataclass(frozen=True, slots=True)
class Block:
    """A product of axes.

    Attributes:
        axes: axis -> values as override text.
        pinned: overrides that win over a user's.
        scales: the scales that have the block, each with its defaults; None: every scale.
        paper_rows: row of the grid's paper table -> the axis values that its cells have, {} for all cells.
    """

    axes: dict[str, list[str]]
    pinned: tuple[str, ...] = ()
    scales: Mapping[str, Sequence[str]] | None = None
    paper_rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def rows_of(self, cell: Mapping[str, str]) -> list[str]:
        """The paper rows that a cell, given by its axis values, stands for: one at most in a grid file that loads."""
        return [row for row, values in self.paper_rows.items() if values.items() <= cell.items()]


@dataclass(frozen=True, slots=True)
class GridDefinition:
    """A grid file; ``scales`` are defaults by scale, ``paper_table`` is ``<paper>/<table>``."""

    name: str
    title: str
    overrides: list[str]
    blocks: list[Block]
    seeds: list[int]
    paper_table: str | None = None
    scales: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """One planned run: the axis values that name it in tables, its seed, its resolved config and its paper row."""

    axes: dict[str, str]
    seed: int
    config: dict[str, Any]
    overrides: tuple[str, ...]
    paper_row: str | None = None


GRID_KEYS = ("title", "overrides", "scales", "blocks", "seeds", "paper_table")
BLOCK_KEYS = ("axes", "overrides", "scales", "paper_rows")


def load_grid(name: str) -> GridDefinition:
    """Read a grid file.

    Raises:
        ConfigError: an unknown grid; in the file an unknown key, scale, paper table or row, a row that no cell stands for,
            or a cell that stands for two rows.
    """
    if name not in names_in("grid"):
        raise unknown("grid", name, names_in("grid"))
    return read_grid(CONF / "grid" / f"{name}.yaml")


def read_grid(path: Path) -> GridDefinition:
    """`load_grid` of a file."""
    raw = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    _check_keys(raw, path.stem, GRID_KEYS)
    for part in (raw, *raw["blocks"]):
        for scale in part.get("scales", {}):
            if scale not in names_in("scale"):
                raise unknown(f"scale in grid '{path.stem}'", scale, names_in("scale"))
    table = raw.get("paper_table")
    blocks = [_block(block, path.stem, table) for block in raw["blocks"]]
    return GridDefinition(
        path.stem, raw["title"], raw.get("overrides", []), blocks, raw.get("seeds", [0]), table, raw.get("scales", {})
    )


def _block(raw: dict[str, Any], grid: str, table: str | None) -> Block:
    _check_keys(raw, grid, BLOCK_KEYS, "a block with the unknown key")
    rows = {_text(row): {a: _text(v) for a, v in values.items()} for row, values in raw.get("paper_rows", {}).items()}
    axes = {axis: [_text(v) for v in values] for axis, values in raw["axes"].items()}
    if "scale" in axes:
        raise ConfigError(f"Grid '{grid}' has the axis 'scale'; a command chooses it (scale=demo,mini), a block does not.")
    block = Block(axes, tuple(raw.get("overrides", [])), raw.get("scales"), rows)
    _check_paper_rows(block, grid, table)
    return block


def _check_keys(raw: Mapping[str, Any], grid: str, known: Sequence[str], what: str = "an unknown key") -> None:
    for key in raw:
        if key not in known:
            raise ConfigError(f"Grid '{grid}' has {what} '{key}'; known are {', '.join(sorted(known))}.")


def _check_paper_rows(block: Block, grid: str, table: str | None) -> None:
    """ConfigError unless every paper row exists and is believed, some cell stands for it, and no cell stands for two."""
    if table is not None:
        for row in block.paper_rows:
            if why := paper_table(table).row(row).contradicted:
                raise ConfigError(f"Grid '{grid}' stands for the row '{row}' of {table}, whose numbers are no target: {why}")
    elif block.paper_rows:
        raise ConfigError(f"Grid '{grid}' names paper rows but no table; write paper_table: PAPER/TABLE.")
    for row, values in block.paper_rows.items():
        for axis, value in values.items():
            if axis not in block.axes:
                raise unknown(f"axis of the paper row '{row}' in grid '{grid}'", axis, block.axes)
            if value not in block.axes[axis]:
                raise unknown(f"value of {axis} for the paper row '{row}' in grid '{grid}'", value, block.axes[axis])
    for cell in _cells_of(block):
        if len(rows := block.rows_of(cell)) > 1:
            raise ConfigError(f"In grid '{grid}' one cell ({cell}) stands for several paper rows: {', '.join(rows)}.")


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells_of(block: Block) -> list[dict[str, str]]:
    return [dict(zip(block.axes, values, strict=True)) for values in itertools.product(*block.axes.values())]


def expand(grid: GridDefinition, arguments: Sequence[str], seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of a grid under a user's overrides, in table order, each config once.

    An override of an axis chooses among its values: in each block the values asked for are kept, blocks without one are
    dropped, and values that no block has are added to the first block with that axis. Any other override holds for every
    cell; with several values it becomes an axis of its own. Blocks of other scales than the one asked for do not count.

    Args:
        grid: the grid.
        arguments: user's words in Hydra's grammar.
        seeds: instead of the grid's own.

    Raises:
        ConfigError: an unknown name, or nothing is left at a scale.
    """
    cells: list[Cell] = []
    for scale, words in _by_scale(grid, arguments):
        if scale not in names_in("scale"):
            raise unknown("scale", scale, names_in("scale"))
        here = [block for block in grid.blocks if block.scales is None or scale in block.scales]
        if not here:
            known = sorted({s for block in grid.blocks for s in block.scales or ()})
            raise ConfigError(f"Grid '{grid.name}' has nothing at scale={scale}; it has blocks for {', '.join(known)}.")
        blocks, fixed = _with_choices(here, words)
        for block in blocks:
            defaults = (*grid.overrides, *grid.scales.get(scale, ()), *(block.scales or {}).get(scale, ()))
            for axes in _cells_of(block):
                chosen = [f"{axis}={value}" for axis, value in axes.items()]
                for seed in grid.seeds if seeds is None else seeds:
                    overrides = (*defaults, *fixed, *chosen, *block.pinned, f"seed={seed}")
                    config = compose_run(overrides)
                    if not any(config == cell.config for cell in cells):
                        row = next(iter(block.rows_of(axes)), None)
                        cells.append(Cell(axes, seed, config, overrides, row))
    return cells


def _by_scale(grid: GridDefinition, arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(scale, words for it): each scale that the words ask for, else the grid's."""
    overrides = parse_overrides(arguments)
    asked = [o for o in overrides if o.key_or_group == "scale"]
    if not asked:
        return [(compose_run(grid.overrides)["scale"], list(arguments))]
    others = [o.input_line for o in overrides if o.key_or_group != "scale"]
    last = asked[-1]
    if not last.is_sweep_override():
        return [(last.get_value_element_as_str(), [last.input_line, *others])]
    # one scale is a word; of several, each cell says which as an axis
    return [(scale, [f"scale=choice({scale})", *others]) for scale in last.sweep_string_iterator()]


def _with_choices(blocks: list[Block], arguments: Sequence[str]) -> tuple[list[Block], list[str]]:
    fixed = []
    for override in parse_overrides(arguments):
        key = override.key_or_group
        sweep = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if sweep else [override.get_value_element_as_str()]
        if any(key in block.axes for block in blocks):
            blocks = _restricted(blocks, key, values)
        elif sweep:
            blocks = [replace(block, axes={**block.axes, key: values}) for block in blocks]
        else:
            fixed.append(override.input_line)
    return blocks, fixed


def _restricted(blocks: list[Block], key: str, values: list[str]) -> list[Block]:
    having = [block for block in blocks if key in block.axes]
    wanted = {_meaning(value) for value in values}
    present = {_meaning(value) for block in having for value in block.axes[key]}
    new = [value for value in values if _meaning(value) not in present]
    result = []
    for block in blocks:
        if key not in block.axes:
            result.append(replace(block, axes={**block.axes, key: values}))
            continue
        kept = [v for v in block.axes[key] if _meaning(v) in wanted] + (new if block is having[0] else [])
        if kept:
            result.append(replace(block, axes={**block.axes, key: kept}))
    return result


def _meaning(text: str) -> str | float:
    """What a value is compared by: 3 is 3.0, True is true."""
    try:
        return float(text)
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text


def write_grid(results_dir: Path, grid: GridDefinition, cells: Sequence[tuple[Cell, Run]]) -> Path:
    """Write ``results/<grid>/grid.json``: the run ids in table order with the axes that name them."""
    path = results_dir / grid.name / "grid.json"
    write_json_atomically(
        path,
        {
            "grid": grid.name,
            "title": grid.title,
            "paper_table": grid.paper_table,
            "runs": [run.run_id for _, run in cells],
            "cells": [
                {"run_id": run.run_id, "axes": cell.axes, "seed": cell.seed}
                | ({} if cell.paper_row is None else {"paper_row": cell.paper_row})
                for cell, run in cells
            ],
        },
    )
    return path


def plan_run(cell: Cell, points_fingerprints: dict[str, str]) -> Run:
    """The run of a cell, given the fingerprints of its point labels."""
    return Run(Path(cell.config["results_dir"]), run_id(cell.config, points_fingerprints))
