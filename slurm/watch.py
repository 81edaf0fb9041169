"""Following jobs to the ends of their runs. The run folder is the truth; SLURM is asked about what no run can write down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from submitit.core.utils import JobPaths

from benchmark.ownership import alive, claim, owner_of
from benchmark.runs import Run, State
from benchmark.stopping import stop_if_asked
from slurm.job import tail
from slurm.queue import ENDED, Job, NoSlurm, Queue, place_in, record_of

if TYPE_CHECKING:
    from benchmark.progress import GridProgress, RunProgress

OPEN = (State.SUBMITTED, State.RUNNING)
"""States of a run that somebody has to be working on."""

GRACE_SECONDS = 45.0
"""How long after the end of its job a run may still get its last state: files reach other hosts of a cluster late."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The end of a job that its run has not recorded: the state that the run is in, and why."""

    state: State
    message: str


def lost(record: Mapping[str, Any] | None, job: Job | None) -> Lost | None:
    """What became of a run whose record says that it is submitted or runs, while its job is over; None if nothing is lost.

    Args:
        record: of the run.
        job: its last one as SLURM sees it, None if SLURM has never heard of it.
    """
    place = place_in(record)
    if record is None or place is None or record["state"] not in OPEN or (job is not None and not job.ended):
        return None
    if job is None:
        what = "was cancelled before it began, or never came into the queue"
        if record["state"] == State.RUNNING:
            what = "is not known to SLURM any more"
        return Lost(State.CANCELLED, f"Its job {place} {what}; the same command submits it again.")
    details = ", ".join(part for part in (job.reason, job.nodes and f"on {job.nodes}") if part)
    message = f"SLURM ended its job {job.number} as {job.state}" + (f" ({details})." if details else ".")
    return Lost(ENDED[job.state], message)


def owned(run: Run, queue: Queue) -> bool:
    """Whether some process has claimed a run and still exists."""
    owner = owner_of(run)
    return owner is not None and alive(owner, queue.alive)


def settle(runs: Iterable[Run], queue: Queue) -> None:
    """Write down what became of runs whose jobs ended without a word a while ago; nothing happens where SLURM is silent."""
    places = {}
    for run in runs:
        record = record_of(run)
        place = place_in(record)
        if record and place and record["state"] in OPEN:
            places[run] = place
    try:
        jobs = queue.jobs(places.values())
    except NoSlurm:
        return
    for run, place in places.items():
        job = jobs.get(place)
        if (job is None or job.ended_for(GRACE_SECONDS)) and not owned(run, queue):
            write_loss(run, job, queue)


def write_loss(run: Run, job: Job | None, queue: Queue) -> None:
    """Record the end of a run that its job did not record; a job that comes back takes the run over all the same."""
    token = claim(run, elsewhere=queue.alive)
    if token is None:
        return
    try:
        record = record_of(run)
        end = lost(record, job)
        if end is not None and record is not None:
            reason = {"class": job.state if job else "Lost", "message": end.message, "where": "",
                      "log_tail": _last_lines(run, record, job), "command": record.get("command", "")}
            replace(run, token=token).update(state=end.state, reason=reason, owner=None)
    finally:
        token.release()


def _last_lines(run: Run, record: Mapping[str, Any], job: Job | None, lines: int = 10) -> list[str]:
    """The ends of the run's log and of what its job printed on standard error, where SLURM itself complains."""
    files = [run.log_file]
    if job is not None:
        folder = run.results_dir.absolute() / record["submission"]["folder"]
        files.append(JobPaths(folder, job_id=job.number, task_id=0).stderr)
    return [line for file in files for line in tail(file, lines)]


class Watch:
    """Follows submitted runs and tells of them.

    Args:
        queue: to ask SLURM.
        progress: where to tell.
        poll_seconds: between two looks, at first and at last: a cluster is not asked every second for days.
        on_end: told of each run that ended, and its state.
    """

    def __init__(
        self, queue: Queue, progress: GridProgress, poll_seconds: tuple[float, float],
        on_end: Callable[[Run, State], None],
    ):
        self.queue, self.progress, self.on_end = queue, progress, on_end
        self.seconds, self.most_seconds = poll_seconds
        self.left: list[Run] = []
        self._shown: dict[Run, RunProgress] = {}
        self._over_since: dict[Run, float] = {}
        self._silent = False

    def follow(self, runs: Iterable[Run]) -> None:
        """Return when all of them have ended. KeyboardInterrupt and Preempted pass through, the jobs go on."""
        self.left = list(runs)
        while self.left:
            stop_if_asked()
            self._look()
            if self.left:
                time.sleep(self.seconds)
                self.seconds = min(self.most_seconds, self.seconds * 1.2)

    def _look(self) -> None:
        """One look at all runs that have not ended."""
        records = {run: record_of(run) for run in self.left}
        places = {run: place for run, record in records.items() if (place := place_in(record))}
        try:
            jobs = self.queue.jobs(places.values(), fresh=True)
        except NoSlurm as error:
            if not self._silent:
                self.progress.say(f"{error}; going by the run folders meanwhile")
            self._silent, jobs = True, None
        else:
            self._silent = False
        for run in list(self.left):
            place = places.get(run)
            self._one(run, records[run], jobs.get(place) if jobs and place else None, jobs is None)

    def _one(self, run: Run, record: Mapping[str, Any] | None, job: Job | None, silent: bool) -> None:
        state = State(record["state"]) if record else State.PLANNED
        if state == State.RUNNING and run not in self._shown:
            self._shown[run] = self.progress.start(run.run_id)
        if state == State.DONE:
            self._end(run, state)
        elif (job is not None and not job.ended) or owned(run, self.queue):
            self._over_since.pop(run, None)  # a job is on it, a command about to submit one, or another launcher's process
        elif state not in OPEN:
            self._end(run, state)
        elif silent:
            self._over_since.pop(run, None)
        elif time.monotonic() - self._over_since.setdefault(run, time.monotonic()) > GRACE_SECONDS:
            write_loss(run, job, self.queue)

    def _end(self, run: Run, state: State) -> None:
        self.left.remove(run)
        shown = self._shown.pop(run, None) or self.progress.start(run.run_id)
        shown.finish(run, state)
        self.on_end(run, state)
