"""What is committed is what this code plans: a clone shows the table of quickstart without training anything."""

from __future__ import annotations

from pathlib import Path

from benchmark.grid import load_grid
from benchmark.plan import plan
from benchmark.request import read_request
from benchmark.runs import Run, State

RESULTS = Path(__file__).resolve().parents[1] / "results"


def test_a_clone_finds_the_runs_of_quickstart_done(tmp_path):
    """Scenes are drawn and points are chosen anew here: one pixel that another processor rounds to the other side of an
    outline makes other points, and other runs."""
    planned = plan(load_grid("quickstart"), read_request(["grid=quickstart", "seeds=[0,1,2]", f"results_dir={tmp_path}"]))
    assert len(planned) == 33
    assert [run.run_id for _, run in planned if Run(RESULTS, run.run_id).state != State.DONE] == []
