"""Real trainings as jobs: equal numbers to those of the local launcher, interrupted or not, and a run on two nodes."""

from __future__ import annotations

import threading

import pandas
import pytest

from benchmark.run import main
from benchmark.runs import Run
from slurm.launcher import SlurmLauncher
from slurm.queue import Queue, place_in
from slurm.queue import run as ask
from tests.benchmark.tiny_runs import ROOT, grid_words, runs_in
from tests.slurm.conftest import wait_until

pytestmark = pytest.mark.slow

SLURM = ("launcher=slurm", "slurm=local_cluster")
LONG = 30
"""Steps, of which there are enough to stop a run in the middle of them."""


@pytest.fixture(autouse=True)
def surroundings(cluster, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(SlurmLauncher, "poll_seconds", (0.5, 1.0))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of both tests: kernels are compiled once for a copy of the code, which lies there."""
    return tmp_path_factory.mktemp("real") / "slurm"


def warn_in_the_middle(results, method):
    """Tell a run's job that its time is over, as soon as it has trained a little."""

    def found():
        return [path for path in results.glob(f"runs/{method}-*/metrics.jsonl") if len(path.read_text().splitlines()) > 5]

    wait_until(found, f"for {method} to train")
    run = Run(results, found()[0].parent.name)
    ask("scancel", "--signal=USR2", Queue().job(place_in(run.read())).number)


def test_a_grid_on_slurm_gives_the_table_of_the_local_launcher(tmp_path, results, capsys):
    """One of its runs is told in the middle that its time is over, and goes on as another job."""
    words = ("method=nearest_point,psps", f"schedule.steps={LONG}", "schedule.checkpoint_every=20")
    assert main(grid_words(tmp_path / "local", *words)) == 0
    thread = threading.Thread(target=warn_in_the_middle, args=(results, "psps"))
    thread.start()
    status = main(grid_words(results, *words, *SLURM))
    thread.join()
    assert status == 0, capsys.readouterr().out
    one, other = runs_in(tmp_path / "local"), runs_in(results)
    assert one.keys() == other.keys() and len(one) == 2
    for name, record in one.items():
        assert other[name]["metrics"] == record["metrics"]
        assert other[name]["provenance"]["revision"] == record["provenance"]["revision"]
    (interrupted,) = [Run(results, name) for name in other if name.startswith("psps")]
    assert "announced the end after step" in interrupted.log_file.read_text()
    unbroken = Run(tmp_path / "local", interrupted.run_id)
    assert interrupted.metrics_file.read_text() == unbroken.metrics_file.read_text()
    table, expected = (folder / "quickstart" / "report" / "table.csv" for folder in (results, tmp_path / "local"))
    assert measured(table) == measured(expected)


def measured(table):
    """A report's table without what a machine does differently each time: seconds and memory."""
    frame = pandas.read_csv(table).fillna("")
    kept = [name for name in frame.columns if not any(word in name for word in ("seconds", "share", "memory"))]
    assert "pq" in kept and "seeds" in kept
    return frame[kept].to_dict("records")


def test_a_run_of_two_processes_on_two_nodes(results, capsys):
    words = grid_words(results, "method=psps", "devices=2", "report=false")
    assert main([*words, *SLURM, "slurm.processes_per_node=1", "plan=true"]) == 0
    assert "2 nodes × 1 process" in capsys.readouterr().out
    status = main([*words, *SLURM, "slurm.processes_per_node=1"])
    assert status == 0, capsys.readouterr().out
    (record,) = [record for record in runs_in(results).values() if record["config"]["devices"] == 2]
    assert record["metrics"]["val"] is not None and record["timings"]["steps"] == 10
    logs = sorted((results / record["submission"]["folder"]).glob("*_log.out"))
    assert [log.name.split("_")[1] for log in logs] == ["0", "1"]  # one of each process
    assert "local_rank=0(1), node=1(2), global_rank=1(2)" in logs[1].read_text()
