"""From cells to runs: which exist, which would be started and why, and which of them wait for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError
from benchmark.data.errors import DataError
from benchmark.expand import SOURCE_PREFIX, expand
from benchmark.fingerprints import Fingerprints
from benchmark.grid import Cell, GridDefinition, Planned
from benchmark.initial import start_of
from benchmark.ownership import Elsewhere, Owner, alive, assumed_alive, claim, owner_of, rebooted
from benchmark.ranges import check_ranges
from benchmark.request import Request, is_chosen
from benchmark.runs import Run, State, run_id, training_id

RESUMABLE = (State.PLANNED, State.SUBMITTED, State.CANCELLED, State.TIMEOUT, State.NODE_FAILED)
"""States of runs that did not fail by themselves: the same command goes on with them."""

UNREADABLE = "?"
"""The state of a run whose record cannot be read."""


class NoCell(ConfigError):
    """A grid has no cell with the axis values asked for."""


def plan(grid: GridDefinition, request: Request, fingerprints: Fingerprints | None = None) -> list[Planned]:
    """Cells with their runs, in table order, each run once; a run that others start from comes before them.

    Draws point labels that do not exist yet.

    Raises:
        ConfigError, DataError: words or data that cannot be used.
    """
    fingerprints = fingerprints or Fingerprints(read_again=True)
    planned: dict[str, Planned] = {}
    cells = [cell for cell in expand(grid, request.overrides, request.seeds) if is_chosen(cell, request)]
    if not cells:
        raise NoCell(f"No cell of grid '{grid.name}' has exactly the axis values {request.cell}; plan=true shows all.")
    for cell in cells:
        check_ranges(cell.config)
        if cell.source is not None:
            check_ranges(cell.source.config)
            source = _source_run(cell.source, fingerprints)
            planned.setdefault(source.run_id, (cell.source, source))
            cell = replace(cell, config={**cell.config, "init_from": source.run_id})
        run = plan_run(cell, fingerprints.of(cell.config).points)
        known = planned.get(run.run_id)
        if known is None or known[0].starts_others:
            planned[run.run_id] = (cell, run)
    for cell, run in planned.values():
        _check_start(cell.config, run, planned)
    return list(planned.values())


def plan_run(cell: Cell, points_fingerprints: Mapping[str, str]) -> Run:
    """The run of a cell, given the fingerprints of its point labels."""
    start = start_of(cell.config)
    fingerprint = start.fingerprint if start else None
    return Run(Path(cell.config["results_dir"]), run_id(cell.config, points_fingerprints, fingerprint))


def _source_run(source: Cell, fingerprints: Fingerprints) -> Run:
    try:
        return plan_run(source, fingerprints.of(source.config).points)
    except DataError as error:
        raise DataError(
            f"Of the run on '{source.config['dataset']['name']}' that cells of grid '{source.grid}' start from: {error} "
            f"Words for it begin with {SOURCE_PREFIX}, as in {SOURCE_PREFIX}dataset.root=FOLDER."
        ) from None


def _check_start(config: Mapping[str, Any], run: Run, planned: Mapping[str, Planned]) -> None:
    start = start_of(config)
    if start is None or start.run is None or start.run.run_id in planned or start.run.record_file.exists():
        return
    raise ConfigError(
        f"init_from={config['init_from']} of {run.run_id} is neither a run in {start.run.folder.parent}, nor a cell of this "
        "grid, nor a .safetensors file."
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a run folder tells.

    Attributes:
        state: of the record, or `UNREADABLE`.
        why: why the run would be started, "" if it would not.
        owner: who works on it now; None if nobody does.
        record: as read, None if there is none that can be read.
    """

    state: str
    why: str
    owner: Owner | None = None
    record: dict[str, Any] | None = None


def look(run: Run, request: Request, elsewhere: Elsewhere = assumed_alive) -> Look:
    """Where a run stands, whatever happened to the processes that wrote its record.

    Args:
        run: the run.
        request: says what is repeated.
        elsewhere: whether an owner that cannot be seen from here still exists.
    """
    forced = "forced" if request.force == run.run_id else ""
    try:
        record = run.read()
    except ValueError:
        return Look(UNREADABLE, forced or "unreadable record")
    state = State(record["state"]) if record else State.PLANNED
    owner = _owner(run, state, record)
    if owner is not None and alive(owner, elsewhere):
        return Look(state, forced, owner, record)
    return Look(state, forced or _reason(state, record, request), None, record)


