"""Launchers: who runs the cells of a grid. A visible table; a new one is a class and a line here.

A launcher gets cells that are to be run and sees them to their ends. What it does to a run it does through
`benchmark.execute.run_cell`, in whatever process: claims keep every other launcher off meanwhile, and the run folder tells
how it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from benchmark.configs import unknown

if TYPE_CHECKING:
    from rich.table import Table

    from benchmark.grid import Planned
    from benchmark.ownership import Owner
    from benchmark.progress import GridProgress
    from benchmark.request import Request
    from benchmark.runs import Run


class Launcher(Protocol):
    """Made from the words of the command line that are its own, ``<name>=...`` and ``<name>.key=...`` (Hydra's grammar).

    The constructor and `describe` are part of planning: they import no torch. ConfigError for a wrong word.
    """

    def __init__(self, words: Sequence[str]): ...

    def at_once(self, cells: Sequence[Planned]) -> int:
        """How many of these cells run at the same time, at least 1."""
        ...

    def run(self, cells: Sequence[Planned], request: Request, progress: GridProgress) -> int:
        """Run cells to their ends and return how many did not end in ``done``.

        A cell whose config names a run of the same call in ``init_from`` begins after that run is done (see
        `benchmark.plan.waves`). With ``request.fail_fast`` no cell begins after another one failed. KeyboardInterrupt passes
        through; what goes on by itself (a cluster's jobs) goes on.
        """
        ...

    def describe(self, cells: Sequence[Planned]) -> Table | None:
        """What would be submitted for these cells (arrays, resources), for ``plan=true``; None if there is nothing."""
        ...

    def alive(self, owner: Owner) -> bool:
        """Whether an owner that cannot be seen from this process still exists; True where the launcher does not know."""
        ...

    def follows(self, run: Run) -> bool:
        """Whether a run goes on by itself, started by an earlier command: `run` gets it too, and sees it to its end."""
        ...

    def settle(self, runs: Sequence[Run]) -> None:
        """Write down the ends of runs that this launcher knows of, while their processes could not record them."""
        ...


LAUNCHERS = {
    "local": "benchmark.local:LocalLauncher",
    "slurm": "slurm.launcher:SlurmLauncher",
}
"""Launcher by name, ``module:class``; imported when it is asked for."""


def launcher(name: str, words: Sequence[str] = ()) -> Launcher:
    """The launcher of a command line; ConfigError for an unknown name or a wrong word."""
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    module, class_name = LAUNCHERS[name].split(":")
    return getattr(import_module(module), class_name)(words)
