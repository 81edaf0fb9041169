"""The local launcher: runs on this machine, ``jobs`` at once, each in a process of its own as soon as there are two."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING

from benchmark.configs import ConfigError
from benchmark.grid import Cell, Planned
from benchmark.ownership import Owner, assumed_alive
from benchmark.plan import look, pending, waves
from benchmark.request import Request, command_for
from benchmark.runs import Run, State
from benchmark.stopping import stop_if_asked, tell_of_preemption

if TYPE_CHECKING:
    from rich.table import Table

    from benchmark.progress import GridProgress


class LocalLauncher:
    """Runs cells on this machine; see `benchmark.launcher.Launcher`."""

    def __init__(self, words: Sequence[str] = ()):
        if words:
            raise ConfigError(f"'{words[0]}' is not known: launcher=local has no words of its own.")

    def at_once(self, cells: Sequence[Planned]) -> int:
        """What the cells ask for, within the cores of this machine."""
        if not cells:
            return 1
        return min(*(cell.config["jobs"] for cell, _ in cells), len(cells), os.cpu_count() or 1)

    def run(self, cells: Sequence[Planned], request: Request, progress: GridProgress) -> int:
        """Run cells to their ends; how many did not end in ``done``."""
        return _Session(request, progress, self.at_once(cells)).run(cells)

    def describe(self, cells: Sequence[Planned]) -> Table | None:
        """Nothing is submitted."""
        return None

    def alive(self, owner: Owner) -> bool:
        """Other machines cannot be seen from here."""
        return assumed_alive(owner)

    def follows(self, run: Run) -> bool:
        """Nothing goes on by itself."""
        return False

    def settle(self, runs: Sequence[Run]) -> None:
        """Nothing is known that `benchmark.plan.settle` does not see."""


class _Session:
    """One call of `LocalLauncher.run`."""

    def __init__(self, request: Request, progress: GridProgress, jobs: int):
        self.request, self.progress, self.jobs = request, progress, jobs
        self.stopped = threading.Event()
        self.gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for slot in range(jobs):
            self.gpus.put(_gpu(slot) if jobs > 1 else None)

    def run(self, cells: Sequence[Planned]) -> int:
        """One wave after the other; runs of a wave side by side."""
        if self.jobs == 1:
            return sum(not self._one(cell, run) for wave in waves(cells) for cell, run in wave)
        from benchmark.worker import interrupt, preempt

        failed = 0
        with ThreadPoolExecutor(self.jobs) as pool, tell_of_preemption(preempt):
            try:
                for wave in waves(cells):
                    futures = [pool.submit(self._one, cell, run) for cell, run in wave]
                    self._wait(futures)
                    failed += sum(not future.result() for future in futures)
            except KeyboardInterrupt:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                interrupt()
                raise
        return failed

    def _wait(self, futures: Sequence[Future[bool]]) -> None:
        wait_for(futures)
        stop_if_asked()

    def _one(self, cell: Cell, run: Run) -> bool:
        """Run one cell if it is still pending; whether it needs nothing more."""
        if self.stopped.is_set():
            return False
        if not pending(run, self.request):
            self.progress.say(f"{run.run_id} has been taken up by another command")
            return True
        shown = self.progress.start(run.run_id)
        state = self._state(cell, run, shown)
        shown.finish(run, state)
        if state != State.DONE and self.request.fail_fast and look(run, self.request).owner is None:
            self.stopped.set()
        return state == State.DONE

    def _state(self, cell: Cell, run: Run, shown) -> State:
        from benchmark.execute import run_cell
        from benchmark.worker import run_in_process

        command, config = command_for(self.request, cell), cell.config
        fresh = self.request.force == run.run_id
        if self.jobs > 1 and not config["threads"]:
            config = {**config, "threads": max(1, (os.cpu_count() or 1) // self.jobs)}
        if self.jobs == 1 and config["devices"] == 1:
            return run_cell(run, config, command, shown, fresh=fresh)
        gpu = self.gpus.get()
        try:
            return run_in_process(
                run, config, command, shown.show, self.progress.say, fresh=fresh, gpu=gpu if config["devices"] == 1 else None
            )
        finally:
            self.gpus.put(gpu)


def _gpu(slot: int) -> str | None:
    """The GPU of a slot as CUDA_VISIBLE_DEVICES names it, shared in turn where there are fewer; None if there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        names = [str(i) for i in range(torch.cuda.device_count())]
    else:
        names = [name for name in visible.split(",") if name.strip()]
    return names[slot % len(names)].strip() if names else None


