"""``launcher=slurm slurm=PROFILE``: the cells of a grid as job arrays.

The command submits what is missing and then follows it. It may be stopped, or die with its machine, at any moment: the jobs
go on, and the same command follows them again, submitting only what nobody works on. See `slurm.submission` for what is
handed to SLURM, `slurm.job` for what a job does, `slurm.watch` for how ends are noticed that no job can record.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.table import Table

from benchmark.initial import start_of
from benchmark.ownership import Owner
from benchmark.runs import Run, State
from slurm.profile import load_profile
from slurm.queue import NoSlurm, Queue, place_in, record_of

if TYPE_CHECKING:
    from benchmark.grid import Planned
    from benchmark.progress import GridProgress
    from benchmark.request import Request

GOOD_ENDS = (State.DONE, State.CANCELLED)
"""Ends after which ``fail_fast`` lets others begin."""


class SlurmLauncher:
    """Runs cells on a cluster; see `benchmark.launcher.Launcher`."""

    poll_seconds = (2.0, 30.0)

    def __init__(self, words: Sequence[str] = ()):
        self.profile = load_profile(words)
        self.queue = Queue()

    def at_once(self, cells: Sequence[Planned]) -> int:
        """The profile's parallelism: of an array, of which there is usually one."""
        return max(1, min(len(cells), self.profile.array_parallelism))

    def describe(self, cells: Sequence[Planned]) -> Table:
        """The arrays that would be submitted."""
        from slurm.submission import arrays_of

        table = Table(title=f"job arrays, profile {self.profile.name}", title_justify="left")
        for column in ("runs", "at once", "each", "where", "begins"):
            table.add_column(column, overflow="fold")
        for array in arrays_of(self.profile, cells):
            places = (array.resources.partition, array.resources.qos, array.resources.constraint, self.profile.account)
            where = " ".join(place for place in places if place) or "as the cluster likes"
            begins = "at once" if array.wave == 0 else "after the runs that these start from"
            count = len(array.cells)
            table.add_row(str(count), str(min(count, self.profile.array_parallelism)), str(array.resources), where, begins)
        return table

    def alive(self, owner: Owner) -> bool:
        """Whether the job of an owner is in the queue."""
        return self.queue.alive(owner)

    def follows(self, run: Run) -> bool:
        """Whether the run's job, of an earlier command, waits or runs."""
        try:
            return self.queue.in_queue(place_in(record_of(run)))
        except NoSlurm:
            return False

    def settle(self, runs: Sequence[Run]) -> None:
        """Record the ends of runs whose jobs ended without a word."""
        from slurm.watch import settle

        settle(runs, self.queue)

    def run(self, cells: Sequence[Planned], request: Request, progress: GridProgress) -> int:
        """Submit cells that nobody works on, follow all of them; how many did not end in ``done``."""
        from benchmark.stopping import Preempted
        from slurm.cancel import cancel
        from slurm.watch import Watch

        refused = self._submit(cells, request, progress)
        states: dict[Run, State] = dict.fromkeys(refused, State.PLANNED)

        def ended(run: Run, state: State) -> None:
            states[run] = state
            if request.fail_fast and state not in GOOD_ENDS:
                why = f"not begun, because of fail_fast=true: {run.run_id} is {state}"
                with suppress(NoSlurm):  # jobs that begin all the same see for themselves that they shall not
                    cancel(watch.left, self.queue, why, waiting=True)

        watch = Watch(self.queue, progress, self.poll_seconds, ended)
        try:
            watch.follow(run for _, run in cells if run not in states)
        except (KeyboardInterrupt, Preempted):
            progress.say(f"{len(watch.left)} runs go on as jobs; the same command follows them again, "
                         f"python -m benchmark.cancel grid={request.grid} cancels them")
            raise
        return sum(state != State.DONE for state in states.values())

    def _submit(self, cells: Sequence[Planned], request: Request, progress: GridProgress) -> list[Run]:
        """Submit what nobody works on, wave after wave; returns the runs that SLURM did not take."""
        from slurm.submission import Refused, Submission, arrays_of, largest_array

        submission = Submission(self.profile, request, cells[0][1].results_dir, self.queue)
        refused: list[Run] = []
        for array in arrays_of(self.profile, cells, largest_array()):
            starts = [start for cell, _ in array.cells if (start := start_of(cell.config))]
            try:
                number, places = submission.submit(array, self._numbers([start.run for start in starts if start.run]))
            except (Refused, NoSlurm) as error:
                progress.say(f"{error} ({array.resources}, profile {self.profile.name})")
                refused += [run for _, run in array.cells if not self.follows(run)]
                continue
            if number is not None:
                progress.say(f"submitted {len(places)} runs as job {number} ({places[0].submission}): {array.resources}")
        return refused

    def _numbers(self, runs: Sequence[Run]) -> list[str]:
        """SLURM's numbers of the arrays that runs belong to, whoever submitted them, as far as these have not ended."""
        places = [place for run in runs if (place := place_in(record_of(run)))]
        jobs = self.queue.jobs(places, fresh=True) if places else {}
        return sorted({job.number.partition("_")[0] for job in jobs.values() if not job.ended})
