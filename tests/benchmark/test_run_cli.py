"""The command line: what it refuses and how it says so, what runs, what does not run again, and what a failed run leaves."""

from __future__ import annotations

import json
import shlex
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import execute as execute_module
from benchmark.configs import names_in
from benchmark.data.coco import CocoPanoptic
from benchmark.data.points import draw_points
from benchmark.grid import load_grid
from benchmark.ownership import claim
from benchmark.plan import plan
from benchmark.request import command_for, read_request
from benchmark.run import main
from benchmark.runs import Run, State
from tests.benchmark.tiny_runs import SIDE, grid_words, only_run, photograph_words, runs_in, write_photographs


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """A wide terminal; and runs set the number of threads of this process."""
    monkeypatch.setenv("COLUMNS", "400")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quick(results, *words):
    """A cell that trains nothing: it is done in a fraction of a second."""
    return grid_words(results, "method=nearest_point", "head=none", "report=false", *words)


def refused(capsys, words):
    """The one line that a refused command line is answered with."""
    assert main(words) == 2
    out = capsys.readouterr().out
    assert out.startswith("error: ") and out.count("\n") == 1, out
    return out


def forbid_runs(monkeypatch):
    def nothing(run, *_):
        raise AssertionError(f"{run.run_id} was run")

    monkeypatch.setattr(execute_module, "execute", nothing)


def planned(words):
    request = read_request(words)
    return plan(load_grid(request.grid), request)


# --- words that are refused -------------------------------------------------------------------------------------------


def test_without_a_grid_the_known_ones_are_listed(capsys):
    line = refused(capsys, ["method=psps"])
    assert all(name in line for name in names_in("grid"))


def test_an_unknown_grid_is_answered_with_the_known_ones(capsys):
    line = refused(capsys, ["grid=quickstrat"])
    assert "'quickstrat'" in line and "did you mean 'quickstart'" in line and all(name in line for name in names_in("grid"))


@pytest.mark.parametrize("group", ["method", "head", "model", "scale", "dataset"])
def test_an_unknown_choice_is_answered_with_the_known_ones(tmp_path, capsys, group):
    line = refused(capsys, quick(tmp_path, f"{group}=nonesuch"))
    assert "'nonesuch'" in line and all(name in line for name in names_in(group))


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path, capsys):
    line = refused(capsys, quick(tmp_path, "schedule.stepps=3"))
    assert "'schedule.stepps'" in line and "did you mean 'schedule.steps'" in line and "input.short" in line


def test_a_key_that_only_one_method_has_is_refused_for_the_other(tmp_path, capsys):
    line = refused(capsys, grid_words(tmp_path, "method=psps,nearest_point", "method.lambda_edge=0,0.1"))
    assert "'method.lambda_edge'" in line


@pytest.mark.parametrize("word", ["plan=true,false", "grid=quickstart,mini_main", "seeds=true", "seeds=0.5", "seed=3"])
def test_words_of_the_command_itself_have_one_meaning(tmp_path, capsys, word):
    """Several values where one is needed; and a seed that the grid's seeds would overrule silently."""
    line = refused(capsys, [*quick(tmp_path), word])
    assert word.split("=")[0] in line


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("dataset.points.strategy=centre", "center_biased"), ("dataset.points.count=0", "points"),
        ("dataset.train.count=0", "scene"), ("dataset.size=8", "16 pixels"), ("dataset.kind=voc", "coco_panoptic"),
    ],
)
def test_a_value_that_no_data_can_be_made_from_is_one_sentence(tmp_path, capsys, word, part):
    assert part in refused(capsys, quick(tmp_path, word))


def test_an_unknown_run_to_force_is_answered_with_the_grids_runs(tmp_path, capsys):
    line = refused(capsys, quick(tmp_path, "force=psps-1"))
    assert "'psps-1'" in line and planned(quick(tmp_path))[0][1].run_id in line


