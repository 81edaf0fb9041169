"""``python -m benchmark.worker FILE``: one run in a process of its own, for runs side by side and runs on several devices.

FILE is JSON with ``run_id``, ``results_dir``, ``config``, ``command`` and ``fresh``. Progress goes to standard output, a
JSON list ``[stage, done, total, line]`` each. Lightning Fabric starts this module once more for every further device; those
processes take part in training and write nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.ownership import claim
from benchmark.progress import short_line
from benchmark.runs import Run, State
from benchmark.stopping import Preempted, listen, preempt_on

TELL_SECONDS = 0.25
"""Progress is told this often at most."""

DONE, NOT_DONE = 0, 3
"""Exit status of a process that recorded how its run ended."""

Show = Callable[[str, int, int, str], None]
_RUNNING: set[subprocess.Popen] = set()
_STOPPED: set[subprocess.Popen] = set()


def interrupt() -> None:
    """Ask all runs in processes of their own to stop: they record what they have."""
    for process in list(_RUNNING):
        _STOPPED.add(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)


def preempt() -> None:
    """Announce the end to all runs in processes of their own: they save a checkpoint and record that they go on from it."""
    for process in list(_RUNNING):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGUSR2)


def run_in_process(
    run: Run, config: Mapping[str, Any], command: str, show: Show, say: Callable[[str], None], *, fresh: bool = False,
    gpu: str | None = None,
) -> State:
    """Execute a run in its own process.

    Args:
        run, config, command, fresh: as for `benchmark.execute.run_cell`.
        show: told about progress: stage, done, total, a line about it.
        say: gets what else the process prints on standard output.
        gpu: the only one that the process sees, as in CUDA_VISIBLE_DEVICES; None: what this process sees.

    Returns:
        The state that the run ended in.
    """
    job = {"run_id": run.run_id, "results_dir": str(run.results_dir), "config": config, "command": command, "fresh": fresh}
    environment = os.environ if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        # in a session of its own a terminal's Ctrl-C does not reach it: it gets exactly one, from `interrupt`
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.worker", str(path)], stdout=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True, env=environment,
        )
        _RUNNING.add(process)
        with process:
            for line in process.stdout or ():
                told = _told(line)
                if told:
                    show(*told)
                elif line.strip():
                    say(line.rstrip())
        _RUNNING.discard(process)
    if process.returncode in (DONE, NOT_DONE):
        return run.state
    _record_death(run, process, command)
    return run.state


def _record_death(run: Run, process: subprocess.Popen, command: str) -> None:
    """Write down that a run's process ended without doing so; whoever owns the run by now has the word."""
    token = claim(run)
    if token is None:
        return
    try:
        if process in _STOPPED:  # before it had begun
            reason = {"class": "KeyboardInterrupt", "message": "stopped before it began", "command": command}
            replace(run, token=token).update(state=State.CANCELLED, reason=reason, owner=None)
        else:  # killed, or dead before it could say so
            message = f"The process of this run ended with status {process.returncode}; what it printed is above."
            reason = {"class": "WorkerDied", "message": message, "command": command}
            replace(run, token=token).update(state=State.FAILED, reason=reason, owner=None)
    finally:
        token.release()


def _told(line: str) -> tuple[str, int, int, str] | None:
    """A line of `Teller`, or None for anything else."""
    try:
        stage, done, total, text = json.loads(line)
        return str(stage), int(done), int(total), str(text)
    except (ValueError, TypeError):
        return None


class Teller:
    """Listens to a run and tells its progress on standard output; silent in processes of further devices."""

    def __init__(self) -> None:
        self._silent = int(os.environ.get("LOCAL_RANK", "0")) > 0
        self._last = 0.0

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        self._tell("training", step, total, lambda: f"loss {sum(losses.values()):.3f}  " + short_line(losses))

    def evaluating(self, what: str, done: int, total: int) -> None:
        self._tell(what, done, total, str)

    def _tell(self, stage: str, done: int, total: int, line: Callable[[], str]) -> None:
        moment = time.monotonic()
        if not self._silent and (moment - self._last > TELL_SECONDS or done == total):
            self._last = moment
            try:
                print(json.dumps([stage, done, total, line()]), flush=True)
            except BrokenPipeError:  # whoever started this run is gone; the run is not
                self._silent = True


def main(arguments: list[str]) -> int:
    """Exit status DONE or NOT_DONE: the run's record says how it ended."""
    from benchmark.execute import run_cell

    logging.getLogger("benchmark").setLevel(logging.INFO)
    job = json.loads(Path(arguments[0]).read_text())
    run = Run(Path(job["results_dir"]), job["run_id"])
    try:
        state = run_cell(run, job["config"], job["command"], Teller(), fresh=job["fresh"])
    except (KeyboardInterrupt, Preempted):  # recorded
        return NOT_DONE
    return DONE if state == State.DONE else NOT_DONE


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)
    preempt_on(signal.SIGUSR2)
    sys.exit(main(sys.argv[1:]))
