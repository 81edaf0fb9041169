"""Section ``commands``: how soon commands answer that only look, and whether they load torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.fingerprints import Fingerprints
from benchmark.grid import load_grid
from benchmark.grid_file import write_grid
from benchmark.plan import plan
from benchmark.provenance import ROOT
from benchmark.request import read_request
from benchmark.runs import State
from benchmark.speed.harness import Settings, interleaved, timed
from benchmark.speed.inputs import write_photographs
from benchmark.speed.rows import MEASUREMENTS, Table, error_row, measurement_row, summary
from benchmark.speed.targets import COMMAND_SECONDS

GRID = "ablations_voc"
SIZE, IMAGES = (375, 500), 4
WITHOUT_TORCH = """
import runpy, sys
module, *sys.argv = sys.argv[1:]
sys.argv.insert(0, module)
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
"""Runs a command and says last whether torch was loaded."""


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """``plan=true`` of new and of known data, and ``status``."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root / "data", SIZE, IMAGES)
        words = [
            f"grid={GRID}", "dataset=coco_panoptic", f"dataset.root={root / 'data'}", "dataset.name=voc",
            f"results_dir={root / 'results'}",
        ]  # fmt: skip
        yield _table(words, root / "results", settings)


def _table(words: Sequence[str], results: Path, settings: Settings) -> Table:
    looking = {
        f"benchmark.run grid={GRID} plan=true": ["benchmark.run", *words, "plan=true"],
        f"benchmark.status grid={GRID}": ["benchmark.status", f"grid={GRID}", f"results_dir={results}"],
    }
    table = Table(
        "Seconds until a command has answered", MEASUREMENTS,
        f"A process of its own each time; grid `{GRID}`, all of whose runs have a record, and data of {IMAGES} images.",
    )
    try:
        table.rows.extend(_rows(looking, words, results, settings))
    except subprocess.CalledProcessError as error:
        table.rows.append(error_row(f"benchmark.run grid={GRID}", last_line(error.stderr or error.stdout)))
    return table


def _rows(
    looking: Mapping[str, Sequence[str]], words: Sequence[str], results: Path, settings: Settings
) -> list[dict[str, Any]]:
    plan_name, plan_command = next(iter(looking.items()))
    settings.tell(f"commands: the first look at data, grid={GRID}")
    first = timed(lambda: answer(plan_command), settings.device)
    record_runs(words, results)
    settings.tell(f"commands: {', '.join(looking)}")
    for command in looking.values():
        answer(command)
    calls = {name: lambda command=command: answer(command) for name, command in looking.items()}
    seconds = interleaved(calls, settings.budget(20), settings.device)
    rows = []
    for name, command in looking.items():
        loaded = "loads torch" if loads_torch(command) else "does not load torch"
        taken = summary(seconds[name])
        rows.append(measurement_row(name, taken["median"], "s", COMMAND_SECONDS, loaded, seconds=taken))
    note = "reads the data and draws points, which loads torch; later looks remember them"
    return [*rows, measurement_row(f"{plan_name}, data not seen before", first, "s", note=note)]


def last_line(output: str) -> str:
    """What a failed command says: its error is one line, a traceback ends with it."""
    return output.strip().rpartition("\n")[2][:300]


def answer(command: Sequence[str]) -> str:
    """What a command prints; CalledProcessError if it fails."""
    return _run(["-m", *command]).stdout


def loads_torch(command: Sequence[str]) -> bool:
    """Whether a command has torch loaded when it ends."""
    return _run(["-c", WITHOUT_TORCH, *command]).stderr.strip().endswith("True")


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def record_runs(words: Sequence[str], results: Path) -> None:
    """Write the grid file and a finished record for each of its runs, as after the last run."""
    grid = load_grid(GRID)
    planned = plan(grid, read_request(words), Fingerprints())
    write_grid(results / grid.name, grid, planned)
    for cell, run in planned:
        run.update(config=cell.config, command="", state=State.DONE)
