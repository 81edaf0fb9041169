"""From a grid and a user's words to cells: resolved configs in table order, each once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmark.configs import ConfigError, compose_run, names_in, parse_overrides, unknown
from benchmark.grid import Block, Cell, GridDefinition
from benchmark.runs import NOT_IDENTITY

SOURCE_PREFIX = "init_from."
"""Words that begin so are for the runs that cells start from."""


class NothingAtScale(ConfigError):
    """A grid has no block at the scale asked for."""


def expand(grid: GridDefinition, arguments: Sequence[str], seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of a grid under a user's overrides, in table order, each config once.

    An override of an axis chooses among its values: in each block the values asked for are kept, blocks without one are
    dropped, and values that no block has are added to the first block with that axis. Any other override holds for every
    cell; with several values it becomes an axis of its own. Blocks of other scales than the one asked for do not count.

    The cells of members come first, with the axis ``grid``; members that have nothing at the scale are passed over.

    Args:
        grid: the grid.
        arguments: user's words in Hydra's grammar; those that begin with ``init_from.`` are for the runs that cells start
            from.
        seeds: instead of the grid's own.

    Raises:
        ConfigError: an unknown name, words for runs to start from where no cell has one, or nothing is left at a scale.
    """
    for_source = [o.input_line for o in parse_overrides(arguments) if o.key_or_group.startswith(SOURCE_PREFIX)]
    words = [word for word in arguments if word not in for_source]
    cells: dict[str, Cell] = {}
    for cell in _cells(grid, words, for_source, seeds):
        source = cell.source.config if cell.source else None
        cells.setdefault(json.dumps([cell.config, source], sort_keys=True), cell)
    if for_source and not any(cell.source for cell in cells.values()):
        raise ConfigError(f"'{for_source[0]}' is for runs that cells start from, but no cell of '{grid.name}' has one here.")
    return list(cells.values())


def _cells(
    grid: GridDefinition, words: Sequence[str], for_source: Sequence[str], seeds: Sequence[int] | None
) -> Iterator[Cell]:
    seeds = grid.seeds if seeds is None else seeds
    nowhere: NothingAtScale | None = None
    found = False
    for member in grid.members:
        try:
            for cell in _cells(member.grid, [*member.overrides, *grid.overrides, *words], for_source, seeds):
                found = True
                yield replace(cell, axes={"grid": cell.grid, **cell.axes})
        except NothingAtScale as error:
            nowhere = error
    if grid.blocks:
        try:
            for cell in _own_cells(grid, words, for_source, [0] if seeds is None else seeds):
                found = True
                yield cell
        except NothingAtScale as error:
            nowhere = error
    if nowhere and not found:
        raise nowhere


def _own_cells(
    grid: GridDefinition, words: Sequence[str], for_source: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    for scale, words_here in _by_scale(grid, words):
        if scale not in names_in("scale"):
            raise unknown("scale", scale, names_in("scale"))
        here = [block for block in grid.blocks if block.scales is None or scale in block.scales]
        if not here:
            known = sorted({s for block in grid.blocks for s in block.scales or ()})
            raise NothingAtScale(f"Grid '{grid.name}' has nothing at scale={scale}; it has blocks for {', '.join(known)}.")
        blocks, fixed = _with_choices(here, words_here)
        for block in blocks:
            defaults = (*grid.overrides, *grid.scales.get(scale, ()), *(block.scales or {}).get(scale, ()))
            for axes in block.combinations():
                chosen = [f"{axis}={value}" for axis, value in axes.items()]
                row = next(iter(block.rows_of(axes)), None)
                for seed in seeds:
                    own = (*fixed, *chosen, *block.pinned, f"seed={seed}")
                    config = compose_run((*defaults, *own))
                    source = None
                    if block.init_from is not None:
                        start = (*grid.overrides, f"scale={scale}", *_shared(own), *block.init_from[scale])
                        start = (*start, *(word.removeprefix(SOURCE_PREFIX) for word in for_source))
                        source = Cell(axes, seed, compose_run(start), grid.name, (*words, *for_source), starts_others=True)
                    yield Cell(axes, seed, config, grid.name, (*words, *for_source), row, grid.paper_table, source)


def _shared(words: Sequence[str]) -> list[str]:
    """The words of a cell that the run it starts from has too: neither its scale nor where its data set lies."""
    return [o.input_line for o in parse_overrides(words) if o.key_or_group != "scale"
            and not (o.key_or_group in NOT_IDENTITY and o.key_or_group.startswith("dataset."))]


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
