"""``python -m benchmark.status grid=NAME [watch=true] [results_dir=results]``: where the runs of a grid stand, right now.

It reads run folders and asks SLURM about runs that are its jobs; it writes nothing. With ``watch=true`` it looks again every
few seconds until nothing is left to happen, or Ctrl-C.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.configs import ConfigError, parse_overrides, unknown
from benchmark.ownership import Owner, alive, owner_of
from benchmark.runs import Run, State
from slurm.queue import Job, NoSlurm, Place, Queue, place_in, record_of
from slurm.watch import OPEN, lost, tail

USAGE = "python -m benchmark.status grid=NAME [watch=true] [results_dir=results]"
WATCH_SECONDS = 5.0
COLUMNS = ("run", "axes", "state", "where", "done", "note")


@dataclass(frozen=True, slots=True)
class GridRun:
    """A run of a grid file and the axis values that name it there."""

    run: Run
    axes: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a run at a moment.

    Attributes:
        state: of the run; of one whose process or job is gone, what that means for it.
        where: the job or process that works on it.
        done: how far it is.
        note: what it waits for, or why it ended.
        open: whether anything is still to happen by itself.
    """

    state: str
    where: str = ""
    done: str = ""
    note: str = ""
    open: bool = False


def read_words(arguments: Sequence[str], known: Mapping[str, str | None], usage: str) -> dict[str, str]:
    """``key=value`` words of a small command; None marks those that have to be there. ConfigError says what is wrong."""
    words = {key: default for key, default in known.items() if default is not None}
    for override in parse_overrides(arguments):
        if override.key_or_group not in known:
            raise unknown("word", override.key_or_group, known)
        words[override.key_or_group] = override.get_value_element_as_str()
    for key in known:
        if key not in words:
            raise ConfigError(f"Say which {key}. Usage: {usage}")
    return words


def runs_of(results_dir: Path, grid: str) -> list[GridRun]:
    """The runs of a grid as its last command planned them; ConfigError if there was none."""
    path = results_dir / grid / "grid.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        axes = {cell["run_id"]: " ".join(f"{key}={value}" for key, value in cell["axes"].items()) + f" seed={cell['seed']}"
                for cell in content["cells"]}
        ids = [*content.get("pretraining", ()), *content["runs"]]
        return [GridRun(Run(results_dir, run_id), axes.get(run_id, "others start from it")) for run_id in ids]
    except FileNotFoundError:
        known = sorted(file.parent.name for file in results_dir.glob("*/grid.json"))
        raise unknown(f"grid in {results_dir}", grid, known) from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a grid file ({error}); run the grid again to write it.") from None


def standings(runs: Sequence[GridRun], queue: Queue) -> list[Standing]:
    """Where runs stand, in their order."""
    records = [record_of(one.run) for one in runs]
    places = [place_in(record) for record in records]
    open_ = [place for place, record in zip(places, records, strict=True) if place and record and _may_go_on(record)]
    try:
        jobs: dict[Place, Job] | None = queue.jobs(open_, fresh=True)
    except NoSlurm:
        jobs = None
    return [
        _standing(one.run, record, jobs.get(place) if jobs and place else None, queue, jobs is None and place is not None)
        for one, record, place in zip(runs, records, places, strict=True)
    ]


def _may_go_on(record: Mapping[str, Any]) -> bool:
    return record["state"] != State.DONE


def _standing(run: Run, record: Mapping[str, Any] | None, job: Job | None, queue: Queue, silent: bool) -> Standing:
    """Of one run.

    Args:
        run, record: as it tells itself.
        job: its last job, as far as SLURM knows it.
        queue: to ask about other owners.
        silent: it was submitted, and SLURM does not answer.
    """
    if record is None:
        broken = run.record_file.exists()
        return Standing("broken record" if broken else str(State.PLANNED), note=str(run.record_file) if broken else "")
    done, reason = _done(run, record), (record.get("reason") or {}).get("message", "")
    if job is not None and not job.ended:
        state = State.SUBMITTED if job.waits else State(record["state"])
        nodes = f" on {job.nodes}" if job.nodes else ""
        return Standing(state, f"job {job.number}{nodes}", done, job.reason if job.waits else "", True)
    if record["state"] not in OPEN:
        return Standing(record["state"], done="" if record["state"] == State.DONE else done, note=reason)
    owner = owner_of(run) or (Owner.of(record["owner"]) if record.get("owner") else None)
    if silent:
        return Standing(record["state"], str(owner or ""), done, "SLURM does not answer", True)
    if owner is not None and alive(owner, queue.alive):
        return Standing(record["state"], str(owner), done, open=True)
    end = lost(record, job)
    if end is not None:
        return Standing(end.state, done=done, note=end.message)
    return Standing("interrupted", done=done, note="its process is gone; the same command goes on with it")


def _done(run: Run, record: Mapping[str, Any]) -> str:
    """The last step that the run has logged, of how many where the config says so."""
    lines = tail(run.metrics_file, 1)
    try:
        step = json.loads(lines[0])["step"]
    except (IndexError, json.JSONDecodeError, KeyError):
        return ""  # nothing yet, or a line that is being written
    total = record["config"]["schedule"]["steps"]
    return f"step {step}" + (f" of {total}" if total else "")


def view(grid: str, runs: Sequence[GridRun], found: Sequence[Standing]) -> Group:
    """A table of runs, and how many there are in each state."""
    table = Table(title=f"grid {grid}: {len(runs)} runs, {time.strftime('%H:%M:%S')}", title_justify="left")
    rows = [(one.run.run_id, one.axes, standing.state, standing.where, standing.done, standing.note)
            for one, standing in zip(runs, found, strict=True)]
    shown = [i for i in range(len(COLUMNS)) if i < 3 or any(row[i] for row in rows)]
    for i in shown:
        table.add_column(COLUMNS[i], overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[i])) for i in shown))
    counts = Counter(str(standing.state) for standing in found)
    return Group(table, Text(", ".join(f"{count} {state}" for state, count in counts.most_common())))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2: the command line cannot be used."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0
    try:
        words = read_words(arguments, {"grid": None, "watch": "false", "results_dir": "results"}, USAGE)
        watch = words["watch"].lower()
        if watch not in ("true", "false"):
            raise ConfigError(f"watch={words['watch']} is not known; write watch=true or leave it out.")
        runs = runs_of(Path(words["results_dir"]), words["grid"])
    except ConfigError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    queue = Queue()
    found = standings(runs, queue)
    if watch == "false":
        console.print(view(words["grid"], runs, found))
        return 0
    with Live(view(words["grid"], runs, found), console=console, auto_refresh=False) as live:
        try:
            while any(standing.open for standing in found):
                time.sleep(WATCH_SECONDS)
                found = standings(runs, queue)
                live.update(view(words["grid"], runs, found), refresh=True)
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
