"""A thousand cells, workers that are killed and frozen at random: nothing is lost and nothing is run twice to its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmark import execute as execute_module
from benchmark.expand import expand
from benchmark.grid import Block, GridDefinition
from benchmark.grid_file import write_grid
from benchmark.plan import look, pending, plan_run
from benchmark.request import Request
from benchmark.runs import Run, State

CELLS = 1000
WORKERS = 4
STEPS = 3
REQUEST = Request("stress", [])
FATAL, FROZEN = 0.015, 0.004
"""Probability of a worker to be killed, and to be frozen while a copy takes over, at each of seven places of a cell."""

LIMIT = 600
"""Seconds after which the test gives up; it takes a few without load."""


def planned(results):
    """Cells of a grid whose configs differ in one value, in table order."""
    values = [f"{(number + 1) * 1e-6:.6f}" for number in range(CELLS)]
    grid = GridDefinition("stress", "Stress", ["scale=demo"], [Block({"method": ["psps"], "schedule.lr": values})])
    cells = expand(grid, [f"results_dir={results}"])
    return grid, [(cell, plan_run(cell, {"train": "a", "val": "b"})) for cell in cells]


class FakeExecution:
    """Stands for `execute`: a few steps with a checkpoint each, then a record; accidents may happen between all of them."""

    def __init__(self, accident):
        self.accident = accident

    def __call__(self, run, config, command, listener, job=None):
        self.accident()
        record = run.update(state=State.RUNNING, config=config, command=command)
        total = record.get("total", 0)
        for step in range(record.get("steps", 0), STEPS):
            self.accident()
            total = total * 31 + step + round(config["schedule"]["lr"] * 1e6)
            run.update(steps=step + 1, total=total)
        self.accident()
        run.update(state=State.DONE, metrics={"total": total})
        with (run.results_dir / "ends.txt").open("a") as file:
            file.write(f"{run.run_id}\n")
        self.accident()
        return State.DONE


def work(cells, worker, restart, frozen, rng):
    """A job with many cells: takes up what is not done, in an order of its own, also from its own earlier copies."""

    def accident():
        chance = rng.random()
        if chance < FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif chance < FATAL + FROZEN:
            (frozen / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    execute_module.execute = FakeExecution(accident)
    order = list(cells)
    rng.shuffle(order)
    for cell, run in order:
        if run.state != State.DONE:
            execute_module.run_cell(run, cell.config, "command", None, job=f"{worker}.{restart}")
    os._exit(0)


def start(*arguments):
    pid = os.fork()
    if pid == 0:
        work(*arguments)
    return pid


def storm(cells, folder, seed):
    """Work on all cells with `WORKERS` processes; killed and frozen ones get a successor. Returns (killed, frozen)."""
    frozen = folder / "frozen"
    frozen.mkdir()
    rng = random.Random(seed)
    workers = {start(cells, n, 0, frozen, random.Random(rng.random())): (n, 0) for n in range(WORKERS)}
    stopped, killed, finished, deadline = [], 0, 0, time.monotonic() + LIMIT
    try:
        while finished < WORKERS:
            assert time.monotonic() < deadline, f"{finished} of {WORKERS} workers ended within {LIMIT} s"
            pid, status = os.waitpid(-1, os.WUNTRACED)
            if pid not in workers:
                continue  # a frozen one, or one that was thawed and ended
            number, restart = workers.pop(pid)
            if os.WIFSTOPPED(status):  # given up, as a node that does not answer is
                stopped.append(pid)
            elif os.WIFSIGNALED(status):
                killed += 1
            else:
                assert os.WEXITSTATUS(status) == 0
                finished += 1
                continue
            workers[start(cells, number, restart + 1, frozen, random.Random(rng.random()))] = (number, restart + 1)
            if len(stopped) % 3 == 0 and stopped:  # some come back while their successors work
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stopped[-1], signal.SIGCONT)
    finally:
        for pid in (*stopped, *workers):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)
                os.waitpid(pid, 0)
    return killed, len(stopped)


def table(results):
    """(axes, state, metrics) of every cell of the grid file."""
    content = json.loads((results / "stress" / "grid.json").read_text())
    rows = []
    for cell in content["cells"]:
        record = Run(results, cell["run_id"]).read()
        rows.append((cell["axes"], record["state"], record["metrics"]))
    return rows


@pytest.mark.slow
def test_a_thousand_cells_under_random_kills_end_as_in_calm(tmp_path, monkeypatch):
    monkeypatch.setattr(execute_module, "execute", FakeExecution(lambda: None))
    calm, stormy = tmp_path / "calm", tmp_path / "storm"
    for results in (calm, stormy):
        results.mkdir()
        grid, cells = planned(Path("results"))
        cells = [(cell, Run(results, run.run_id)) for cell, run in cells]
        write_grid(results / grid.name, grid, cells)
        if results == calm:
            for cell, run in cells:
                assert execute_module.run_cell(run, cell.config, "command", None) == State.DONE
        else:
            killed, frozen = storm(cells, tmp_path, seed=1)
            assert killed >= 20 and frozen >= 5  # else there was no storm
            for cell, run in cells:  # the same command again, after the storm
                if pending(run, REQUEST):
                    execute_module.run_cell(run, cell.config, "command", None)
    assert [look(run, REQUEST).why for _, run in cells] == [""] * CELLS
    ends = (stormy / "ends.txt").read_text().split()
    # None ended twice; one killed between its record and its line is not here. A thawed copy that is taken over between its
    # last look at the claims and the rename of its record, microseconds, makes the run end again: once in a storm at most.
    assert len(ends) - len(set(ends)) <= 1
    assert table(stormy) == table(calm)
    assert len({metrics["total"] for _, _, metrics in table(calm)}) == CELLS


def test_a_frozen_copy_that_comes_back_changes_nothing(tmp_path):
    """What the storm does at random, once and surely: the copy wakes up after its successor has finished."""
    run = Run(tmp_path, "a")
    config = {"schedule": {"lr": 1e-6}}
    woken = []

    def sleeper():
        if len(woken) == 2:  # in the middle of its steps, the successor runs from start to end
            woken.append(True)
            execute_module.execute = FakeExecution(lambda: None)
            assert execute_module.run_cell(run, config, "command", None, job="7.1") == State.DONE
            woken.append(run.record_file.read_bytes())
        woken.append(True)

    real = execute_module.execute
    try:
        execute_module.execute = FakeExecution(sleeper)
        assert execute_module.run_cell(run, config, "command", None, job="7.0") == State.DONE  # of the successor
    finally:
        execute_module.execute = real
    assert run.record_file.read_bytes() == woken[3]
    assert (tmp_path / "ends.txt").read_text().split() == ["a"]
