"""From cells to job arrays: grouped by what they ask for, and handed to SLURM by submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env, environment_variables

from benchmark.grid import Cell, Planned
from benchmark.ownership import Owner, Token, claim
from benchmark.plan import look, waves
from benchmark.request import Request, command_for
from benchmark.runs import Run, State
from slurm.cancel import cancel
from slurm.frozen_code import freeze
from slurm.job import CellJob
from slurm.profile import Profile, Resources
from slurm.queue import NoSlurm, Place, Queue, place_in, record_of
from slurm.queue import run as ask

MAX_ARRAY = 1000
"""Jobs of one array where SLURM does not tell how many it allows."""


@dataclass(frozen=True, slots=True)
class Array:
    """Cells that would share, or share, a job array.

    Attributes:
        resources: what each of them gets.
        cells: its members.
        wave: 0 for cells that can begin at once, 1 for those that start from runs of wave 0, and so on.
    """

    resources: Resources
    cells: tuple[Planned, ...]
    wave: int


def arrays_of(profile: Profile, cells: Sequence[Planned], size: int = MAX_ARRAY) -> list[Array]:
    """One array for each wave and class of resources, or several of at most ``size`` members."""
    arrays = []
    for number, wave in enumerate(waves(cells)):
        classes: dict[Resources, list[Planned]] = {}
        for cell, run in wave:
            classes.setdefault(profile.resources(cell.config), []).append((cell, run))
        for resources, members in classes.items():
            arrays += [Array(resources, tuple(members[i : i + size]), number) for i in range(0, len(members), size)]
    return arrays


class Refused(RuntimeError):
    """SLURM does not take a job; its own words."""


class Submission:
    """The arrays that one command submits. Its folder is ``<results_dir>/<grid>/slurm/<name>/``, new each time.

    Args:
        profile: of the cluster.
        request: of the command.
        results_dir: where its runs lie.
        queue: to ask who works on a run.
    """

    def __init__(self, profile: Profile, request: Request, results_dir: Path, queue: Queue):
        self.profile, self.request, self.queue = profile, request, queue
        self.name = f"{request.grid}-{datetime.now():%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.root = results_dir.absolute() / request.grid / "slurm"
        self.arrays = 0

    def submit(self, array: Array, after: Sequence[str] = ()) -> tuple[str | None, list[Place]]:
        """Submit those members of an array that nobody else has taken up meanwhile.

        Args:
            array: the cells.
            after: numbers of jobs that have to end first.

        Returns:
            SLURM's number of the array (None if nothing was left to submit) and the places of its jobs.

        Raises:
            Refused: SLURM does not take it. The runs are planned then, with its words as the reason.
            NoSlurm: it does not answer.
        """
        name = f"{self.name}-{self.arrays}"
        self.arrays += 1
        claimed: list[tuple[Cell, Run, Place, Token]] = []
        try:
            for cell, run in array.cells:
                place = Place(name, len(claimed))
                token = self._claim(run, place)
                if token is not None:
                    claimed.append((cell, replace(run, token=token), place, token))
            if not claimed:
                return None, []
            jobs = [self._prepared(cell, run, place, array.resources) for cell, run, place, _ in claimed]
            number = self._sbatch(jobs, name, array.resources, after)
        except Refused as refused:
            for cell, run, _, _ in claimed:
                reason = {"class": "Refused", "message": str(refused), "command": command_for(self.request, cell)}
                run.update(state=State.PLANNED, reason=reason, owner=None, submission=None)
            raise
        finally:
            for _, _, _, token in claimed:
                token.release()
        return number, [place for _, _, place, _ in claimed]

    def _claim(self, run: Run, place: Place) -> Token | None:
        """Keep others off a run until its job is submitted; the job itself, a later restart of it, comes in."""
        forced = self.request.force == run.run_id
        if forced:
            cancel([run], self.queue, f"made again from the start, by force={run.run_id}")
        found = look(run, self.request, self.queue.alive)
        if not found.why or (not forced and self.queue.in_queue(place_in(found.record))):
            return None  # its job may be queued again right now, after a process of it ended
        token = claim(run, f"{place}.-1", elsewhere=self.queue.alive, seize=forced)
        if token is not None and record_of(run) != found.record:
            token.release()  # somebody else has done something about it between the two looks
            return None
        return token

    def _prepared(self, cell: Cell, run: Run, place: Place, resources: Resources) -> CellJob:
        """Write down that a run is submitted; returns what its job will do."""
        forced = self.request.force == run.run_id
        if forced:
            run.clear()
        config = dict(cell.config)
        if not config["threads"]:
            config["threads"] = resources.cpus
        command = command_for(self.request, cell)
        run.update(
            config=config, command=command, state=State.SUBMITTED, reason=None, owner=asdict(Owner(job=f"{place}.-1")),
            submission={"name": place.submission, "index": place.index, "folder": self._folder(place).as_posix(),
                        "profile": self.profile.name},
            **({"afresh": True} if forced else {}),
        )
        failed = self.root / self.name / "failed" if self.request.fail_fast else None
        return CellJob(run.results_dir, run.run_id, config, command, str(place), failed)

    def _folder(self, place: Place) -> Path:
        """Where submitit keeps what it writes, seen from the results folder."""
        return Path(self.request.grid, "slurm", self.name, place.submission)

    def _sbatch(self, jobs: Sequence[CellJob], name: str, resources: Resources, after: Sequence[str]) -> str:
        """Hand jobs to SLURM; its number of the array."""
        folder = self.root / self.name / name
        folder.mkdir(parents=True)
        (self.root / ".gitignore").write_text("*\n")
        try:
            executor = SlurmExecutor(folder, max_num_timeout=self.profile.resumes, python=python_of(self.profile))
            executor.update_parameters(**sbatch_parameters(self.profile, resources, name, freeze(self.root / "code"), after))
            # nothing of a job that this command may run in is for its jobs, unlike what a person tells sbatch; and submitit
            # prints what sbatch complains about before it raises it
            told = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or key.startswith("SBATCH_")}
            with clean_env(), environment_variables(**told), contextlib.redirect_stderr(io.StringIO()):
                submitted = executor.submit_array(jobs)
        except (FailedJobError, FailedSubmissionError, OSError, RuntimeError) as error:
            shutil.rmtree(folder)
            raise Refused(refusal(str(error))) from None
        return submitted[0].job_id.partition("_")[0]


def python_of(profile: Profile) -> str:
    """How a job starts Python: shell words."""
    if profile.container:
        return f"{profile.container} {profile.python or 'python'}"
    return profile.python or shlex.quote(sys.executable)


def sbatch_parameters(
    profile: Profile, resources: Resources, name: str, code: Path, after: Sequence[str] = ()
) -> dict[str, Any]:
    """What submitit is told, in its own words."""
    options = {"requeue": True, **profile.options}
    if after:
        options["dependency"] = ":".join(["afterany", *after])
    values = {
        "job_name": name,
        "partition": resources.partition,
        "account": profile.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.processes,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus * resources.processes or None,
        "mem": f"{resources.memory_mb * resources.processes}M",
        "time": resources.minutes,
        "signal_delay_s": profile.signal_seconds,
        "array_parallelism": profile.array_parallelism,
        "setup": [
            *profile.setup,
            f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{resources.cpus}}}",
            # a job stands where the command stood, so relative paths mean the same; its code comes from the copy alone
            "export PYTHONSAFEPATH=1",
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        ],
        # srun does not take the cores over from sbatch; and one process of a run that dies takes the others along
        "srun_args": [f"--cpus-per-task={resources.cpus}", "--kill-on-bad-exit=1"],
        "additional_parameters": options,
    }
    return {key: value for key, value in values.items() if value is not None}


def refusal(stderr: str) -> str:
    """What SLURM says of a job that it does not take, in one sentence."""
    complaints = re.findall(r"^sbatch: (?:error|fatal): *(.+)$", stderr, re.MULTILINE) or stderr.strip().splitlines()[:1]
    return f"SLURM does not take the job: {'; '.join(dict.fromkeys(complaints)) or 'sbatch failed without a word'}"


def largest_array() -> int:
    """How many jobs one array of this cluster may have."""
    with contextlib.suppress(NoSlurm):
        if match := re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE):
            return max(1, int(match[1]) - 1)
    return MAX_ARRAY

