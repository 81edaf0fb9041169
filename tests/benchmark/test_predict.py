"""``benchmark.predict``: what a trained network sees, in the same files, without a point."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from benchmark.data.coco import CocoPanoptic, write_panoptic
from benchmark.data.sources import build_source
from benchmark.label import main as label
from benchmark.metrics import panoptic_result
from benchmark.predict import main
from tests.benchmark.points_folders import finished, folder_config, write_points_folder
from tests.benchmark.tiny_runs import SIDE, tiny_config


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network with a head, trained on masks for a few dozen steps so that it sees something."""
    root = tmp_path_factory.mktemp("run")
    steps = ("schedule.steps=40", "schedule.lr=2e-3", "dataset.val.count=3", "head.score_threshold=0.0")
    return finished(tiny_config(root, "method=full_masks", *steps), "network")


@pytest.fixture
def data(tmp_path):
    return write_points_folder(tmp_path)


def words(run, folder, out, *more):
    return [f"run={run.folder}", f"images={folder}", f"out={out}", "device=cpu", *more]


def test_predictions_have_all_files_and_scores(run, data, tmp_path):
    out = data[0] / "predictions"  # inside of the images: not seen as images
    (data[0] / "sub").mkdir()
    shutil.copy(data[0] / "train_000000.png", data[0] / "sub" / "same.png")
    (data[0] / "Thumbs.db").write_bytes(b"no image")
    for _ in range(2):
        assert main(words(run, data[0], out)) == 0
    content = json.loads((out / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["sub/same.png", *(f"train_{i:06d}.png" for i in range(4))]
    source = CocoPanoptic(out / "panoptic.json", out / "panoptic", data[0], "predictions")
    maps = [source.read_annotation(record) for record in source.records]
    scores = [segment["score"] for annotation in maps for segment in annotation.segments]
    assert scores and all(0 <= score <= 1 for score in scores)
    assert np.array_equal(maps[0].ids, maps[1].ids)  # the same image, wherever it lies
    COCO(str(out / "instances.json"))
    assert Image.open(out / "SegmentationClass" / "sub" / "same.png").size == (SIDE, SIDE)


def test_predictions_have_the_quality_that_evaluation_measured(run, tmp_path):
    """PQ of the exported files, against the run's record of the same images."""
    val = build_source(run.read()["config"]["dataset"], "val")
    (tmp_path / "images").mkdir()
    for record in val.records:
        Image.fromarray(val.read_image(record)).save(tmp_path / "images" / record.file_name)
    items = ((record, val.read_annotation(record)) for record in val.records)
    write_panoptic(tmp_path / "truth.json", tmp_path / "truth", val.categories, items)
    assert main(words(run, tmp_path / "images", tmp_path / "out", f"truth={tmp_path / 'truth.json'}", "overlays=false")) == 0
    measured = panoptic_result(run.read()["metrics"]["val"]["panoptic"])
    found = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert found["images"] == 3 and found["pq"] == measured.pq and found["rq"] == measured.rq
    assert "instance_iou" not in found  # nobody knows which prediction belongs to which object


def test_an_image_that_is_none_is_passed_over(run, data, tmp_path, capsys):
    (data[0] / "train_000002.png").write_bytes(b"")
    assert main(words(run, data[0], tmp_path / "out")) == 1
    assert "3 of 4 images have labels" in capsys.readouterr().out
    assert "train_000002.png cannot be decoded" in (tmp_path / "out" / "skipped.txt").read_text()


def test_a_run_without_a_head_is_refused(tmp_path, data, capsys):
    config = folder_config(*data, tmp_path, "method=semantics_nearest", "head=none", "schedule.steps=1")
    assert main(words(finished(config, "labeler"), data[0], tmp_path / "out")) == 2
    assert "Run labeler has no head (head=none)" in capsys.readouterr().out


def test_a_folder_without_images_is_refused(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(words(run, tmp_path / "empty", tmp_path / "out")) == 2
    assert "has no image" in capsys.readouterr().out


def test_points_are_not_read(run, data, tmp_path, capsys):
    assert main(words(run, data[0], tmp_path / "out", f"points={data[1]}")) == 2
    assert "Unknown word 'points'" in capsys.readouterr().out


def test_a_semantic_run_gives_class_maps(tmp_path, data, capsys):
    semantic = ("method=partial_cross_entropy", "model=deeplab_tiny", "head=none", "schedule.steps=2")
    run = finished(folder_config(*data, tmp_path, *semantic), "semantic")
    out = tmp_path / "out"
    assert main(words(run, data[0], out)) == 0
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "SegmentationClass", "classes.txt", "labels.json", "overlays",
    ]  # fmt: skip
    values = np.asarray(Image.open(out / "SegmentationClass" / "train_000000.png"))
    assert values.shape == (SIDE, SIDE) and values.max() < len((out / "classes.txt").read_text().splitlines())
    points = [*words(run, data[0], tmp_path / "labels"), f"points={data[1]}"]
    assert label(points) == 2
    assert "Run semantic predicts classes and makes no labels from points" in capsys.readouterr().out
