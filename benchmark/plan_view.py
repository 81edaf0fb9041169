"""A plan for the terminal: counts, cells, what they will cost, what a launcher would submit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmark.estimate import Expected, expected
from benchmark.fingerprints import Fingerprints
from benchmark.grid import Planned
from benchmark.launcher import Launcher
from benchmark.plan import Look, look
from benchmark.request import Request
from benchmark.reuse import Difference
from benchmark.runs import Run, State

SHOWN_CELLS = 200
"""Cells of a larger grid are only counted."""

FAILED = (State.FAILED, State.DIVERGED, State.OUT_OF_MEMORY, State.TIMEOUT, State.NODE_FAILED)


def plan_view(
    planned: Sequence[Planned], request: Request, launcher: Launcher, fingerprints: Fingerprints
) -> RenderableType:
    """Everything that ``plan=true`` prints."""
    looks = {run.run_id: look(run, request, launcher.alive) for _, run in planned}
    todo = [(cell, run) for cell, run in planned if looks[run.run_id].why]
    parts: list[RenderableType] = [_table(planned[:SHOWN_CELLS], looks, request, len(planned))]
    if len(planned) > SHOWN_CELLS:
        parts.append(Text(f"The first {SHOWN_CELLS} of {len(planned)} cells; the others are only counted."))
    parts.append(Text(_counts(list(looks.values()))))
    if todo:
        parts.append(Text(_cost(expected(todo, fingerprints), launcher.at_once(todo))))
        description = launcher.describe(todo)
        parts += [] if description is None else [description]
    return Group(*parts)


def _table(planned: Sequence[Planned], looks: dict[str, Look], request: Request, total: int) -> Table:
    table = Table(title=f"grid {request.grid}: {total} runs", title_justify="left")
    for column in ("run", "axes", "seed", "state", "would run"):
        table.add_column(column, overflow="fold")
    for cell, run in planned:
        axes = " ".join(f"{axis}={value}" for axis, value in cell.axes.items())
        found = looks[run.run_id]
        note = " (others start from it)" if cell.starts_others else ""
        table.add_row(run.run_id, axes + note, str(cell.seed), found.state, found.why or "no")
    return table


def _counts(looks: Sequence[Look]) -> str:
    """One line: how many cells are done, missing, failed, being worked on."""
    kinds = Counter(_kind(found) for found in looks)
    names = ("done", "missing", "interrupted", "failed", "skipped", "in work", "broken record")
    counts = ", ".join(f"{kinds[name]} {name}" for name in names if kinds[name] or name in ("done", "missing", "failed"))
    waiting = sum(_kind(found) == "failed" and not found.why for found in looks)
    hint = f"; retry=failed repeats {waiting}" if waiting else ""
    return f"{len(looks)} cells: {counts}{hint}. {sum(bool(found.why) for found in looks)} would run."


def _kind(found: Look) -> str:
    if found.owner is not None:
        return "in work"
    if found.record is None:
        return "missing" if found.state == State.PLANNED else "broken record"
    if found.state in FAILED:
        return "failed"
    return str(found.state) if found.state in (State.DONE, State.SKIPPED) else "interrupted"


def _cost(sums: Expected, at_once: int) -> str:
    """One or two sentences: device hours and disk of what would run."""
    known = sums.runs - sums.unknown
    if not known:
        return f"No finished run is like the {sums.runs} to run, so hours and disk are not known."
    hours = [f"{_number(value)} {kind}-hours" for value, kind in ((sums.gpu_hours, "GPU"), (sums.cpu_hours, "CPU")) if value]
    text = f"By past runs of the same shape: {' and '.join(hours)}"
    if at_once > 1:
        text += f", {at_once} runs at once"
    passing = _size(sums.largest_passing_bytes * at_once)
    text += f"; {_size(sums.left_bytes)} of disk, and up to {passing} of checkpoints meanwhile."
    if sums.unknown:
        text += f" Nothing is known of {sums.unknown} of the {sums.runs} runs: no finished run is like them."
    return text


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{_number(count / size)} {unit}"
    return f"{_number(count / 1e3)} kB"


def print_why(console: Console, run_id: str, nearest: Run, found: Sequence[Difference]) -> None:
    """What keeps a run from being a cell: a table of keys, or a sentence if nothing does."""
    if nearest.run_id == run_id:
        console.print(f"{run_id} is a cell of this grid: {nearest.state}.", markup=False, soft_wrap=True)
        return
    if not found:
        console.print(
            f"{run_id} and the nearest cell {nearest.run_id} differ in nothing that the record tells: the point labels of "
            "the validation images, or the rules of identity, are others than then.", markup=False, soft_wrap=True,
        )
        return
    table = Table(title=f"{run_id} is not the nearest cell {nearest.run_id}: {len(found)} keys differ", title_justify="left")
    for column in ("key", "the run has", "the cell has"):
        table.add_column(column, overflow="fold")
    for difference in found:
        table.add_row(difference.key, difference.run, difference.cell)
    console.print(table)