def test_a_missing_data_folder_is_said_with_the_key_to_set(tmp_path, capsys):
    words = ["grid=mini_main", f"results_dir={tmp_path}", "method=nearest_point"]
    assert "dataset.root=FOLDER" in refused(capsys, words)
    line = refused(capsys, [*words, f"dataset.root={tmp_path / 'nowhere'}"])
    assert "dataset.root=FOLDER" in line and "nowhere" in line
    assert not (tmp_path / "runs").exists()


def test_help_says_the_words(capsys):
    assert main(["--help"]) == 0
    assert "retry=failed" in capsys.readouterr().out


# --- plan and run -----------------------------------------------------------------------------------------------------


def row_of(out, run_id):
    (line,) = [line for line in out.splitlines() if run_id in line]
    return line


def test_a_plan_shows_states_and_runs_nothing(tmp_path, capsys, monkeypatch):
    main(quick(tmp_path))
    words = grid_words(tmp_path, "method=nearest_point,psps", "head=none", "plan=true")
    done, missing = (run.run_id for _, run in planned(words))
    before = sorted(path.name for path in (tmp_path / "runs").iterdir())
    forbid_runs(monkeypatch)
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "done" in row_of(out, done) and row_of(out, done).split()[-2] == "no"
    assert "planned" in row_of(out, missing) and row_of(out, missing).split()[-2] == "missing"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == before == [done]


def test_the_same_command_again_runs_nothing(tmp_path, capsys, monkeypatch):
    words = quick(tmp_path)
    assert main(words) == 0
    record = only_run(tmp_path).record_file.read_bytes()
    forbid_runs(monkeypatch)
    assert main(words) == 0
    assert only_run(tmp_path).record_file.read_bytes() == record


def test_another_grid_with_the_same_cell_shares_its_run(tmp_path, monkeypatch):
    root = tmp_path / "data"
    write_photographs(root)
    words = photograph_words(root, tmp_path / "results", "method=nearest_point", "head=none", "report=false")
    assert main(words) == 0
    forbid_runs(monkeypatch)
    other = ["grid=mini_main", "scale=demo", *words[1:], "dataset.points.count=1"]
    assert main(other) == 0
    (run_id,) = runs_in(tmp_path / "results")
    for grid in ("quickstart", "mini_main"):
        assert json.loads((tmp_path / "results" / grid / "grid.json").read_text())["runs"] == [run_id]


@pytest.mark.parametrize("seeds", ["seeds=[0,1]", "seeds=0,1"])
def test_seeds_make_runs_with_points_of_their_own(tmp_path, seeds):
    assert main(quick(tmp_path, seeds)) == 0
    records = runs_in(tmp_path).values()
    assert sorted((r["seed"], r["config"]["seed"], r["provenance"]["seeds"]["points"]) for r in records) == [
        (0, 0, 0), (1, 1, 1)
    ]
    assert len({r["provenance"]["fingerprints"]["points"] for r in records}) == 2
    assert len({r["provenance"]["fingerprints"]["data"] for r in records}) == 1
    content = json.loads((tmp_path / "quickstart" / "grid.json").read_text())
    assert [cell["seed"] for cell in content["cells"]] == [0, 1]


