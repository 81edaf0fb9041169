"""``python -m benchmark.worker FILE``: one run in a process of its own, as runs on several devices need.

FILE is JSON with ``run_id``, ``results_dir``, ``config`` and ``command``. Lightning Fabric starts this module once more for
every further device; those processes take part in training and write nothing.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark.runs import Run, State


def run_in_process(run: Run, config: Mapping[str, Any], command: str) -> State:
    """Execute a run in its own process and return the state that it ended in."""
    job = {"run_id": run.run_id, "results_dir": str(run.results_dir), "config": config, "command": command}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        done = subprocess.run([sys.executable, "-m", "benchmark.worker", str(path)], check=False)
    if run.state == State.RUNNING:  # killed before it could say so
        reason = {"class": "WorkerDied", "message": f"The process ended with status {done.returncode}.", "command": command}
        run.update(state=State.FAILED, reason=reason, owner=None)
    return run.state


def main(arguments: list[str]) -> int:
    """Exit status 0 if the run is done."""
    from benchmark.execute import execute
    from benchmark.progress import GridProgress

    logging.getLogger("benchmark").setLevel(logging.INFO)
    job = json.loads(Path(arguments[0]).read_text())
    run = Run(Path(job["results_dir"]), job["run_id"])
    with GridProgress(Console(highlight=False), 1, 1) as progress:
        return 0 if execute(run, job["config"], job["command"], progress) == State.DONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
