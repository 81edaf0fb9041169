"""Grids: which runs a comparison consists of.

A grid file ``conf/grid/<name>.yaml`` holds a ``title``, default ``overrides`` (a user's win over them), ``blocks`` and
``seeds``. A block is the product of its ``axes``' values; its own ``overrides`` are pinned, they win over a user's (an
evaluation-only control has no head whatever head is asked for). A grid's cells are resolved configs; equal cells of two
grids are the same run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.configs import CONF, ConfigError, compose_run, names_in, parse_overrides, unknown
from benchmark.runs import Run, run_id, write_json_atomically


@dataclass(frozen=True, slots=True)
class Block:
    """A product of axes (axis -> values as override text) under pinned overrides."""

    axes: dict[str, list[str]]
    pinned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GridDefinition:
    """A grid file."""

    name: str
    title: str
    overrides: list[str]
    blocks: list[Block]
    seeds: list[int]
    paper_table: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One planned run: the axis values that name it in tables, its seed and its resolved config."""

    axes: dict[str, str]
    seed: int
    config: dict[str, Any]
    overrides: tuple[str, ...]


def load_grid(name: str) -> GridDefinition:
    """Read a grid file; ConfigError with the known names for an unknown one, and for an unknown key in the file."""
    if name not in names_in("grid"):
        raise unknown("grid", name, names_in("grid"))
    raw = OmegaConf.to_container(OmegaConf.load(CONF / "grid" / f"{name}.yaml"), resolve=True)
    known = {"title", "overrides", "blocks", "seeds", "paper_table"}
    for key in raw:
        if key not in known:
            raise ConfigError(f"Grid '{name}' has an unknown key '{key}'; known are {', '.join(sorted(known))}.")
    blocks = [
        Block({axis: [_text(v) for v in values] for axis, values in b["axes"].items()}, tuple(b.get("overrides", [])))
        for b in raw["blocks"]
    ]
    return GridDefinition(
        name, raw["title"], raw.get("overrides", []), blocks, raw.get("seeds", [0]), raw.get("paper_table")
    )


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def expand(grid: GridDefinition, arguments: Sequence[str], seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of a grid under a user's overrides, in table order, each config once.

    An override of an axis chooses among its values: in each block the values asked for are kept, blocks without one are
    dropped, and values that no block has are added to the first block with that axis. Any other override holds for every
    cell; with several values it becomes an axis of its own.

    Args:
        grid: the grid.
        arguments: user's words in Hydra's grammar.
        seeds: instead of the grid's own.
    """
    blocks, fixed = _with_choices(grid, arguments)
    cells: list[Cell] = []
    seen: list[dict[str, Any]] = []
    for block in blocks:
        for values in itertools.product(*block.axes.values()):
            axes = dict(zip(block.axes, values, strict=True))
            chosen = [f"{axis}={value}" for axis, value in axes.items()]
            for seed in grid.seeds if seeds is None else seeds:
                words = (*grid.overrides, *fixed, *chosen, *block.pinned, f"seed={seed}")
                config = compose_run(words)
                if config not in seen:
                    seen.append(config)
                    cells.append(Cell(axes, seed, config, words))
    return cells


def _with_choices(grid: GridDefinition, arguments: Sequence[str]) -> tuple[list[Block], list[str]]:
    blocks, fixed = list(grid.blocks), []
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
    new = [v for v in values if not any(v in block.axes[key] for block in having)]
    result = []
    for block in blocks:
        if key not in block.axes:
            result.append(replace(block, axes={**block.axes, key: values}))
            continue
        kept = [v for v in block.axes[key] if v in values] + (new if block is having[0] else [])
        if kept:
            result.append(replace(block, axes={**block.axes, key: kept}))
    return result


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
            "cells": [{"run_id": run.run_id, "axes": cell.axes, "seed": cell.seed} for cell, run in cells],
        },
    )
    return path


def plan_run(cell: Cell, points_fingerprints: dict[str, str]) -> Run:
    """The run of a cell, given the fingerprints of its point labels."""
    return Run(Path(cell.config["results_dir"]), run_id(cell.config, points_fingerprints))
