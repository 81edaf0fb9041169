"""What SLURM knows of the jobs of a grid, asked with one command for all of them.

A job is known by the name of its submission and its place there, not by its number: names are never given twice, while
numbers start again on a fresh cluster, and a name is known before `sbatch` has answered. ``squeue`` comes first: what it
lists is in the queue or ended minutes ago. Only for jobs that it no longer lists is the accounting asked, which may say
NODE_FAIL of a job that is being queued again, has no row for a member that was cancelled before it began, or does not exist.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from benchmark.ownership import Owner
from benchmark.runs import Run, State

COLUMNS = {"Name": 120, "ArrayJobID": 16, "ArrayTaskID": 12, "State": 24, "Reason": 60, "NodeList": 60, "TimeUsed": 24,
           "EndTime": 24}
"""Fields of ``squeue`` and their widths: it has no separator that a job's name cannot hold."""

ENDED = {
    "BOOT_FAIL": State.NODE_FAILED,
    "CANCELLED": State.CANCELLED,
    "COMPLETED": State.FAILED,  # of a job whose run has not recorded its end
    "DEADLINE": State.TIMEOUT,
    "FAILED": State.FAILED,
    "NODE_FAIL": State.NODE_FAILED,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "PREEMPTED": State.CANCELLED,
    "REVOKED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
}
"""States in which SLURM is through with a job, and what they mean for a run that did not record its end itself."""


class NoSlurm(RuntimeError):
    """SLURM does not answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of a job: the name of its submission, and its number in there."""

    submission: str
    index: int

    def __str__(self) -> str:
        return f"{self.submission}_{self.index}"

    @classmethod
    def of(cls, owner_job: str) -> Place | None:
        """From ``<submission>_<index>.<restart>``, what a claim calls a job; None for another scheduler's."""
        submission, _, rest = owner_job.rpartition("_")
        index = rest.partition(".")[0]
        return cls(submission, int(index)) if submission and index.isdigit() else None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as SLURM sees it.

    Attributes:
        number: ``12``, of an array's member ``12_3``.
        state: SLURM's word for it.
        reason: what it waits for, or how it ended.
        nodes: where it runs or ran.
        time_used: how long it has run.
        end: when it ended, or has to end; None if that is open.
    """

    number: str
    state: str
    reason: str = ""
    nodes: str = ""
    time_used: str = ""
    end: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def ended_for(self, seconds: float) -> bool:
        """Whether it ended, at least so long ago."""
        return self.ended and (self.end is None or (datetime.now() - self.end).total_seconds() >= seconds)

    @property
    def waits(self) -> bool:
        """Whether it is in the queue and does not run."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


@dataclass(slots=True)
class Queue:
    """The jobs of some submissions.

    Attributes:
        max_age: seconds for which an answer is used again.
    """

    max_age: float = 2.0
    _jobs: dict[Place, Job] = field(default_factory=dict)
    _submissions: frozenset[str] = frozenset()
    _asked: float = float("-inf")

    def job(self, place: Place) -> Job | None:
        """A job; None if SLURM has never heard of it. NoSlurm if it does not answer."""
        return self.jobs([place]).get(place)

    def jobs(self, places: Iterable[Place], fresh: bool = False) -> dict[Place, Job]:
        """Those of these jobs that SLURM knows. It is asked again if its answer is old, or ``fresh``; NoSlurm if silent."""
        wanted = list(places)
        submissions = frozenset(place.submission for place in wanted)
        if fresh or time.monotonic() - self._asked > self.max_age:
            self._jobs, self._submissions, self._asked = {}, frozenset(), time.monotonic()
        if new := submissions - self._submissions:
            listed = _listed(new)
            missing = {place.submission for place in wanted if place.submission in new and place not in listed}
            self._jobs |= {**(_accounted(missing) if missing else {}), **listed}
            self._submissions |= new
        return {place: self._jobs[place] for place in wanted if place in self._jobs}

    def in_queue(self, place: Place | None) -> bool:
        """Whether a job waits or runs. NoSlurm if SLURM does not answer."""
        job = self.job(place) if place else None
        return job is not None and not job.ended

    def alive(self, owner: Owner) -> bool:
        """Whether an owner elsewhere still exists: a job that SLURM has not ended. True where nothing is known."""
        place = Place.of(owner.job) if owner.job else None
        submits = owner.pid is not None and (owner.job or "").endswith(".-1")  # a command that is about to submit this job
        if place is None or submits:
            return True
        try:
            return self.in_queue(place)
        except NoSlurm:
            return True


def record_of(run: Run) -> dict[str, Any] | None:
    """The record of a run, None if there is none or it cannot be read."""
    try:
        return run.read()
    except ValueError:
        return None


def place_in(record: Mapping[str, Any] | None) -> Place | None:
    """The job that a run was last submitted as, None if it never was."""
    told = (record or {}).get("submission")
    return Place(told["name"], told["index"]) if told else None


def _listed(submissions: Iterable[str]) -> dict[Place, Job]:
    """By ``squeue``: jobs in the queue, and those that ended a few minutes ago."""
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    names = ",".join(sorted(submissions))
    out = run("squeue", "--noheader", "--array", "--states=all", f"--name={names}", f"--Format={columns}")
    found = {}
    for line in out.splitlines():
        values = []
        for width in COLUMNS.values():
            values.append(line[:width].strip())
            line = line[width:]
        name, array, index, state, reason, nodes, used, end = values
        place = Place(name, int(index) if index.isdigit() else 0)
        number = f"{array}_{index}" if index.isdigit() else array
        found[place] = Job(number, state, "" if reason == "None" else reason, nodes, used, _moment(end))
    return found


def _accounted(submissions: Iterable[str]) -> dict[Place, Job]:
    """By ``sacct``: jobs that ended; none where the cluster keeps no accounts."""
    names = ",".join(sorted(submissions))
    try:
        # from long ago: without a start, it leaves out what ended before today
        out = run("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=2000-01-01", f"--name={names}",
                  "--format=JobName,JobID,State,ExitCode,NodeList,Elapsed,End")
    except NoSlurm:
        return {}
    found = {}
    for line in out.splitlines():
        name, number, state, code, nodes, elapsed, end = line.split("|")
        index = number.partition("_")[2]
        if index and not index.isdigit():
            continue  # several pending members in one row: squeue lists them
        state = state.split()[0]  # "CANCELLED by 1000"
        if state in ENDED:
            found[Place(name, int(index or 0))] = Job(number, state, f"exit {code}", nodes, elapsed, _moment(end))
    return found


def _moment(text: str) -> datetime | None:
    """A point in time as SLURM prints it, in this machine's time zone; None for "N/A" and "Unknown"."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def run(*command: str) -> str:
    """The output of a command of SLURM; NoSlurm with its first complaint if it fails, is not there, or takes minutes."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSlurm(f"{command[0]} cannot be asked ({error})") from None
    if done.returncode:
        complaint = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise NoSlurm(f"{command[0]} failed: {complaint}")
    return done.stdout
