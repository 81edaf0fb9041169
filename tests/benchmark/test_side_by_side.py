"""Runs side by side, each in a process of its own: the same results, one Ctrl-C for all, and a killed process is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
import torch

from benchmark.local import _gpu
from benchmark.run import main
from benchmark.runs import Run, State
from benchmark.worker import _told, run_in_process
from tests.benchmark.tiny_runs import ROOT, command, environment, grid_words, runs_in, tiny_config

TWO = ("method=nearest_point", "dataset.points.count=1,2", "head=none", "report=false")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_side_by_side_gives_what_one_after_the_other_gives(tmp_path):
    assert main(grid_words(tmp_path / "one", *TWO)) == 0
    assert main(grid_words(tmp_path / "two", *TWO, "jobs=2")) == 0
    one, two = runs_in(tmp_path / "one"), runs_in(tmp_path / "two")
    assert len(one) == 2 and one.keys() == two.keys()
    assert {name: record["metrics"] for name, record in one.items()} == {name: r["metrics"] for name, r in two.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "KeyboardInterrupt"), (signal.SIGUSR2, "Preempted")])
def test_a_stopped_command_stops_every_run_and_each_records_it(tmp_path, number, reason):
    """SIGUSR2 announces the end: each run saves a checkpoint first, of a step at which none was due."""
    words = grid_words(
        tmp_path, "method=full_masks,semantics_nearest", "jobs=2", "schedule.steps=100000", "report=false",
        "schedule.checkpoint_every=100000",
    )
    process = subprocess.Popen(command(words), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        # both have done a step: of a run that has done none there is nothing to save
        wait_for(lambda: sum(path.stat().st_size > 0 for path in tmp_path.glob("runs/*/metrics.jsonl")) == 2, process)
        process.send_signal(number)  # Ctrl-C takes the same way, but a background job of a shell does not hear it
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1 and "the same command goes on" in out.lower()
    records = runs_in(tmp_path).values()
    assert [(record["state"], record["reason"]["class"]) for record in records] == [("cancelled", reason)] * 2
    assert len(list(tmp_path.glob("runs/*/checkpoints/step_*/manifest.json"))) == (2 if number == signal.SIGUSR2 else 0)


@pytest.mark.slow
def test_a_killed_process_is_a_failed_run_with_its_status(tmp_path):
    config = tiny_config(tmp_path, "method=full_masks", "schedule.steps=100000")
    run = Run(tmp_path, "full_masks-killed")

    def kill(stage, done, total, line):
        os.kill(run.read()["owner"]["pid"], signal.SIGKILL)

    assert run_in_process(run, config, "again", kill, print) == State.FAILED
    reason = run.read()["reason"]
    assert reason["class"] == "WorkerDied" and "status -9" in reason["message"] and reason["command"] == "again"


def test_each_place_has_a_gpu_of_its_own_as_far_as_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert [_gpu(place) for place in range(3)] == ["3", "GPU-5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _gpu(0) is None


@pytest.mark.parametrize("line", ["", "a warning", "3", '{"a": 1}', '["training", 1, 2]', '["training", "x", 2, ""]'])
def test_other_lines_are_no_progress(line):
    assert _told(line) is None
    assert _told('["training", 3, 10, "loss 1.0"]') == ("training", 3, 10, "loss 1.0")
