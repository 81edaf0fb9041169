"""A signal that announces the end: a checkpoint at the next step, and then the numbers of an unbroken run."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from benchmark import stopping
from benchmark.execute import run_cell
from benchmark.ownership import claim, owner_of
from benchmark.plan import look
from benchmark.request import Request
from benchmark.runs import Run, State
from benchmark.stopping import Preempted
from tests.benchmark.tiny_runs import STEPS, Interrupted, assert_same_outcome, tiny_config

SIGNALLED_AFTER = 4
"""No multiple of the steps between checkpoints, which is 3."""


class Signalled(Interrupted):
    """A listener that sends this process a signal after a step, or during evaluation."""

    def training(self, step, total, losses):
        self.steps.append(step)
        if step == self.after_step:
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.05)  # the interpreter handles it between two instructions

    def evaluating(self, what, done, total):
        if self.in_evaluation:
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.05)


@pytest.fixture(autouse=True)
def surroundings():
    before, threads = signal.getsignal(signal.SIGUSR2), torch.get_num_threads()
    stopping.preempt_on(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)
    stopping.listen()  # forget what was asked here
    torch.set_num_threads(threads)


def config_of(results):
    return tiny_config(results, "method=psps")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    results = tmp_path_factory.mktemp("unbroken")
    run = Run(results, "psps-1")
    assert run_cell(run, config_of(results), "command", Interrupted()) == State.DONE
    return run


@pytest.mark.parametrize(("job", "state"), [(None, State.CANCELLED), ("7_3.0", State.SUBMITTED)])
def test_a_signalled_run_goes_on_to_the_numbers_of_an_unbroken_one(tmp_path, unbroken, job, state):
    run, config = Run(tmp_path, "psps-1"), config_of(tmp_path)
    first = Signalled(after_step=SIGNALLED_AFTER)
    with pytest.raises(Preempted, match=f"SIGUSR2 .* after step {SIGNALLED_AFTER} of {STEPS}"):
        run_cell(run, config, "command", first, job)
    assert first.steps[-1] == SIGNALLED_AFTER
    record = run.read()
    assert record["state"] == state and record["reason"]["class"] == "Preempted" and owner_of(run) is None
    assert (record["owner"] or {}).get("job") == job
    assert (run.checkpoints / f"step_{SIGNALLED_AFTER:08d}" / "manifest.json").exists()
    found = look(run, Request("g", []), lambda owner: False)
    assert found.why == str(state)  # without the job, the same command goes on
    stopping.listen()
    second = Interrupted()
    assert run_cell(run, config, "command", second, job and "7_3.1") == State.DONE
    assert second.steps == list(range(SIGNALLED_AFTER + 1, STEPS + 1))
    assert_same_outcome(run, unbroken)


def test_while_the_queue_has_a_run_nobody_else_starts_it(tmp_path):
    run = Run(tmp_path, "a")
    run.update(state=State.SUBMITTED, owner={"job": "7.0"})
    found = look(run, Request("g", []))
    assert found.why == "" and found.owner.job == "7.0"


def test_a_signal_during_evaluation_repeats_only_that(tmp_path, unbroken):
    run, config = Run(tmp_path, "psps-1"), config_of(tmp_path)
    with pytest.raises(Preempted):
        run_cell(run, config, "command", Signalled(in_evaluation=True))
    assert run.weights_file.exists() and run.state == State.CANCELLED
    stopping.listen()
    again = Interrupted()
    assert run_cell(run, config, "command", again) == State.DONE
    assert again.steps == []
    assert_same_outcome(run, unbroken)


def test_a_signal_before_the_first_step_loses_nothing(tmp_path):
    run, config = Run(tmp_path, "psps-1"), config_of(tmp_path)
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(0.05)
    with pytest.raises(Preempted):
        run_cell(run, config, "command", Interrupted())
    assert run.state == State.CANCELLED and not list(run.checkpoints.glob("step_*"))


def test_a_run_that_was_taken_over_stops_and_leaves_the_folder_alone(tmp_path):
    """A second copy of the job begins while the first one trains."""
    run, config = Run(tmp_path, "psps-1"), config_of(tmp_path)
    taken = []

    class Overtaken(Interrupted):
        def training(self, step, total, losses):
            self.steps.append(step)
            if step == SIGNALLED_AFTER:
                taken.append(claim(run, job="7.1"))
                taken.append(run.record_file.read_bytes())

    listener = Overtaken()
    assert run_cell(run, config, "command", listener, job="7.0") == State.RUNNING  # of the second copy
    assert len(listener.steps) < STEPS and run.record_file.read_bytes() == taken[1] and taken[0].holds()
    assert not run.weights_file.exists()
