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
    """

    def __init__(self, console: Console, runs: int, cells: int):
        self.console, self.runs = console, runs
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[line]}"), console=console, disable=not console.is_terminal,
        )
        self.number = 0
        self.name = ""
        self.began = self.spoke = time.monotonic()
        self.grid_bar = self.bars.add_task("grid", total=runs, line="")
        self.stage_bar: TaskID | None = None
        self.stage, self.stage_began, self.stage_first = "", self.began, 0
        self.say(f"{cells - runs} of {cells} cells need nothing, {runs} to run" if runs < cells else f"{runs} cells to run")

    def __enter__(self) -> GridProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.bars.console.print(text, markup=False, soft_wrap=True)

    def start(self, name: str) -> None:
        """A run begins."""
        self.number, self.name, self.began = self.number + 1, name, time.monotonic()
        self.spoke = self.began
        self.say(f"[{self.number}/{self.runs}] {name}")

    def finish(self, run: Run, state: State) -> None:
        """A run ended; a failure is said in one sentence."""
        self.bars.advance(self.grid_bar)
        self._close_stage()
        reason = (run.read() or {}).get("reason") or {}
        took = f"{time.monotonic() - self.began:.0f} s"
        self.say(f"    {state} after {took}" + (f": {reason.get('message')}" if reason else ""))

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        """A training step is done."""
        self._show("training", step, total, f"loss {sum(losses.values()):.3f}  " + short_line(losses))

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Images have been evaluated."""
        self._show(what, done, total, "")

    def _show(self, stage: str, done: int, total: int, line: str) -> None:
        if self.bars.disable:
            self._plain(stage, done, total, line)
            return
        if stage != self.stage:
            self._close_stage()
            self.stage_bar, self.stage = self.bars.add_task(f"  {stage}", total=total, line=""), stage
        self.bars.update(self.stage_bar, completed=done, line=line)  # type: ignore[arg-type]

    def _plain(self, stage: str, done: int, total: int, line: str) -> None:
        moment = time.monotonic()
        if stage != self.stage:
            self.stage, self.stage_began, self.stage_first = stage, moment, done
        if moment - self.spoke > QUIET_SECONDS:
            self.spoke = moment
            left = (moment - self.stage_began) / max(1, done - self.stage_first) * (total - done)
            self.say(f"    {stage} {done}/{total} after {moment - self.began:.0f} s, {left:.0f} s left  {line}")

    def _close_stage(self) -> None:
        if self.stage_bar is not None:
            self.bars.remove_task(self.stage_bar)
        self.stage_bar, self.stage = None, ""


def short_line(losses: Mapping[str, float], shown: int = 4) -> str:
    """The largest losses by their last name, for a line on the terminal."""
    largest = sorted(losses.items(), key=lambda item: -abs(item[1]))[:shown]
    return "  ".join(f"{name.rsplit('/', 1)[-1]} {value:.2f}" for name, value in largest)