def pending(run: Run, request: Request, elsewhere: Elsewhere = assumed_alive) -> str:
    """Why a run would be started, or "" if it would not."""
    return look(run, request, elsewhere).why


def _owner(run: Run, state: State, record: Mapping[str, Any] | None) -> Owner | None:
    """Who has claimed the run; without a claim who, by its record, waits in a queue for it or ran it before claims were."""
    owner = owner_of(run)
    if owner is None and (state == State.SUBMITTED or (state == State.RUNNING and not run.owner_folder.exists())):
        told = (record or {}).get("owner")
        owner = Owner.of(told) if told else None
    return owner


def _reason(state: State, record: Mapping[str, Any] | None, request: Request) -> str:
    if record is None:
        return "missing"
    if state == State.RUNNING:
        return "interrupted"
    if state == State.DONE:
        return ""
    if state == State.SKIPPED:
        return "" if _still_missing(record, request) else "skipped"
    if state in RESUMABLE:
        return str(state)
    return str(state) if request.retry == "failed" else ""


def _still_missing(record: Mapping[str, Any], request: Request) -> bool:
    """Whether what a skipped run waits for is neither there nor about to be made."""
    start = start_of(record["config"])
    if start is None or not start.missing():
        return False
    return start.run is None or not pending(start.run, request)


def settle(run: Run, elsewhere: Elsewhere = assumed_alive) -> None:
    """Write down the end of a run whose record says that it runs, while its process is gone without a word."""
    if _state(run) != State.RUNNING:
        return
    owner = _owner(run, State.RUNNING, run.read())
    if owner is not None and alive(owner, elsewhere):
        return
    token = claim(run, elsewhere=elsewhere)
    if token is None:
        return
    try:
        record = run.read()
        if record and record["state"] == State.RUNNING:
            lost = owner is not None and rebooted(owner)
            message = f"{owner or 'its process'} ended without a word: " + (
                "its machine was started again" if lost else "killed, or its machine went down"
            )
            reason = {"class": "Killed", "message": f"{message}; the same command goes on from the last checkpoint.",
                      "command": record.get("command", "")}
            state = State.NODE_FAILED if lost else State.CANCELLED
            replace(run, token=token).update(state=state, reason=reason, owner=None)
    finally:
        token.release()


def _state(run: Run) -> State | None:
    try:
        return run.state
    except ValueError:
        return None


def waves(cells: Sequence[Planned]) -> list[list[Planned]]:
    """Cells in the order in which they can run: each starts from runs of earlier waves, or from none of these.

    Of cells with the same training one is in an earlier wave than the others, which find its weights
    (`benchmark.shared_training`).
    """
    left, result, trained = list(cells), [], set[str]()
    while left:
        waiting = {run.run_id for _, run in left}
        ready, later, training = [], [], set[str]()
        for cell, run in left:
            shared = training_of(cell) or run.run_id
            if _source_id(cell.config) in waiting or shared in training:
                later.append((cell, run))
                continue
            ready.append((cell, run))
            if shared not in trained:  # weights that are there by now keep nobody waiting
                training.add(shared)
        if not ready:  # ids are hashes of what a run starts from: no run can start from itself
            raise ConfigError(f"{left[0][1].run_id} would start from itself; choose another init_from.")
        result.append(ready)
        left, trained = later, trained | training
    return result


def training_of(cell: Cell) -> str | None:
    """What cells of one plan have in common whose weights are the same; None of a cell that trains in any case, and of one
    that measures nothing.

    The point labels are those that the config names: within a plan they are the same for the same settings.
    """
    evaluation = cell.config.get("evaluation")
    if not evaluation or evaluation.get("candidates"):
        return None
    start = start_of(cell.config)
    points = str(cell.config["dataset"]["points"].get("file"))
    return training_id(cell.config, points, start.fingerprint if start else None)


def _source_id(config: Mapping[str, Any]) -> str | None:
    start = start_of(config)
    return start.run.run_id if start and start.run else None
