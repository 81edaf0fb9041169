"""Reading grids and records: nothing that a run's folder lacks or holds breaks a report."""

import json

import numpy as np
import pytest

from reports.grids import grid_names, load_grid
from reports.measures import frame
from reports.records import load_record
from tests.reports.sweep import record, write_run


def test_members_of_a_grid_are_grids(results):
    content = (results / "demo" / "grid.json").read_text()
    (results / "whole" / "demo").mkdir(parents=True)
    (results / "whole" / "grid.json").write_text(content.replace('"grid": "demo"', '"grid": "whole"'))
    (results / "whole" / "demo" / "grid.json").write_text(content)
    assert grid_names(results) == ["demo", "whole", "whole/demo"]
    assert {cell.grid for cell in load_grid(results, "whole/demo").cells} == {"demo"}
    assert {cell.grid for cell in load_grid(results, "whole").cells} == {"whole"}


def test_cells_are_in_table_order_with_their_states(results):
    grid = load_grid(results, "demo")
    assert [(c.record.run_id, c.seed, c.record.state) for c in grid.cells] == [
        ("psps-s0", 0, "done"), ("psps-s1", 1, "done"), ("p2m-s0", 0, "done"), ("p2m-s1", 1, "diverged"),
        ("fdd-s0", 0, "planned"), ("agmm-s0", 0, "broken"),
    ]  # fmt: skip
    assert grid.title == "A demo & more"


def test_numbers_are_raw(results):
    data = frame(load_grid(results, "demo")).set_index("run_id")
    psps = data.loc["psps-s0"]
    assert psps.step_seconds == pytest.approx(0.2)
    assert psps.pseudo_labels_share == pytest.approx(0.25)
    assert 0.8 < psps.pq < 0.9 and psps.train_instances == 3
    assert psps.pq == pytest.approx((2 * psps.pq_th + psps.pq_st) / 3)
    assert data.loc[["p2m-s1", "fdd-s0", "agmm-s0"], ["pq", "step_seconds"]].isna().all(axis=None)
    assert data.pq.dtype == np.float64


def test_an_unread_run_says_why(results):
    missing, broken = load_record(results, "fdd-s0"), load_record(results, "agmm-s0")
    assert missing.reason.kind == "NoRecord" and "run the grid" in missing.reason.sentence
    assert "not valid JSON" in broken.reason.sentence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"state": "exploded"}, "exploded"),
        ({"metrics": {"val": {"panoptic": {"cat": {"iou": 1.0}}}}}, "'cat' lack"),
        ({"metrics": {"val": {"panoptic": [1, 2]}}}, "not a valid record"),
        ({"metrics": {"labels_train": {"images": {}}}}, "sums lack"),
        ({"metrics": "good"}, "not a valid record"),
        ({"timings": {"steps": "many"}}, "many"),
        ({"supervision": 3}, "not a valid record"),
    ],
)
def test_a_record_of_another_form_is_broken_not_fatal(tmp_path, changes, message):
    write_run(tmp_path, record("a", "psps", 0, **changes))
    loaded = load_record(tmp_path, "a")
    assert loaded.state == "broken" and message in loaded.reason.sentence


def test_a_record_of_another_run_is_broken(tmp_path):
    folder = write_run(tmp_path, record("a", "psps", 0))
    folder.rename(folder.with_name("b"))
    assert load_record(tmp_path, "b").state == "broken"


def test_a_run_id_never_leaves_the_runs_folder(results):
    assert load_record(results, "../demo").state == "broken"


def test_label_quality_may_be_stored_without_a_semantic_branch(tmp_path):
    content = record("a", "psps", 0)
    content["metrics"]["labels_train"] = content["metrics"]["labels_train"]["quality"]
    write_run(tmp_path, content)
    assert load_record(tmp_path, "a").labels_train.instances == 3


def test_without_a_head_the_semantic_branch_gives_the_mean_iou(tmp_path):
    content = record("a", "psps", 0)
    metrics = content["metrics"]
    semantic = {**metrics["val"]["semantic"], "source": "semantic branch"}
    metrics["labels_val"] = {"quality": metrics["labels_train"]["quality"], "semantic": semantic}
    metrics["val"] = None
    write_run(tmp_path, content)
    loaded = load_record(tmp_path, "a")
    assert loaded.panoptic is None and loaded.semantic_source == "semantic branch" and loaded.semantic.miou > 0.5


def test_a_grid_needs_its_file(results):
    with pytest.raises(FileNotFoundError, match=r"no grid 'other' in .* \(known: demo\)"):
        load_grid(results, "other")
    (results / "demo" / "grid.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match="is not a grid file"):
        load_grid(results, "demo")


def test_runs_without_a_cell_are_rows_too(results):
    path = results / "demo" / "grid.json"
    content = json.loads(path.read_text())
    content["cells"] = content["cells"][1:]
    path.write_text(json.dumps(content))
    cells = load_grid(results, "demo").cells
    assert cells[0].record.run_id == "psps-s0" and cells[0].axes == {} and cells[0].seed == 0
