"""Cancelling jobs so that their runs say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from benchmark.ownership import claim
from benchmark.runs import Run, State
from slurm.queue import Place, Queue, place_in, record_of
from slurm.queue import run as ask

AT_A_TIME = 500
"""Job numbers of one command line."""


def cancel(runs: Iterable[Run], queue: Queue, why: str, waiting: bool = False) -> list[Run]:
    """Cancel the jobs of runs, and record it; returns the runs that had one.

    First the jobs, so that none of them begins any more, then the runs, taken over from jobs that take their time to end.

    Args:
        runs: any; those without a job in the queue are passed over.
        queue: to ask SLURM.
        why: the reason that is recorded.
        waiting: only jobs that have not begun.

    Raises:
        NoSlurm: SLURM does not answer.
    """
    places: dict[Run, Place] = {run: place for run in runs if (place := place_in(record_of(run)))}
    jobs = queue.jobs(places.values(), fresh=True)
    chosen = {run: jobs[place] for run, place in places.items()
              if place in jobs and not jobs[place].ended and (jobs[place].waits or not waiting)}
    numbers = [job.number for job in chosen.values()]
    state = ["--state=PENDING"] if waiting else []
    for start in range(0, len(numbers), AT_A_TIME):
        ask("scancel", *state, *numbers[start : start + AT_A_TIME])
    return [run for run in chosen if _record(run, why)]


def _record(run: Run, why: str) -> bool:
    """Take a run over and write that it was cancelled, unless it came to its end before."""
    token = claim(run, seize=True)
    if token is None:
        return False  # its last process has just written or claimed: it ended, or a person started it elsewhere
    try:
        record = record_of(run)
        if record is None or record["state"] not in (State.SUBMITTED, State.RUNNING):
            return False
        reason = {"class": "Cancelled", "message": why, "where": "", "log_tail": [], "command": record.get("command", "")}
        replace(run, token=token).update(state=State.CANCELLED, reason=reason, owner=None)
        return True
    finally:
        token.release()
