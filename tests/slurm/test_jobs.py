"""Runs as jobs of a real SLURM: what becomes of them when something happens, and what the run folders say then."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

import slurm.watch
from benchmark import cancel as cancel_command
from benchmark import status as status_command
from benchmark.runs import Run, State
from slurm.queue import Queue, place_in
from slurm.queue import run as ask
from tests.slurm.conftest import PATIENCE, SCRIPT, wait_until
from tests.slurm.fake_grid import GRID, cell, hurry, launch, launch_elsewhere, let_go, numbers, starts

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def limits(cluster, tmp_path_factory):
    """A cluster, and two runs that come to their time limits while the other tests go on: SLURM's smallest is a minute.

    Yields their folder, and the launcher of each.
    """
    hurry()
    folder = tmp_path_factory.mktemp("limits")
    words = ("slurm.time=0:01:00", "slurm.signal_seconds=50")
    long, endless = cell("long", steps=300, seconds=0.1), cell("endless", steps=10**6, seconds=0.1)
    launchers = {
        "long": launch_elsewhere(folder / "long", [long], *words),
        "endless": launch_elsewhere(folder / "endless", [endless], *words, "slurm.resumes=0"),
    }
    yield folder, launchers
    for process in launchers.values():
        process.kill()
        process.wait()


def job_of(run):
    return Queue().job(place_in(run.read()))


def runs_in(folder, *names):
    return [Run(folder, name) for name in names]


def wait_for_start(run, times=1):
    wait_until(lambda: len(starts(run)) >= times, f"for start {times} of {run.run_id}")


def ended(process):
    """The output of a launcher that ends by itself, and its status."""
    out, _ = process.communicate(timeout=PATIENCE)
    return out, process.returncode


@pytest.fixture
def launched():
    """Launchers in processes of their own, which end with the test."""
    processes = []

    def start(*arguments, **request):
        processes.append(launch_elsewhere(*arguments, **request))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


# --- runs that end by themselves --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accidents(cluster, tmp_path_factory):
    """A grid of which three members have an accident, two at a time."""
    folder = tmp_path_factory.mktemp("accidents")
    cells = [cell(f"ok{i}", seconds=0.05) for i in range(3)]
    cells += [cell(kind, accident=kind) for kind in ("error", "memory", "kill")]
    not_done = launch(folder, cells, "slurm.array_parallelism=2")
    return folder, cells, not_done


def test_an_array_runs_what_nothing_happens_to(accidents):
    folder, _, not_done = accidents
    assert not_done == 3
    for run in runs_in(folder, "ok0", "ok1", "ok2"):
        assert run.state == State.DONE and run.read()["metrics"]["numbers"] == numbers() and len(starts(run)) == 1


def test_no_more_members_run_at_once_than_the_profile_allows(accidents):
    folder, _, _ = accidents
    spans = [(starts(run)[0]["at"], run.read()["ended_at"]) for run in runs_in(folder, "ok0", "ok1", "ok2")]
    for moment, _ in spans:
        assert sum(begin <= moment <= end for begin, end in spans) <= 2


def test_an_exception_fails_its_run_with_the_reason(accidents):
    (run,) = runs_in(accidents[0], "error")
    reason = run.read()["reason"]
    assert run.state == State.FAILED
    assert (reason["class"], reason["message"]) == ("RuntimeError", "the labeler lost its thread")
    assert any("Traceback" in line for line in reason["log_tail"])
    assert "launcher=slurm" in reason["command"] and "retry=failed" in reason["command"]


def test_a_full_memory_is_a_state_of_its_own(accidents):
    assert runs_in(accidents[0], "memory")[0].state == State.OUT_OF_MEMORY


def test_a_killed_job_is_noticed_and_said(accidents):
    (run,) = runs_in(accidents[0], "kill")
    reason = run.read()["reason"]
    assert run.state == State.FAILED and reason["class"] == "FAILED" and "SLURM ended its job" in reason["message"]
    assert any("Killed" in line for line in reason["log_tail"])


def test_jobs_run_the_frozen_code(accidents):
    folder, _, _ = accidents
    code = runs_in(folder, "ok0")[0].read()["code"]
    assert code.startswith(str(folder / GRID / "slurm" / "code"))


def test_failures_are_repeated_on_request_only_and_go_on_from_their_checkpoints(accidents):
    folder, cells, _ = accidents
    mended = [{**one, "config": {**one["config"], "fake": {**one["config"]["fake"], "accident": None}}} for one in cells]
    before = sorted((folder / GRID / "slurm").iterdir())
    assert launch(folder, mended) == 0
    assert sorted((folder / GRID / "slurm").iterdir()) == before  # nothing to do, nothing done
    assert launch(folder, mended, retry="failed") == 0
    for run in runs_in(folder, "error", "memory", "kill"):
        assert run.read()["metrics"]["numbers"] == numbers() and run.read()["reason"] is None
        assert [start["from"] > 0 for start in starts(run)] == [False, True]
    assert all(len(starts(run)) == 1 for run in runs_in(folder, "ok0", "ok1", "ok2"))


def test_what_slurm_refuses_is_one_sentence(tmp_path, capsys):
    assert launch(tmp_path, [cell("a")], "slurm.gpus=9") == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "does not take" in line)
    assert "Requested node configuration is not available" in line and "9 GPUs" in line
    (run,) = runs_in(tmp_path, "a")
    assert run.state == State.PLANNED and "Requested node configuration" in run.read()["reason"]["message"]
    assert launch(tmp_path, [cell("a")]) == 0  # nothing has to be cleared away


def test_with_fail_fast_no_run_begins_after_one_failed(tmp_path):
    cells = [cell("bad", accident="error"), cell("x"), cell("y")]
    assert launch(tmp_path, cells, "slurm.array_parallelism=1", fail_fast=True) == 3
    bad, *others = runs_in(tmp_path, "bad", "x", "y")
    assert bad.state == State.FAILED
    for run in others:
        assert run.state == State.CANCELLED and "bad" in run.read()["reason"]["message"] and not starts(run)


def test_a_run_begins_after_the_one_that_it_starts_from(tmp_path):
    source = cell("source", seconds=0.1)
    follower = cell("follower", init_from="source")
    assert launch(tmp_path, [follower, source]) == 1  # the pretended run leaves no weights to start from
    run, first = runs_in(tmp_path, "follower", "source")
    assert first.state == State.DONE
    assert run.state == State.SKIPPED and "weights of source" in run.read()["reason"]["message"]


# --- time limits, signals, requeues, lost nodes -----------------------------------------------------------------------


def test_at_its_time_limit_a_run_is_queued_again_and_ends_like_an_unbroken_one(limits):
    folder, launchers = limits
    out, status = ended(launchers["long"])
    assert status == 0, out
    (run,) = runs_in(folder / "long", "long")
    assert run.read()["metrics"]["numbers"] == numbers(300)
    assert len(starts(run)) > 1 and starts(run)[1]["from"] > 5


def test_a_run_that_had_its_share_of_time_limits_says_so(limits):
    folder, launchers = limits
    out, status = ended(launchers["endless"])
    assert status == 1, out
    (run,) = runs_in(folder / "endless", "endless")
    assert run.state == State.TIMEOUT and "as often as its profile allows" in run.read()["reason"]["message"]


def test_requeued_and_cancelled_by_hand(tmp_path, launched):
    """Bare ``scontrol requeue`` and ``scancel``, of which the launcher and the runs are told nothing."""
    cells = [cell("requeued", waits=True), cell("cancelled", waits=True), cell("never", waits=True)]
    requeued, cancelled, never = runs_in(tmp_path, "requeued", "cancelled", "never")
    launcher = launched(tmp_path, cells, "slurm.array_parallelism=2")
    wait_for_start(requeued)
    wait_for_start(cancelled)
    ask("scancel", job_of(never).number)
    ask("scontrol", "requeue", job_of(requeued).number)
    ask("scancel", job_of(cancelled).number)
    wait_for_start(requeued, 2)
    let_go(requeued)
    out, status = ended(launcher)
    assert status == 2, out
    assert requeued.read()["metrics"]["numbers"] == numbers() and [s["from"] > 0 for s in starts(requeued)] == [False, True]
    assert cancelled.state == State.CANCELLED and "CANCELLED" in cancelled.read()["reason"]["message"]
    assert never.state == State.CANCELLED and not starts(never)


def test_a_lost_node_gives_its_run_to_another_and_a_stale_copy_writes_nothing(tmp_path, launched, cluster):
    """Only the node's daemon dies: SLURM starts the job elsewhere while its first copy still works."""
    (run,) = runs_in(tmp_path, "a")
    launcher = launched(tmp_path, [cell("a", waits=True)])
    wait_for_start(run)
    node = job_of(run).nodes
    try:
        cluster.lose(node)
        wait_for_start(run, 2)
        first, second = starts(run)
        assert first["pid"] != second["pid"] and second["from"] > 0
        wait_until(lambda: not os.path.exists(f"/proc/{first['pid']}"), "for the stale copy to leave")
        assert run.state == State.RUNNING and run.read()["owner"]["pid"] == second["pid"]
        let_go(run)
        out, status = ended(launcher)
    finally:
        cluster.bring_back(node)
    assert status == 0, out
    assert run.read()["metrics"]["numbers"] == numbers()
    wait_until(cluster.idle, "for the node")


