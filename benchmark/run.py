"""``python -m benchmark.run grid=NAME [key=value ...]``: run what is missing of a grid, then build its report.

Words of the command itself:

    grid=NAME           which comparison (conf/grid); without it the known ones are listed
    seeds=[0,1,2]       instead of the grid's own seeds
    plan=true           print the cells and what would run, and stop
    retry=failed        also repeat cells that failed, diverged, were cancelled, ...
    force=RUN_ID        repeat this finished run from the start
    report=false        do not build the report at the end

Every other word is a config override in Hydra's grammar: ``scale=mini method=psps,nearest_point dataset.root=DIR``.
The same command again runs only what is missing; an interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from benchmark.configs import ConfigError, names_in, parse_overrides, unknown
from benchmark.data.errors import DataError
from benchmark.grid import Cell, GridDefinition, expand, load_grid, plan_run, write_grid
from benchmark.runs import Run, State
from benchmark.stopping import listen

if TYPE_CHECKING:
    from benchmark.progress import GridProgress

WORDS = ("grid", "seeds", "plan", "retry", "force", "report")


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for."""

    grid: str
    overrides: list[str]
    seeds: list[int] | None = None
    plan: bool = False
    retry: str | None = None
    force: str | None = None
    report: bool = True


def read_request(arguments: Sequence[str]) -> Request:
    """Split a command line into the words of this command and config overrides; ConfigError says what is wrong."""
    words: dict[str, Any] = {}
    overrides = []
    for override in parse_overrides(arguments):
        if override.key_or_group == "seed":
            value = override.get_value_element_as_str()
            raise ConfigError(f"'{override.input_line}' would hold for one run; write seeds=[{value}].")
        if override.key_or_group not in WORDS:
            overrides.append(override.input_line)
        elif override.is_sweep_override():  # seeds=0,1 means seeds=[0,1]
            words[override.key_or_group] = f"[{','.join(override.sweep_string_iterator())}]"
        else:
            words[override.key_or_group] = override.get_value_element_as_str()
    if "grid" not in words:
        raise ConfigError(f"Say which grid to run: grid=NAME. Known: {', '.join(names_in('grid'))}.")
    if words.get("retry") not in (None, "failed"):
        raise ConfigError(f"retry={words['retry']} is not known; write retry=failed.")
    return Request(
        words["grid"], overrides, _seeds(words.get("seeds")), _flag(words, "plan", False), words.get("retry"),
        words.get("force"), _flag(words, "report", True),
    )


def _flag(words: dict[str, Any], name: str, default: bool) -> bool:
    text = words.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{name}={words[name]} is not known; write {name}=true or {name}=false.")
    return text == "true"


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    value = OmegaConf.to_container(OmegaConf.create({"seeds": OmegaConf.create(f"v: {text}").v}))["seeds"]
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int for seed in seeds):  # bool is an int, but no seed
        raise ConfigError(f"seeds={text} is not a list of whole numbers; write seeds=[0,1,2].")
    return seeds


def plan(grid: GridDefinition, request: Request) -> list[tuple[Cell, Run]]:
    """Cells with their runs, in table order, each run once. Draws point labels that do not exist yet."""
    from benchmark.build import points_of

    planned: dict[str, tuple[Cell, Run]] = {}
    for cell in expand(grid, request.overrides, request.seeds):
        jobs = cell.config["jobs"]
        if type(jobs) is not int or jobs < 1:
            raise ConfigError(f"jobs={jobs} is not a number of runs; write jobs=1 or more.")
        fingerprints = {split: points_of(cell.config, split).fingerprint for split in ("train", "val")}
        run = plan_run(cell, fingerprints)
        planned.setdefault(run.run_id, (cell, run))
    return list(planned.values())


def command_for(request: Request, cell: Cell) -> str:
    """The command line that repeats exactly one cell."""
    axes = [f"{axis}={value}" for axis, value in cell.axes.items()]
    kept = [word for word in request.overrides if word.split("=", 1)[0] not in cell.axes]
    words = [f"grid={request.grid}", *kept, *axes, f"seeds=[{cell.seed}]", "retry=failed"]
    return "python -m benchmark.run " + " ".join(shlex.quote(word) for word in words)


def pending(run: Run, request: Request) -> str:
    """Why a run would be started, or "" if it would not."""
    if request.force == run.run_id:
        return "forced"
    try:
        record = run.read()
    except ValueError:
        return "unreadable record"
    if record is None:
        return "missing"
    state = State(record["state"])
    if state == State.RUNNING:
        return "" if _alive(record.get("owner")) else "interrupted"
    if state in (State.DONE, State.SKIPPED):
        return ""
    if state in (State.PLANNED, State.SUBMITTED, State.CANCELLED):
        return str(state)
    return str(state) if request.retry == "failed" else ""