def test_a_record_says_what_was_run_and_what_was_read(tmp_path):
    assert main(grid_words(tmp_path, "method=semantics_nearest", "dataset.points.count=3", "report=false")) == 0
    record = only_run(tmp_path).read()
    assert record["state"] == "done" and record["reason"] is None and record["owner"] is None
    assert record["supervision"] == {"kind": "points", "points_per_target": 3, "boxes": 0, "masks": 0}
    assert record["timings"]["steps"] == 10
    assert min(record["parameters"].values()) > 0 and record["peak_memory_mb"] > 0 and record["wall_seconds"] > 0
    assert record["provenance"]["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(record["metrics"]) == {"labels_train", "labels_val", "val"}
    assert record["config"]["schedule"]["steps"] == 10


def test_force_makes_a_finished_run_again(tmp_path):
    words = quick(tmp_path)
    main(words)
    run = only_run(tmp_path)
    metrics = run.read()["metrics"]
    (run.folder / "left_over").touch()
    assert main([*words, f"force={run.run_id}"]) == 0
    assert not (run.folder / "left_over").exists()
    assert run.read()["metrics"] == metrics


def test_force_of_a_run_that_never_started_starts_it(tmp_path):
    words = quick(tmp_path)
    ((_, run),) = planned(words)
    assert main([*words, f"force={run.run_id}"]) == 0
    assert run.state == State.DONE


def test_a_broken_record_is_shown_and_its_run_made_again(tmp_path, capsys):
    words = grid_words(tmp_path, "method=semantics_nearest", "head=none", "schedule.steps=4", "report=false")
    main(words)
    run = only_run(tmp_path)
    metrics = run.read()["metrics"]
    run.record_file.write_text(run.record_file.read_text()[:200])
    capsys.readouterr()
    assert main([*words, "plan=true"]) == 0
    assert "unreadable" in row_of(capsys.readouterr().out, run.run_id)
    assert main(words) == 0
    assert run.state == State.DONE and run.read()["metrics"] == metrics


def test_a_report_has_a_row_for_every_run(tmp_path, capsys):
    words = grid_words(tmp_path, "method=nearest_point,oracle_nearest,oracle_geodesic", "head=none")
    assert main(words) == 0
    out = capsys.readouterr().out
    report = tmp_path / "quickstart" / "report"
    table, csv = (report / "table.md").read_text(), (report / "table.csv").read_text()
    page = (report / "index.html").read_text()
    for label in ("nearest_point", "oracle_nearest", "oracle_geodesic"):
        assert any(line.startswith(f"| {label} ") for line in table.splitlines())
        assert any(line.startswith(f"| {label} ") for line in out.splitlines())
        assert label in csv and label in page
    assert list((report / "gallery").glob("*.png"))
    assert str(report / "index.html") in out
    assert {record["metrics"]["val"] for record in runs_in(tmp_path).values()} == {None}  # no head, no prediction


# --- runs that fail ---------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def broken_image(tmp_path):
    """Two cells on a folder with a truncated JPEG: one trains on all images, the other looks at the first one alone."""
    root = tmp_path / "data"
    write_photographs(root)
    whole = (root / "train" / "train_2.jpg").read_bytes()
    truncate(root / "train" / "train_2.jpg")
    words = photograph_words(
        root, tmp_path / "results", "method=semantics_nearest,nearest_point", "head=none", "evaluation.label_images=1",
        "schedule.steps=4",
    )
    return tmp_path / "results", words, root / "train" / "train_2.jpg", whole


def by_method(results):
    return {record["method"]: record for record in runs_in(results).values()}


def test_a_broken_image_fails_its_run_and_the_others_go_on(broken_image, capsys):
    results, words, file, _ = broken_image
    assert main(words) == 1
    records = by_method(results)
    assert records["nearest_point"]["state"] == "done"
    assert records["semantics_nearest"]["state"] == "failed"
    reason = records["semantics_nearest"]["reason"]
    assert reason["class"] == "DataError"
    assert str(file) in reason["message"] and "truncated" in reason["message"] and "\n" not in reason["message"]
    assert any(str(file) in line for line in reason["log_tail"])
    out = capsys.readouterr().out
    assert str(file) in out
    table = (results / "quickstart" / "report" / "table.md").read_text()
    assert "failed" in table and "train_2.jpg" in table


def test_a_failed_run_says_the_command_that_repeats_exactly_it(broken_image):
    results, words, file, whole = broken_image
    main([*words, "report=false"])
    record = by_method(results)["semantics_nearest"]
    python, dash_m, module, *repeat = shlex.split(record["reason"]["command"])
    assert (python, dash_m, module) == ("python", "-m", "benchmark.run")
    ((_, run),) = planned(repeat)
    assert run.run_id == record["run_id"]
    file.write_bytes(whole)
    assert main([*repeat, "report=false"]) == 0  # it repeats the run, rather than finding it failed already
    assert run.state == State.DONE and run.read()["reason"] is None


def test_a_failed_run_waits_for_retry(broken_image, capsys):
    results, words, file, whole = broken_image
    words = [*words, "report=false"]
    main(words)
    file.write_bytes(whole)
    before = by_method(results)
    capsys.readouterr()
    assert main(words) == 1
    assert "1 of 2 cells need nothing, 1 failed before (retry=failed repeats them), 0 to run" in capsys.readouterr().out
    assert by_method(results) == before
    assert main([*words, "retry=failed"]) == 0
    after = by_method(results)
    assert after["semantics_nearest"]["state"] == "done" and after["semantics_nearest"]["reason"] is None
    assert after["nearest_point"] == before["nearest_point"]


@pytest.mark.parametrize("words", [
    ["seeds=[3]"], ["method.stuff_threshold=0.3,0.5"], ["schedule.decay_at=[0.5,0.8]"], ["seeds=[0,1]", "input.flip=0"],
    ["dataset.name='a b'"], ["head=none"], ["dataset.points.count=10"],
])
def test_the_command_of_a_cell_selects_that_cell(tmp_path, words):
    request = read_request(grid_words(tmp_path, "method=psps,semantics_nearest", *words))
    cells = plan(load_grid(request.grid), request)
    assert len(cells) >= 2
    for cell, run in cells:
        ((_, found),) = planned(shlex.split(command_for(request, cell))[3:])
        assert found == run


def test_an_error_of_the_code_is_recorded_with_its_traceback(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the labeler lost its thread")

    monkeypatch.setattr("methods.controls.nearest_point.NearestPoint.pseudo_labels", broken)
    assert main(grid_words(tmp_path, "method=nearest_point,oracle_nearest", "head=none", "report=false")) == 1
    records = {record["label"]: record for record in runs_in(tmp_path).values()}
    assert records["oracle_nearest"]["state"] == "done"
    reason = records["nearest_point"]["reason"]
    assert (reason["class"], reason["message"]) == ("RuntimeError", "the labeler lost its thread")
    assert reason["where"].startswith("test_run_cli.py:")
    assert "Traceback" in "\n".join(reason["log_tail"]) or len(reason["log_tail"]) == 20
    assert "lost its thread" in reason["log_tail"][-1]


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_a_full_memory_has_a_state_of_its_own(tmp_path, monkeypatch, error):
    def full(*_):
        raise error("full")

    monkeypatch.setattr("methods.controls.nearest_point.NearestPoint.pseudo_labels", full)
    assert main(quick(tmp_path)) == 1
    assert only_run(tmp_path).state == State.OUT_OF_MEMORY


def test_ctrl_c_stops_the_grid_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    words = grid_words(tmp_path, "method=nearest_point,oracle_nearest", "head=none", "report=false")
    with monkeypatch.context() as patch:
        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr("methods.controls.nearest_point.NearestPoint.pseudo_labels", stop)
        assert main(words) == 1
    assert only_run(tmp_path).state == State.CANCELLED  # and the next one did not start
    assert "same command" in capsys.readouterr().out
    assert main(words) == 0
    assert {record["state"] for record in runs_in(tmp_path).values()} == {"done"}


def test_a_method_that_is_in_no_table_fails_its_run_alone(tmp_path):
    """The config names a labeler that METHODS does not have: a cell's failure, not the grid's."""
    words = quick(tmp_path, "method.name=nonesuch,nearest_point")
    assert main(words) == 1
    records = {record["config"]["method"]["name"]: record for record in runs_in(tmp_path).values()}
    assert records["nearest_point"]["state"] == "done"
    assert records["nonesuch"]["state"] == "failed" and "psps" in records["nonesuch"]["reason"]["message"]


@pytest.mark.parametrize("jobs", ["jobs=1", "jobs=2"])
def test_fail_fast_begins_nothing_after_a_failure(tmp_path, jobs):
    """The second of two at once has begun before the first one fails."""
    root = tmp_path / "data"
    write_photographs(root)
    words = photograph_words(
        root, tmp_path / "results", "method=nearest_point,oracle_nearest,oracle_geodesic,semantics_nearest", "head=none",
        jobs, "report=false",
    )
    assert main([*words, "plan=true"]) == 0  # draws the points
    for split in ("train", "val"):
        for image in (root / split).iterdir():
            truncate(image)
    assert main([*words, "fail_fast=true"]) == 1
    begun = runs_in(tmp_path / "results")
    assert 1 <= len(begun) <= int(jobs[-1])
    assert {record["state"] for record in begun.values()} == {"failed"}
    assert main(words) == 1
    assert len(runs_in(tmp_path / "results")) == 4


def test_collect_gathers_what_there_is_and_runs_nothing(tmp_path, capsys, monkeypatch):
    words = grid_words(tmp_path, "method=nearest_point,oracle_nearest,psps", "head=none")
    assert main([*words, "method=oracle_nearest", "report=false"]) == 0
    lost = planned(words)[1][1]
    assert lost.run_id.startswith("psps")
    lost.update(state=State.RUNNING, owner={"host": socket.gethostname(), "pid": 2**22 + 1})  # killed without a word
    forbid_runs(monkeypatch)
    capsys.readouterr()
    assert main([*words, "collect=true"]) == 1
    out = capsys.readouterr().out
    assert "oracle_nearest" in out and "cancelled" in out and "ended without a word" in out
    assert (tmp_path / "quickstart" / "report" / "index.html").exists()
    assert lost.state == State.CANCELLED
    assert main([*words, "method=oracle_nearest", "collect=true"]) == 0


def test_a_run_that_somebody_works_on_is_named_and_left_alone(tmp_path, capsys, monkeypatch):
    words = quick(tmp_path)
    ((_, run),) = planned(words)
    token = claim(run)
    forbid_runs(monkeypatch)
    assert main(words) == 1
    out = capsys.readouterr().out
    assert f"{run.run_id} is in the hands of process" in out and f"force={run.run_id}" in out
    assert token.holds()


def test_force_takes_a_run_over(tmp_path):
    words = quick(tmp_path)
    ((_, run),) = planned(words)
    token = claim(run)
    assert main([*words, f"force={run.run_id}"]) == 0
    assert run.state == State.DONE and not token.holds()


def test_a_run_that_somebody_finished_meanwhile_is_not_run_again(tmp_path, monkeypatch):
    words = quick(tmp_path)
    assert main(words) == 0
    run = only_run(tmp_path)
    forbid_runs(monkeypatch)
    assert execute_module.run_cell(run, run.read()["config"], "command", None) == State.DONE


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("launcher=slurn", "did you mean 'slurm'"), ("slurm.time=3", "launcher=slurm"), ("fail_fast=yes", "fail_fast=true"),
        ("launcher=local local.jobs=2", "no words of its own"),
    ],
)
def test_a_wrong_word_about_launching_is_said(tmp_path, capsys, word, part):
    assert part in refused(capsys, [*quick(tmp_path), *word.split()])