def test_without_accounting_ends_are_noticed_as_well(tmp_path, cluster_without_accounting, launched):
    cells = [cell("ok"), cell("kill", accident="kill"), cell("held", waits=True), cell("never")]
    launcher = launched(tmp_path, cells, "slurm.array_parallelism=1")
    ok, kill, held, never = runs_in(tmp_path, "ok", "kill", "held", "never")
    wait_for_start(held)
    ask("scancel", job_of(never).number)
    ask("scancel", job_of(held).number)
    out, status = ended(launcher)
    assert status == 3, out
    states = [run.state for run in (ok, kill, held, never)]
    assert states == [State.DONE, State.FAILED, State.CANCELLED, State.CANCELLED]


# --- launchers, status, cancel ----------------------------------------------------------------------------------------


def test_two_launchers_at_once_run_every_cell_once(tmp_path, launched):
    cells = [cell(f"c{i}", seconds=0.1) for i in range(5)]
    both = [launched(tmp_path, cells), launched(tmp_path, cells)]
    with ThreadPoolExecutor(2) as pool:
        for out, status in pool.map(ended, both):
            assert status == 0, out
    for run in runs_in(tmp_path, *(f"c{i}" for i in range(5))):
        assert run.read()["metrics"]["numbers"] == numbers() and len(starts(run)) == 1


