"""What a person sees while a grid runs: a bar per stage, a live line of losses, an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmark.runs import Run, State

QUIET_SECONDS = 30.0
"""Without a terminal, a line about a run in progress is printed this often."""


class GridProgress:
    """Follows the runs of a grid on a terminal; prints plain lines where there is none.

    Args:
        console: where to print.
        runs: runs to be started.
        cells: all cells of the grid, done ones included.
        at_once: runs that go on at the same time; from 2 on every line names its run.
        failed: cells that failed before and are left so.
    """

    def __init__(self, console: Console, runs: int, cells: int, at_once: int = 1, failed: int = 0):
        self.runs, self.at_once, self.started = runs, at_once, 0
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[line]}"), console=console, disable=not console.is_terminal,
        )
        self.grid_bar = self.bars.add_task("grid", total=runs, line="")
        self.say(_beginning(runs, cells, failed))

    def __enter__(self) -> GridProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.bars.console.print(text, markup=False, soft_wrap=True)

    def start(self, name: str) -> RunProgress:
        """A run begins; the result listens to it."""
        self.started += 1
        number = f"[{self.started}/{self.runs}]"
        self.say(f"{number} {name}")
        return RunProgress(self, name, f"    {number} " if self.at_once > 1 else "    ")


def _beginning(runs: int, cells: int, failed: int) -> str:
    if runs == cells:
        return f"{runs} cells to run"
    before = f"{failed} failed before (retry=failed repeats them), " if failed else ""
    return f"{cells - runs - failed} of {cells} cells need nothing, {before}{runs} to run"


class RunProgress:
    """One run on the display of its grid: what `benchmark.execute` calls a listener."""

    def __init__(self, grid: GridProgress, name: str, indent: str):
        self.grid, self.name, self.indent = grid, name, indent
        self.began = self.spoke = time.monotonic()
        self.bar: TaskID | None = None
        self.stage, self.stage_began, self.stage_first = "", self.began, 0

    def finish(self, run: Run, state: State) -> None:
        """The run ended; a failure is said in one sentence."""
        self.grid.bars.advance(self.grid.grid_bar)
        self._close_stage()
        reason = (run.read() or {}).get("reason") or {}
        took = f"{time.monotonic() - self.began:.0f} s"
        self.grid.say(f"{self.indent}{state} after {took}" + (f": {reason.get('message')}" if reason else ""))

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        """A training step is done."""
        self.show("training", step, total, f"loss {sum(losses.values()):.3f}  " + short_line(losses))

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Images have been evaluated."""
        self.show(what, done, total, "")

    def show(self, stage: str, done: int, total: int, line: str) -> None:
        """How far a stage of the run is, and a line about it."""
        if self.grid.bars.disable:
            self._plain(stage, done, total, line)
            return
        if stage != self.stage:
            self._close_stage()
            description = f"  {stage}" if self.grid.at_once == 1 else f"  {self.name.split('-', 1)[0]}: {stage}"
            self.bar, self.stage = self.grid.bars.add_task(description, total=total, line=""), stage
        self.grid.bars.update(self.bar, completed=done, line=line)  # type: ignore[arg-type]

    def _plain(self, stage: str, done: int, total: int, line: str) -> None:
        moment = time.monotonic()
        if stage != self.stage:
            self.stage, self.stage_began, self.stage_first = stage, moment, done
        if moment - self.spoke > QUIET_SECONDS:
            self.spoke = moment
            left = (moment - self.stage_began) / max(1, done - self.stage_first) * (total - done)
            self.grid.say(
                f"{self.indent}{stage} {done}/{total} after {moment - self.began:.0f} s, {left:.0f} s left  {line}"
            )

    def _close_stage(self) -> None:
        if self.bar is not None:
            self.grid.bars.remove_task(self.bar)
        self.bar, self.stage = None, ""


def short_line(losses: Mapping[str, float], shown: int = 4) -> str:
    """The largest losses by their last name, for a line on the terminal."""
    largest = sorted(losses.items(), key=lambda item: -abs(item[1]))[:shown]
    return "  ".join(f"{name.rsplit('/', 1)[-1]} {value:.2f}" for name, value in largest)