# --- data that is wrong -----------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "data"
    write_photographs(root)
    return root, photograph_words(root, tmp_path / "results", "method=nearest_point", "head=none", "report=false")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_pixel_of(root, segment_id):
    path = root / "panoptic_train" / "train_0.png"
    pixels = np.array(Image.open(path))
    pixels[5, 7] = (segment_id % 256, segment_id // 256 % 256, segment_id // 65536)
    Image.fromarray(pixels).save(path)
    return path


def test_photographs_run(photographs):
    root, words = photographs
    assert main(words) == 0
    assert only_run(root.parent / "results").read()["metrics"]["labels_train"]["quality"]


def test_an_id_that_the_json_does_not_list_names_the_png(photographs, capsys):
    root, words = photographs
    path = add_pixel_of(root, 70_000)
    line = refused(capsys, words)
    assert str(path) in line and "70000" in line and "panoptic_train.json" in line


def test_an_id_that_appears_after_the_points_were_drawn_fails_the_run(photographs):
    root, words = photographs
    assert main([*words, "plan=true"]) == 0
    path = add_pixel_of(root, 70_000)
    assert main(words) == 1
    record = only_run(root.parent / "results").read()
    message = record["reason"]["message"]
    assert record["state"] == "failed" and str(path) in message and "70000" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_data_set_is_said(photographs, capsys, split):
    root, words = photographs
    path = root / f"panoptic_{split}.json"
    edit(path, lambda content: content.update(images=[], annotations=[]))
    line = refused(capsys, words)
    assert str(path) in line and "no image" in line


def test_an_unknown_category_is_said(photographs, capsys):
    root, words = photographs
    path = root / "panoptic_train.json"
    edit(path, lambda content: content["annotations"][1]["segments_info"][0].update(category_id=999))
    line = refused(capsys, words)
    assert str(path) in line and "999" in line


def own_points(root, change=lambda file: file):
    """A points file of a user's own: three points for each target of the training images."""
    source = CocoPanoptic(root / "panoptic_train.json", root / "panoptic_train", root / "train", "tiny")
    path = root / "mine.npz"
    change(draw_points(source, "uniform", 3, seed=9)).save(path)
    return path, f"dataset.points.file={path}"


def test_own_points_are_used_and_are_another_run(photographs):
    root, words = photographs
    _, word = own_points(root)
    assert planned(words)[0][1].run_id != planned([*words, word])[0][1].run_id
    assert main([*words, word]) == 0
    assert main(words) == 0
    first, second = (record["metrics"]["labels_train"] for record in runs_in(root.parent / "results").values())
    assert first != second


def test_a_point_outside_its_image_names_file_image_and_point(photographs, capsys):
    root, words = photographs

    def outside(file):
        x = file.point_x.copy()
        x[0] = SIDE + 3
        return replace(file, point_x=x)

    path, word = own_points(root, outside)
    line = refused(capsys, [*words, word])
    assert str(path) in line and "train_0.jpg" in line and f"x={SIDE + 3}" in line


def test_more_points_than_the_own_file_has_is_one_sentence(photographs, capsys):
    root, words = photographs
    path, word = own_points(root)
    line = refused(capsys, [*words, word, "dataset.points.count=10"])
    assert str(path) in line and "3 points" in line and "dataset.points.count" in line


def test_points_of_another_data_set_are_refused(photographs, capsys):
    root, words = photographs
    path, word = own_points(root)
    edit(root / "panoptic_train.json", lambda content: content["categories"][0].update(name="another"))
    line = refused(capsys, [*words, word])
    assert str(path) in line and "categories" in line


def test_a_missing_points_file_is_one_sentence(photographs, capsys):
    root, words = photographs
    assert "nowhere.npz" in refused(capsys, [*words, f"dataset.points.file={root / 'nowhere.npz'}"])


def test_an_image_missing_from_the_folder_is_named(photographs):
    root, words = photographs
    (root / "val" / "val_1.jpg").unlink()
    assert main(words) == 1
    assert str(root / "val" / "val_1.jpg") in only_run(root.parent / "results").read()["reason"]["message"]


def test_a_killed_run_of_another_process_is_taken_up(tmp_path):
    """Its record still says 'running', its process is gone."""
    words = quick(tmp_path)
    ((_, run),) = planned(words)
    run.update(state=State.RUNNING, owner={"host": socket.gethostname(), "pid": 2**22 + 1})
    assert main(words) == 0
    assert Run(tmp_path, run.run_id).state == State.DONE
