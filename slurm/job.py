"""What runs inside a job: one cell, and the hand-over to submitit when the job's time is over."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, UncompletedJobError

from benchmark.runs import Run, State
from slurm.queue import Queue

LOGGER = logging.getLogger("benchmark")

FIRST_PROCESS_SECONDS = 600.0
"""How long the further processes of a run wait for its first one to take the run up."""


@dataclass(frozen=True, slots=True)
class CellJob:
    """A member of a job array, pickled by submitit and called in each of its processes.

    Whatever state SLURM starts it in (first time, queued again by itself, by a person or after a node was lost), it does the
    same: become the owner of the run and go on from the last checkpoint. What it knows is in the run folder.

    Attributes:
        results_dir, run_id: the run.
        config: resolved.
        command: what a person types to repeat exactly this cell.
        place: of the job, `slurm.queue.Place` as text.
        failed: file that says that a cell of the same command failed, after which no other begins; None: they do.
    """

    results_dir: Path
    run_id: str
    config: Mapping[str, Any]
    command: str
    place: str
    failed: Path | None = None

    def __call__(self) -> str:
        """The state that the run is in at the end."""
        from benchmark.stopping import Preempted, preempt_on

        logging.getLogger("benchmark").setLevel(logging.INFO)
        job = f"{self.place}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        hand_over = signal.getsignal(signal.SIGUSR2)  # submitit's: queue the job again
        preempt_on(signal.SIGUSR2)  # between two steps rather than in the middle of one
        _meeting_point()
        try:
            return str(self._further(job) if _rank() else self._first(job))
        except Preempted as end:
            LOGGER.info("%s", end)
            if _rank() or not callable(hand_over):
                return str(State.SUBMITTED)
            try:
                hand_over(signal.SIGUSR2, None)  # does not come back
            except UncompletedJobError:
                self._record(job, State.TIMEOUT, "Timeout", f"{end}; but it was queued again as often as its profile allows")
                raise
        return str(State.SUBMITTED)

    def checkpoint(self) -> DelayedSubmission:
        """Asked by submitit when the job is queued again: the same once more."""
        return DelayedSubmission(self)

    @property
    def _run(self) -> Run:
        return Run(self.results_dir, self.run_id)

    def _first(self, job: str) -> State:
        """The first process of the run: the one that claims and records."""
        from rich.console import Console

        from benchmark.execute import run_cell
        from benchmark.progress import GridProgress

        if self.failed is not None and self.failed.exists() and not self._run.checkpoints.exists():
            message = f"not begun, because of fail_fast=true: {self.failed.read_text()} failed"
            self._record(job, State.CANCELLED, "FailFast", message)
            return State.CANCELLED
        with GridProgress(Console(), 1, 1) as progress:
            shown = progress.start(self.run_id)
            state = run_cell(self._run, self.config, self.command, shown, job, elsewhere=Queue().alive)
            shown.finish(self._run, state)
        if self.failed is not None and state not in (State.DONE, State.RUNNING, State.SUBMITTED):
            self.failed.write_text(self.run_id)
        return state

    def _further(self, job: str) -> State:
        """A further process (of a run on several devices): takes part as soon as the first one has taken the run up."""
        from benchmark.execute import run_cell

        until = time.monotonic() + FIRST_PROCESS_SECONDS
        while not self._runs_as(job):
            if time.monotonic() > until:
                LOGGER.warning("the first process of this job has not taken %s up; leaving", self.run_id)
                return self._run.state
            time.sleep(0.5)
        try:
            return run_cell(self._run, self.config, self.command, _Nobody(), job)
        except Exception as error:
            self._record_failure(job, error)
            raise

    def _runs_as(self, job: str) -> bool:
        record = self._run.read() or {}
        return record.get("state") == State.RUNNING and (record.get("owner") or {}).get("job") == job

    def _record_failure(self, job: str, error: Exception) -> None:
        """Of a further process: the first one learns of it only by a broken connection, or never.

        If that one has recorded an end already, of its own or because all processes failed alike, its word stands.
        """
        from benchmark.execute import failure_state
        from benchmark.stopping import Preempted

        if not isinstance(error, Preempted) and self._runs_as(job):
            message = f"{error or type(error).__name__} (in process {_rank()} of the run)"
            self._record(job, failure_state(error), type(error).__name__, message, seize=True)

    def _record(self, job: str, state: State, class_: str, message: str, seize: bool = False) -> None:
        from benchmark.ownership import claim

        token = claim(self._run, job, elsewhere=Queue().alive, seize=seize)
        if token is None:
            return  # somebody else, or a later restart of this job, is at it
        try:
            reason = {"class": class_, "message": message, "command": self.command, "log_tail": tail(self._run.log_file)}
            replace(self._run, token=token).update(state=state, reason=reason, owner=None)
        finally:
            token.release()


class _Nobody:
    """Listens to a process whose progress is that of the first one."""

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        pass

    def evaluating(self, what: str, done: int, total: int) -> None:
        pass


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))


def _meeting_point() -> None:
    """Where the processes of a run meet: the node that starts them is the first one's. Names of nodes need not resolve."""
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))


def tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines of a log; none if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
