"""What the panel of a row tells: the config against a baseline, curves, logs, intervals."""

import json

import pytest

from reports.curves import MOST_POINTS, log_tail, read_curve
from reports.grids import load_grid
from reports.page import json_block
from reports.records import load_record
from reports.run_details import baseline_of, config_difference, run_details
from reports.tables import result_table
from tests.reports.sweep import EVIL, record, write_run

GRID = "p2m_sinkhorn_iterations"


@pytest.fixture(scope="module")
def details(ablation):
    grid = load_grid(ablation, GRID)
    return run_details(grid, result_table(grid), {r.run_id: read_curve(r) for r in grid.records})


def test_the_baseline_is_the_run_closest_to_most():
    configs = {"a": {"x": "1", "y": "1"}, "b": {"x": "2", "y": "1"}, "c": {"x": "1", "y": "3"}, "d": {}}
    assert baseline_of(configs) == "a"
    assert baseline_of({"d": {}}) == "" and baseline_of({}) == ""


def test_config_differences():
    assert config_difference({"x": "1", "y": "1", "z": "0"}, {"x": "1", "y": "2", "w": "3"}) == [
        ("y", "1", "2"), ("z", "0", "–"), ("w", "–", "3")
    ]  # fmt: skip


def test_a_run_differs_in_its_axis_and_not_in_its_seed(details):
    assert details["baseline"] == "point2mask, P1, method.iterations=40, seed 0"
    assert details["runs"][f"{GRID}-80-s2"]["difference"] == [("method.iterations", "40", "80")]
    assert details["runs"][f"{GRID}-40-s1"]["difference"] == []


def test_rows_have_their_runs_intervals_and_verdicts(details):
    row = details["rows"][2]
    assert row["name"] == "point2mask, P1, method.iterations=80"
    assert row["runs"] == [f"{GRID}-80-s{seed}" for seed in range(3)]
    lines = {line[0]: line[1:] for line in row["numbers"]}
    assert lines["PQ"][3:] == ("53.8", "above") and lines["PQ"][2] == ""  # no sums of PQ per image
    mean, over_seeds, over_images = lines["label IoU train"][:3]
    for interval in (over_seeds, over_images):
        low, high = map(float, interval.split(" to "))
        assert low <= float(mean) <= high
    assert over_seeds != over_images


def test_one_seed_has_no_interval_over_seeds(tmp_path):
    write_run(tmp_path, record("a", "psps", 0))
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "grid.json").write_text('{"runs": ["a"]}')
    grid = load_grid(tmp_path, "g")
    (row,) = run_details(grid, result_table(grid), {})["rows"]
    assert all(line[2] == "" for line in row["numbers"])


def test_commands_and_logs(details):
    run = details["runs"][f"{GRID}-80-s0"]
    assert run["command"] == f"python -m benchmark.run grid={GRID} method.iterations=80 'seeds=[0]'"
    assert run["log"] == [f"line {i} of {GRID}-80-s0" for i in range(22, 30)]


def test_a_failed_run_has_the_log_of_its_failure(results):
    assert log_tail(load_record(results, "p2m-s1")) == ["step 5", "<b>loss nan</b>"]
    assert log_tail(load_record(results, "fdd-s0")) == []


def test_curves_are_sums_by_group_and_a_half_written_line_is_not_read(ablation):
    curve = read_curve(load_record(ablation, f"{GRID}-80-s1"))
    assert curve.steps == list(range(10, 210, 10)) and set(curve.series) == {"loss", "labeler", "head"}
    assert curve.series["loss"][0] == 1.9 and curve.series["head"][1] == 1.2


def test_long_curves_are_thinned_and_odd_values_left_out(tmp_path):
    folder = write_run(tmp_path, record("a", "psps", 0))
    lines = [{"step": i, "loss": float(i), "x/y": "text", "x/z": 1.0 if i % 2 else float("nan")} for i in range(1, 1001)]
    (folder / "metrics.jsonl").write_text("\n".join(["[1]", '{"loss": 3}', *map(json.dumps, lines)]))
    curve = read_curve(load_record(tmp_path, "a"))
    assert 50 <= len(curve.steps) <= MOST_POINTS and curve.steps[-1] > 980
    assert curve.series["loss"] == [float(step) for step in curve.steps]


def test_json_inside_a_page_cannot_end_its_element():
    text = json_block({"log": [EVIL, "</script><!--"]})
    assert "<" not in text and json.loads(text)["log"][0] == EVIL