def standing(folder, name):
    (one,) = [one for one in status_command.runs_of(folder, GRID) if one.run.run_id == name]
    return status_command.standings([one], Queue())[0]


def test_a_launcher_that_was_killed_is_followed_by_the_same_command(tmp_path, launched):
    cells = [cell(f"c{i}", waits=True) for i in range(3)]
    runs = runs_in(tmp_path, "c0", "c1", "c2")
    first = launched(tmp_path, cells, "slurm.array_parallelism=2")
    wait_for_start(runs[0])
    wait_for_start(runs[1])
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: standing(tmp_path, "c0").done, "for a step")
    running, waiting = standing(tmp_path, "c0"), standing(tmp_path, "c2")
    assert (running.state, running.open, waiting.state) == ("running", True, "submitted") and "job" in running.where
    assert running.done.endswith("of 12") and waiting.note == "JobArrayTaskLimit"
    submissions = sorted((tmp_path / GRID / "slurm").iterdir())
    second = launched(tmp_path, cells, "slurm.array_parallelism=2")
    for run in runs:
        let_go(run)
    out, status = ended(second)
    assert status == 0 and "submitted" not in out, out
    assert sorted((tmp_path / GRID / "slurm").iterdir()) == submissions
    assert all(len(starts(run)) == 1 and run.read()["metrics"]["numbers"] == numbers() for run in runs)


