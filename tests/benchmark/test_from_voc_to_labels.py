"""From the archives of PASCAL VOC to masks that pycocotools reads: prepare, points, run, label, each as a user types it."""

from __future__ import annotations

import json

import pytest
import torch
from pycocotools.coco import COCO

from benchmark import label, points
from benchmark.data import __main__ as data
from benchmark.run import main as run
from tests.benchmark.data import trees
from tests.benchmark.tiny_runs import ROOT, SHORT, only_run


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = torch.get_num_threads()  # runs set the number of this process
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_tree_of_voc_becomes_labels_without_a_manual_step(tmp_path, monkeypatch):
    trees.voc_tree(tmp_path / "voc")
    trees.sbd_tree(tmp_path / "sbd")
    trees.small_voc_is_whole(monkeypatch)
    out, clicks, results, labels = (tmp_path / name for name in ("out", "points.npz", "results", "labels"))

    assert data.main(["prepare", "voc2012", f"source={tmp_path / 'voc'}", f"sbd={tmp_path / 'sbd'}", f"out={out}"]) == 0
    folder = [f"dataset.root={out}", "dataset.name=voc"]
    assert points.main(["sample", *folder, "count=1", f"out={clicks}"]) == 0
    assert points.main(["check", f"points={clicks}", *folder]) == 0
    words = [*SHORT, "dataset=coco_panoptic", *folder, f"dataset.points.file={clicks}", "dataset.points.count=1"]
    assert run(["grid=quickstart", *words, "method=semantics_nearest", "head=none", f"results_dir={results}"]) == 0
    made = only_run(results)
    assert made.read()["supervision"]["masks"] == 0

    images = out / "train"
    assert label.main([f"run={made.folder}", f"images={images}", f"points={clicks}", f"out={labels}", "device=cpu"]) == 0
    coco, panoptic = COCO(str(labels / "instances.json")), json.loads((labels / "panoptic.json").read_text())
    assert sorted(image["file_name"][:-4] for image in coco.dataset["images"]) == trees.TRAIN_AUG
    names = {category["id"]: category["name"] for category in panoptic["categories"]}
    of_image = {a["image_id"]: {names[s["category_id"]] for s in a["segments_info"]} for a in panoptic["annotations"]}
    for image in panoptic["images"]:  # what was clicked is what is labelled, if it got a pixel
        of_voc = image["file_name"][:-4] in trees.VOC_TRAIN
        assert of_image[image["id"]] <= ({"person", "horse"} if of_voc else {"cat", "bird"}) | {"background"}
    assert coco.getAnnIds()
    for annotation in coco.anns.values():
        size = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (size["height"], size["width"]) == trees.SIZE and mask.sum() == annotation["area"] > 0
