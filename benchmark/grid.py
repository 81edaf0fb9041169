"""Grids: which runs a comparison consists of.

A grid file ``conf/grid/<name>.yaml`` holds a ``title``, default ``overrides`` (a user's win over them), ``blocks`` and
``seeds``. A block is the product of its ``axes``' values; its own ``overrides`` are pinned, they win over a user's (an
evaluation-only control has no head whatever head is asked for). A grid's cells are resolved configs; equal cells of two
grids are the same run.

``grids`` lists grids whose cells are cells of this one too, by name, or as ``name: [overrides]`` that hold for that member;
the overrides of this grid hold for all members, a user's win. A cell that several members have is one run.

``init_from`` of a block makes its cells start from the network of another run, which is planned and run first. It gives the
words of that run by scale, the block's only ones: at that scale the run has the axes, seed and user's words of its cell (but
for where the data set lies) and then these. A user's words for it begin with ``init_from.``, as in
``init_from.dataset.root=FOLDER``.

``scales`` of a grid are defaults at one scale (``paper: [schedule.epochs=24]``), again a user's win. ``scales`` of a block
are the same and the only scales that have the block: backbones are compared at ``paper``, not at ``demo``.

``paper_table`` names the table that a grid reproduces (`benchmark.papers`), ``paper_rows`` of a block the cells that stand
for its rows: ``Nearest Centroid: {method.units: centroid}``. Reports show their numbers; a run does not depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.configs import CONF, ConfigError, names_in, unknown
from benchmark.papers import paper_table
from benchmark.runs import Run


@dataclass(frozen=True, slots=True)
class Block:
    """A product of axes.

    Attributes:
        axes: axis -> values as override text.
        pinned: overrides that win over a user's.
        scales: the scales that have the block, each with its defaults; None: every scale.
        paper_rows: row of the grid's paper table -> the axis values that its cells have, {} for all cells.
        init_from: scale -> words of the run that a cell starts from; None: cells start afresh.
    """

    axes: dict[str, list[str]]
    pinned: tuple[str, ...] = ()
    scales: Mapping[str, Sequence[str]] | None = None
    paper_rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    init_from: Mapping[str, Sequence[str]] | None = None

    def rows_of(self, cell: Mapping[str, str]) -> list[str]:
        """The paper rows that a cell, given by its axis values, stands for: one at most in a grid file that loads."""
        return [row for row, values in self.paper_rows.items() if values.items() <= cell.items()]

    def combinations(self) -> list[dict[str, str]]:
        """The axis values of each cell."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]


@dataclass(frozen=True, slots=True)
class GridDefinition:
    """A grid file; ``scales`` are defaults by scale, ``paper_table`` is ``<paper>/<table>``.

    ``seeds`` is None where the file has none: 0 for its blocks, and what they say themselves for its members.
    """

    name: str
    title: str
    overrides: list[str]
    blocks: list[Block]
    seeds: list[int] | None = None
    paper_table: str | None = None
    scales: Mapping[str, Sequence[str]] = field(default_factory=dict)
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """A grid that is part of another one, and the overrides that hold for it there."""

    grid: GridDefinition
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One planned run.

    Attributes:
        axes: the axis values that name it in tables.
        seed: of the run.
        config: resolved.
        grid: name of the grid whose block it comes from.
        words: the overrides under which that grid was expanded.
        paper_row, paper_table: the row that it stands for.
        source: the run that it starts from, not yet named in ``config["init_from"]``; None if it starts afresh.
        starts_others: it is no cell of the table, but the source of one.
    """

    axes: dict[str, str]
    seed: int
    config: dict[str, Any]
    grid: str
    words: tuple[str, ...] = ()
    paper_row: str | None = None
    paper_table: str | None = None
    source: Cell | None = None
    starts_others: bool = False


Planned = tuple[Cell, Run]
"""A cell and its run."""

GRID_KEYS = ("title", "overrides", "scales", "blocks", "seeds", "paper_table", "grids")
BLOCK_KEYS = ("axes", "overrides", "scales", "paper_rows", "init_from")


def load_grid(name: str) -> GridDefinition:
    """Read a grid file.

    Raises:
        ConfigError: an unknown grid; in the file an unknown key, scale, paper table, row or member, a row that no cell
            stands for, a cell that stands for two rows, or a grid that is part of itself.
    """
    return _load(name, ())


def _load(name: str, within: tuple[str, ...]) -> GridDefinition:
    if name not in names_in("grid"):
        raise unknown("grid", name, names_in("grid"))
    if name in within:
        raise ConfigError(f"Grid '{name}' is part of itself: {' > '.join((*within, name))}.")
    return read_grid(CONF / "grid" / f"{name}.yaml", within)


def read_grid(path: Path, within: tuple[str, ...] = ()) -> GridDefinition:
    """`load_grid` of a file, a member of the grids ``within`` which it is."""
    raw = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    name, raw_blocks = path.stem, raw.get("blocks", [])
    _check_keys(raw, name, GRID_KEYS)
    for part in (raw, *raw_blocks):
        for scale in (*part.get("scales", {}), *(part.get("init_from") or {})):
            if scale not in names_in("scale"):
                raise unknown(f"scale in grid '{name}'", scale, names_in("scale"))
    table = raw.get("paper_table")
    blocks = [_block(block, name, table) for block in raw_blocks]
    members = tuple(_member(entry, (*within, name)) for entry in raw.get("grids", []))
    if not blocks and not members:
        raise ConfigError(f"Grid '{name}' has neither blocks nor grids; give it cells.")
    return GridDefinition(
        name, raw["title"], raw.get("overrides", []), blocks, raw.get("seeds"), table, raw.get("scales", {}), members
    )


def _member(entry: str | dict[str, list[str]], within: tuple[str, ...]) -> Member:
    name, overrides = (entry, []) if isinstance(entry, str) else next(iter(entry.items()))
    return Member(_load(name, within), tuple(overrides))


def _block(raw: dict[str, Any], grid: str, table: str | None) -> Block:
    _check_keys(raw, grid, BLOCK_KEYS, "a block with the unknown key")
    rows = {_text(row): {a: _text(v) for a, v in values.items()} for row, values in raw.get("paper_rows", {}).items()}
    axes = {axis: [_text(v) for v in values] for axis, values in raw["axes"].items()}
    if "scale" in axes:
        raise ConfigError(f"Grid '{grid}' has the axis 'scale'; a command chooses it (scale=demo,mini), a block does not.")
    scales, init_from = raw.get("scales"), raw.get("init_from")
    if init_from is not None and set(init_from) != set(scales or ()):
        raise ConfigError(f"Grid '{grid}' has a block whose init_from and scales name different scales; both name all.")
    block = Block(axes, tuple(raw.get("overrides", [])), scales, rows, init_from)
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
    for cell in block.combinations():
        if len(rows := block.rows_of(cell)) > 1:
            raise ConfigError(f"In grid '{grid}' one cell ({cell}) stands for several paper rows: {', '.join(rows)}.")


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