def _alive(owner: dict[str, Any] | None) -> bool:
    """Whether the process that owns a run still exists (on another host: assumed to)."""
    if not owner:
        return False
    if owner["host"] != socket.gethostname():
        return True
    if owner["pid"] == os.getpid():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def plan_table(planned: Sequence[tuple[Cell, Run]], request: Request) -> Table:
    """The plan for the terminal: cells, states, what would run."""
    table = Table(title=f"grid {request.grid}: {len(planned)} runs", title_justify="left")
    for column in ("run", "axes", "seed", "state", "would run"):
        table.add_column(column, overflow="fold")
    for cell, run in planned:
        axes = " ".join(f"{axis}={value}" for axis, value in cell.axes.items())
        why = pending(run, request)
        table.add_row(run.run_id, axes, str(cell.seed), "?" if why == "unreadable record" else str(run.state), why or "no")
    return table


def run_all(planned: Sequence[tuple[Cell, Run]], request: Request, console: Console) -> int:
    """Run the pending cells, ``jobs`` at once; returns how many did not end in ``done``."""
    from benchmark.progress import GridProgress
    from benchmark.worker import interrupt

    todo = [(cell, run) for cell, run in planned if pending(run, request)]
    for run in (run for _, run in planned if run not in {other for _, other in todo} and run.state == State.RUNNING):
        owner = (run.read() or {})["owner"]
        console.print(f"{run.run_id} is running as process {owner['pid']} on {owner['host']}; if that is long gone: "
                      f"force={run.run_id}", markup=False, soft_wrap=True)
    jobs = _jobs([cell for cell, _ in todo])
    with GridProgress(console, len(todo), len(planned), jobs) as progress, ThreadPoolExecutor(jobs) as pool:
        try:
            if jobs == 1:
                return sum(not _run_one(cell, run, request, progress, 1) for cell, run in todo)
            futures = [pool.submit(_run_one, cell, run, request, progress, jobs) for cell, run in todo]
            return sum(not future.result() for future in futures)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            interrupt()
            raise


def _jobs(cells: Sequence[Cell]) -> int:
    """How many of these cells run at once: what they ask for, within the cores of this machine."""
    if not cells:
        return 1
    return min(*(cell.config["jobs"] for cell in cells), len(cells), os.cpu_count() or 1)


def _run_one(cell: Cell, run: Run, request: Request, progress: GridProgress, jobs: int) -> bool:
    """Run one cell if it is still pending; whether it needs nothing more."""
    from benchmark.execute import execute
    from benchmark.worker import run_in_process

    if not pending(run, request):
        progress.say(f"{run.run_id} has been taken up by another command")
        return True
    if request.force == run.run_id and run.folder.exists():
        shutil.rmtree(run.folder)
    shown = progress.start(run.run_id)
    command = command_for(request, cell)
    config = cell.config
    if jobs > 1 and not config["threads"]:
        config = {**config, "threads": max(1, (os.cpu_count() or 1) // jobs)}
    if jobs > 1 or config["devices"] > 1:
        state = run_in_process(run, config, command, shown.show, progress.say)
    else:
        state = execute(run, config, command, shown)
    shown.finish(run, state)
    return state == State.DONE


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
        grid = load_grid(request.grid)
        planned = plan(grid, request)
        if request.force and request.force not in {run.run_id for _, run in planned}:
            raise unknown("run of this grid", request.force, [run.run_id for _, run in planned])
    except (ConfigError, DataError, ValueError, TypeError, KeyError) as error:
        # a value of the wrong kind is refused by whatever reads it first: in one sentence, before anything runs
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        console.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        return 2
    if request.plan:
        console.print(plan_table(planned, request))
        return 0
    results_dir = Path(planned[0][0].config["results_dir"])
    write_grid(results_dir, grid, planned)
    try:
        run_all(planned, request, console)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on where this one ended.")
        return 1
    if request.report:
        from reports.build import build_report, markdown_table

        page = build_report(results_dir, grid.name)
        console.print(markdown_table(results_dir, grid.name), markup=False, soft_wrap=True)
        console.print(f"Report: {page}", soft_wrap=True)
    return 0 if all(run.state == State.DONE for _, run in planned) else 1


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)  # a terminated command stops its runs as Ctrl-C does
    sys.exit(main())
