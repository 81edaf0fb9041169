"""``python -m benchmark.worker FILE``: one run in a process of its own, for runs side by side and runs on several devices.

FILE is JSON with ``run_id``, ``results_dir``, ``config`` and ``command``. Progress goes to standard output, a JSON list
``[stage, done, total, line]`` each. Lightning Fabric starts this module once more for every further device; those processes
take part in training and write nothing.
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
from pathlib import Path
from typing import Any

from benchmark.progress import short_line
from benchmark.runs import Run, State
from benchmark.stopping import listen

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


def run_in_process(run: Run, config: Mapping[str, Any], command: str, show: Show, say: Callable[[str], None]) -> State:
    """Execute a run in its own process.

    Args:
        run, config, command: as for `benchmark.execute.execute`.
        show: told about progress: stage, done, total, a line about it.
        say: gets what else the process prints on standard output.

    Returns:
        The state that the run ended in.
    """
    job = {"run_id": run.run_id, "results_dir": str(run.results_dir), "config": config, "command": command}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        # in a session of its own a terminal's Ctrl-C does not reach it: it gets exactly one, from `interrupt`
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.worker", str(path)], stdout=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
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
    if process in _STOPPED:  # before it had begun
        reason = {"class": "KeyboardInterrupt", "message": "stopped before it began", "command": command}
        run.update(state=State.CANCELLED, reason=reason, owner=None)
    else:  # killed, or dead before it could say so
        message = f"The process of this run ended with status {process.returncode}; what it printed is above."
        reason = {"class": "WorkerDied", "message": message, "command": command}
        run.update(state=State.FAILED, reason=reason, owner=None)
    return run.state


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
    from benchmark.execute import execute

    logging.getLogger("benchmark").setLevel(logging.INFO)
    job = json.loads(Path(arguments[0]).read_text())
    run = Run(Path(job["results_dir"]), job["run_id"])
    try:
        state = execute(run, job["config"], job["command"], Teller())
    except KeyboardInterrupt:  # recorded
        return NOT_DONE
    return DONE if state == State.DONE else NOT_DONE


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)
    sys.exit(main(sys.argv[1:]))
