"""A folder of images and points through the ordinary runner: trained, recorded, reported, and nothing measured."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmark.execute import execute
from benchmark.run import main
from benchmark.runs import Run, State
from tests.benchmark.points_folders import clicked_rows, folder_config, write_points_folder
from tests.benchmark.tiny_runs import SHORT, Interrupted, only_run, write_photographs


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def words(folder, points, results, *more):
    data = ["dataset=points_folder", f"dataset.images={folder}", f"dataset.points={points}"]
    return ["grid=points_folder", "scale=demo", *data, *SHORT, f"results_dir={results}", *more]


def test_the_ordinary_runner_trains_and_measures_nothing(tmp_path):
    folder, points = write_points_folder(tmp_path / "data")
    assert main(words(folder, points, tmp_path / "results", "method=psps", "schedule.steps=3")) == 0
    run = only_run(tmp_path / "results")
    record = run.read()
    assert record["state"] == "done" and record["timings"]["steps"] == 3 and run.weights_file.exists()
    assert record["metrics"] == {"labels_train": None, "labels_val": None, "val": None}
    assert record["supervision"] == {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}
    assert {c["name"] for c in record["categories"]} == {row[3] for row in clicked_rows()}
    report = tmp_path / "results" / "points_folder" / "report"
    table = (report / "table.md").read_text()
    assert "psps" in table and "| points " in table
    heading = next(line for line in table.splitlines() if line.startswith("| method"))
    assert "PQ" not in heading and "IoU" not in heading  # no column for what was measured nowhere
    assert "PQ" in table.split("## Notes")[1]  # which the notes say
    assert "boxes: 0, masks: 0" in (report / "index.html").read_text()
    weights = run.weights_file.read_bytes()
    assert main(words(folder, points, tmp_path / "results", "method=psps", "schedule.steps=3")) == 0
    assert run.weights_file.read_bytes() == weights  # nothing to do again


def test_validation_images_with_masks_are_measured(tmp_path):
    folder, points = write_points_folder(tmp_path / "data")
    write_photographs(tmp_path / "coco")
    val = tmp_path / "coco" / "panoptic_val.json"
    more = (f"dataset.categories={val}", f"dataset.val.json={val}", f"dataset.val.images={tmp_path}/coco/val")
    run = Run(tmp_path / "results", "run")
    config = folder_config(folder, points, tmp_path / "results", "method=nearest_point", "head=none", *more)
    assert execute(run, config, "command", Interrupted()) == State.DONE
    metrics = run.read()["metrics"]
    assert metrics["labels_train"] is None and metrics["val"] is None
    assert len(metrics["labels_val"]["quality"]["images"]) == 2


def test_a_method_on_masks_is_a_row_with_its_reason(tmp_path):
    folder, points = write_points_folder(tmp_path / "data")
    more = ("method=nearest_point,full_masks", "head=none", "schedule.steps=2", "report=false")
    assert main(words(folder, points, tmp_path / "results", *more)) == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("runs/*/run.json")]
    states = {record["method"]: record["state"] for record in records}
    assert states == {"nearest_point": "done", "full_masks": "failed"}
    (reason,) = [record["reason"]["message"] for record in records if record["method"] == "full_masks"]
    assert "Method 'full_masks' reads masks" in reason and "has points only" in reason


def test_an_image_that_is_cut_off_ends_the_run_with_its_name(tmp_path):
    """Its head has a size, so only training sees that its pixels are not there."""
    folder, points = write_points_folder(tmp_path / "data")
    cut = folder / "train_000002.png"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    run = Run(tmp_path / "results", "run")
    config = folder_config(folder, points, tmp_path / "results", "method=semantics_nearest", "head=none")
    assert execute(run, config, "command", Interrupted()) == State.FAILED
    reason = run.read()["reason"]
    assert reason["class"] == "DataError" and f"{cut} cannot be decoded" in reason["message"]
    assert not run.weights_file.exists()


def test_a_command_that_cannot_work_says_why(tmp_path, capsys):
    folder, points = write_points_folder(tmp_path / "data")
    (folder / "train_000000.png").write_bytes(b"")
    assert main(words(folder, points, tmp_path / "results", "method=psps")) == 2
    assert "train_000000.png cannot be decoded" in capsys.readouterr().out
    assert not list((tmp_path / "results").glob("runs/*"))


def test_a_semantic_method_trains_on_points_alone(tmp_path):
    folder, points = write_points_folder(tmp_path / "data")
    run = Run(tmp_path / "results", "run")
    semantic = ("method=partial_cross_entropy", "model=deeplab_tiny", "head=none", "schedule.steps=3")
    config = folder_config(folder, points, tmp_path / "results", *semantic)
    assert execute(run, config, "command", Interrupted()) == State.DONE
    assert run.read()["metrics"]["val"] is None
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run.weights_file).values() if tensor.is_floating_point())