def test_what_happens_while_no_launcher_looks_is_said_by_status_and_recorded_by_the_next_command(tmp_path, launched):
    cells = [cell("a", waits=True, accident="kill")]
    (run,) = runs_in(tmp_path, "a")
    launcher = launched(tmp_path, cells)
    wait_for_start(run)
    launcher.kill()
    let_go(run)
    wait_until(lambda: job_of(run).ended_for(slurm.watch.GRACE_SECONDS), "for the job to end")
    assert run.state == State.RUNNING  # nobody was left to write
    assert standing(tmp_path, "a").state == "failed" and "SLURM ended its job" in standing(tmp_path, "a").note
    assert launch(tmp_path, cells) == 0  # nothing to submit
    assert run.state == State.FAILED and len(starts(run)) == 1


def test_a_run_that_is_forced_takes_the_place_of_its_running_job(tmp_path, launched):
    (run,) = runs_in(tmp_path, "a")
    first = launched(tmp_path, [cell("a", waits=True)])
    wait_for_start(run)
    (begun,) = starts(run)
    second = launched(tmp_path, [cell("a")], force="a")
    assert ended(second)[1] == 0 and ended(first)[1] == 0
    (anew,) = starts(run)
    assert run.state == State.DONE and anew["from"] == 0 and anew["job"] != begun["job"]
    assert run.read()["metrics"]["numbers"] == numbers()


def test_a_failure_of_a_further_process_is_the_runs(tmp_path):
    """The first one waits for ever, as in a collective operation that the other never joins."""
    assert launch(tmp_path, [cell("a", devices=2, waits=True, accident="memory")]) == 1
    (run,) = runs_in(tmp_path, "a")
    reason = run.read()["reason"]
    assert run.state == State.OUT_OF_MEMORY and reason["message"] == "full (in process 1 of the run)"


def test_cancelling_a_grid_records_it_and_ends_its_jobs(tmp_path, launched, capsys):
    cells = [cell(f"c{i}", waits=True) for i in range(3)] + [cell("done")]
    runs = runs_in(tmp_path, "c0", "c1", "c2")
    launcher = launched(tmp_path, list(reversed(cells)), "slurm.array_parallelism=2")
    (done,) = runs_in(tmp_path, "done")
    wait_until(lambda: done.record_file.exists() and done.state == State.DONE, "for the first run")
    wait_for_start(runs[2])
    assert cancel_command.main([f"grid={GRID}", "run=c2", f"results_dir={tmp_path}"]) == 0
    assert "1 runs cancelled" in capsys.readouterr().out
    wait_for_start(runs[1])
    assert cancel_command.main([f"grid={GRID}", f"results_dir={tmp_path}"]) == 0
    assert "2 runs cancelled" in capsys.readouterr().out
    assert [run.state for run in runs] == [State.CANCELLED] * 3  # at once, whatever time the jobs take to end
    assert "benchmark.cancel" in runs[0].read()["reason"]["message"]
    out, status = ended(launcher)
    assert status == 3 and done.state == State.DONE, out
    submission = runs[0].read()["submission"]["name"]
    wait_until(lambda: ask("squeue", "-h", f"--name={submission}") == "", "for the jobs to end")
    assert [run.state for run in runs] == [State.CANCELLED] * 3


def test_status_prints_a_row_for_each_run(accidents, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    folder, _, _ = accidents
    assert status_command.main([f"grid={GRID}", f"results_dir={folder}", "watch=true"]) == 0  # nothing is left to wait for
    out = capsys.readouterr().out
    assert "grid fake: 6 runs" in out and all(name in out for name in ("ok0", "error", "memory", "kill"))


def test_a_cluster_can_be_started_once_only(cluster):
    environment = {**os.environ, **cluster.environment}
    up = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True)
    assert up.returncode == 1 and "is up already" in up.stderr
    env = subprocess.run([SCRIPT, "env"], env=environment, capture_output=True, text=True)
    assert env.stdout == f"export SLURM_CONF={cluster.conf}\n"
