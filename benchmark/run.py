"""``python -m benchmark.run grid=NAME [key=value ...]``: run what is missing of a grid, then build its report.

Words of the command itself:

    grid=NAME           which comparison (conf/grid); without it the known ones are listed
    seeds=[0,1,2]       instead of the grid's own seeds
    cell={axis:value}   only the cells with exactly these axis values
    plan=true           print the cells, what would run and what it would cost, and stop
    why=RUN_ID          print the keys that keep a finished run from being a cell, and stop
    retry=failed        also repeat cells that failed, diverged or ran out of memory
    force=RUN_ID        repeat this run from the start, also if it is done or somebody seems to work on it
    fail_fast=true      begin no further cell after one failed
    collect=true        run nothing, only gather what there is into the report
    report=false        do not build the report at the end
    launcher=NAME       local (jobs=N runs at once on this machine) or slurm; slurm=PROFILE and slurm.KEY=VALUE are its words

Every other word is a config override in Hydra's grammar: ``scale=mini method=psps,nearest_point dataset.root=DIR``.
The same command again runs only what is missing; an interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmark.configs import ConfigError, unknown
from benchmark.data.errors import DataError
from benchmark.expand import NothingAtScale
from benchmark.fingerprints import Fingerprints
from benchmark.grid import GridDefinition, Planned, load_grid
from benchmark.grid_file import write_grid
from benchmark.launcher import Launcher, launcher
from benchmark.plan import NoCell, look, plan, settle
from benchmark.plan_view import FAILED, plan_view, print_why
from benchmark.request import Request, read_request
from benchmark.reuse import differences
from benchmark.runs import State
from benchmark.stopping import Preempted, listen, preempt_on


def run_all(planned: Sequence[Planned], request: Request, runner: Launcher, console: Console) -> int:
    """Run the pending cells; returns how many of them did not end in ``done``."""
    from benchmark.progress import GridProgress

    todo, failed = [], 0
    for cell, run in planned:
        found = look(run, request, runner.alive)
        if found.why or runner.follows(run):
            todo.append((cell, run))
        elif found.owner is not None:
            console.print(f"{run.run_id} is in the hands of {found.owner}; if that is long gone: force={run.run_id}",
                          markup=False, soft_wrap=True)
        else:
            failed += found.state in FAILED
    with GridProgress(console, len(todo), len(planned), runner.at_once(todo), failed) as progress:
        return runner.run(todo, request, progress) if todo else 0


def gather(grid: GridDefinition, planned: Sequence[Planned], console: Console) -> None:
    """Build the reports of a grid and of its members, and print the table."""
    from reports.build import build_report, markdown_table

    results_dir = _results_dir(planned)
    for member in grid.members:
        if (results_dir / grid.name / member.grid.name / "grid.json").exists():  # it has cells at this scale
            build_report(results_dir, f"{grid.name}/{member.grid.name}")
    page = build_report(results_dir, grid.name)
    console.print(markdown_table(results_dir, grid.name), markup=False, soft_wrap=True)
    console.print(f"Report: {page}", soft_wrap=True)


def write_grids(
    grid: GridDefinition, planned: Sequence[Planned], request: Request, fingerprints: Fingerprints
) -> str:
    """Write the grid file, and below it those of its members, with all cells of each; what `write_grid` has to tell."""
    folder = _results_dir(planned) / grid.name
    files = [(folder, grid, planned)]
    for member in grid.members:
        words = [*member.overrides, *grid.overrides, *request.overrides]
        seeds = grid.seeds if request.seeds is None else request.seeds
        asked = replace(request, grid=member.grid.name, overrides=words, seeds=seeds)
        try:
            files.append((folder / member.grid.name, member.grid, plan(member.grid, asked, fingerprints)))
        except (NoCell, NothingAtScale):
            continue  # what is asked for is in other members
    part = request.cell is not None
    told, *_ = [write_grid(path, definition, cells, part) for path, definition, cells in files]
    return told


def _results_dir(planned: Sequence[Planned]) -> Path:
    return Path(planned[0][0].config["results_dir"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every cell is done; 1: some cell is not; 2: the command line or the data cannot be used."""
    console = Console(highlight=False)
    logging.getLogger("benchmark").setLevel(logging.INFO)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0
    try:
        request = read_request(arguments)
        grid, runner = load_grid(request.grid), launcher(request.launcher, request.launcher_words)
        only_looks = request.plan or request.collect or request.why is not None
        fingerprints = Fingerprints(read_again=not only_looks)
        planned = plan(grid, request, fingerprints)
        if request.force and request.force not in {run.run_id for _, run in planned}:
            raise unknown("run of this grid", request.force, [run.run_id for _, run in planned])
        if request.why is not None:
            print_why(console, request.why, *differences(request.why, planned, fingerprints))
            return 0
        if request.plan:
            console.print(plan_view(planned, request, runner, fingerprints))
            return 0
        if told := write_grids(grid, planned, request, fingerprints):
            console.print(told, markup=False, soft_wrap=True)
    except (ConfigError, DataError, ValueError, TypeError, KeyError) as error:
        # a value of the wrong kind is refused by whatever reads it first: in one sentence, before anything runs
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        console.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        return 2
    runner.settle([run for _, run in planned])
    for _, run in planned:
        settle(run, runner.alive)
    if not request.collect:
        try:
            run_all(planned, request, runner, console)
        except KeyboardInterrupt:
            console.print("Stopped; the same command goes on where this one ended.")
            return 1
        except Preempted as error:
            console.print(f"Stopped: {error}. The same command goes on where this one ended.", markup=False, soft_wrap=True)
            return 1
    if request.report:
        gather(grid, planned, console)
    return 0 if all(look(run, request, runner.alive).state == State.DONE for _, run in planned) else 1


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)  # a terminated command stops its runs as Ctrl-C does
    preempt_on(signal.SIGUSR2)
    sys.exit(main())
