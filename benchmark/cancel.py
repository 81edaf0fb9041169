"""``python -m benchmark.cancel grid=NAME [run=RUN_ID] [results_dir=results]``: cancel the jobs of a grid, or of one run.

The runs are recorded as cancelled; the same command as before submits them again, from their last checkpoints. Runs that the
local launcher works on are stopped where that command runs, with Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmark.configs import ConfigError, unknown
from benchmark.status import read_words, runs_of
from slurm.cancel import cancel
from slurm.queue import NoSlurm, Queue

USAGE = "python -m benchmark.cancel grid=NAME [run=RUN_ID] [results_dir=results]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: done; 1: SLURM does not answer; 2: the command line cannot be used."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0
    try:
        words = read_words(arguments, {"grid": None, "run": "", "results_dir": "results"}, USAGE)
        runs = [one.run for one in runs_of(Path(words["results_dir"]), words["grid"])]
        if words["run"]:
            if words["run"] not in {run.run_id for run in runs}:
                raise unknown(f"run of grid {words['grid']}", words["run"], [run.run_id for run in runs])
            runs = [run for run in runs if run.run_id == words["run"]]
    except ConfigError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    try:
        cancelled = cancel(runs, Queue(), "cancelled by python -m benchmark.cancel")
    except NoSlurm as error:
        console.print(f"error: {error}; nothing is known to be cancelled.", style="red", markup=False, soft_wrap=True)
        return 1
    for run in cancelled:
        console.print(run.run_id, markup=False, soft_wrap=True)
    console.print(f"{len(cancelled)} runs cancelled.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
