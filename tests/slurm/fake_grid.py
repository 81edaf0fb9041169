"""Grids of runs that train a list of numbers, on a real SLURM: ``python -m tests.slurm.fake_grid FILE`` launches one.

FILE is JSON with ``results_dir``, ``cells`` (of `cell`), ``words`` of the launcher and the ``request``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import slurm.watch
from benchmark.grid import Cell, Planned
from benchmark.plan import pending
from benchmark.progress import GridProgress
from benchmark.request import Request
from benchmark.runs import Run, write_json_atomically
from slurm.launcher import SlurmLauncher

ROOT = Path(__file__).resolve().parents[2]
FAKE_CELLS = Path(__file__).parent / "fake_cells"
GRID = "fake"
WORDS = (
    "slurm=local_cluster", "slurm.memory=200M", "slurm.processes_per_node=4", "slurm.array_parallelism=8",
    f"slurm.setup=['export PYTHONPATH={FAKE_CELLS}']",
)
"""Of the launcher; later ones win."""


def hurry() -> None:
    """Look often and wait little: files appear at once on one machine."""
    SlurmLauncher.poll_seconds = (0.3, 0.5)
    slurm.watch.GRACE_SECONDS = 3.0


def cell(
    name: str, steps: int = 12, seconds: float = 0.02, accident: str | None = None, waits: bool = False, **config: Any
) -> dict[str, Any]:
    """A run that makes ``steps`` numbers, one in ``seconds``.

    Args:
        name: of the run.
        steps, seconds: how long it takes.
        accident: what happens at the end, or of further processes at once: error, memory or kill.
        waits: half-way it waits for `let_go`.
    """
    fake = {"steps": steps, "seconds": seconds, "accident": accident, "waits": waits}
    points = {"count": 1}
    return {"name": name, "config": {"fake": fake, "seed": 0, "devices": 1, "threads": 1, "jobs": 1, "init_from": None,
                                     "schedule": {"steps": steps}, "dataset": {"points": points}, **config}}


def planned(results_dir: Path, cells: Sequence[dict[str, Any]]) -> list[Planned]:
    """Cells and their runs; the grid file is written, as by the command."""
    found = [(Cell({"name": one["name"]}, one["config"]["seed"], {**one["config"], "results_dir": str(results_dir)}, GRID),
              Run(results_dir, one["name"])) for one in cells]
    write_json_atomically(results_dir / GRID / "grid.json", {
        "grid": GRID, "title": "", "paper_table": None, "runs": [run.run_id for _, run in found],
        "cells": [{"run_id": run.run_id, "axes": one.axes, "seed": one.seed} for one, run in found],
    })
    return found


def launch(results_dir: Path, cells: Sequence[dict[str, Any]], *words: str, **request: Any) -> int:
    """What ``benchmark.run launcher=slurm`` does with the cells; how many of them are not done."""
    launcher = SlurmLauncher([*WORDS, *words])
    found = planned(results_dir, cells)
    runs = [run for _, run in found]
    launcher.settle(runs)
    asked = Request(GRID, [], launcher="slurm", **request)
    todo = [(one, run) for one, run in found if pending(run, asked, launcher.alive) or launcher.follows(run)]
    with GridProgress(Console(width=400), len(todo), len(found), 2) as progress:
        return launcher.run(todo, asked, progress) if todo else 0


def launch_elsewhere(results_dir: Path, cells: Sequence[dict[str, Any]], *words: str, **request: Any) -> subprocess.Popen:
    """`launch` in a process of its own."""
    path = results_dir / f"launch-{os.urandom(3).hex()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results_dir": str(results_dir), "cells": cells, "words": words, "request": request}))
    return subprocess.Popen([sys.executable, "-m", "tests.slurm.fake_grid", str(path)], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def let_go(run: Run) -> None:
    """Let a run go on that waits half-way."""
    (run.folder / "go").touch()


def numbers(steps: int = 12) -> list[int]:
    """What an unbroken run with seed 0 makes."""
    return list(range(steps))


def starts(run: Run) -> list[dict[str, Any]]:
    """One entry for each time that the run's work began: process, job, first step, time."""
    path = run.folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    hurry()
    told = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(launch(Path(told["results_dir"]), told["cells"], *told["words"], **told["request"]))
