"""``benchmark.label``: its files in the readers they are made for, going on after a stop, images that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from benchmark.configs import compose_run
from benchmark.data.coco import CocoPanoptic
from benchmark.data.points import draw_points
from benchmark.export import labelling
from benchmark.export.command import LABEL
from benchmark.export.folder import ExportFolder, Labelled
from benchmark.label import main
from benchmark.label_quality import label_quality_result
from benchmark.runs import Run
from methods.base.types import Categories, Category
from tests.benchmark.points_folders import (
    HEADER,
    clicked_rows,
    finished,
    folder_config,
    scenes,
    write_csv,
    write_points_folder,
)
from tests.benchmark.tiny_runs import ROOT, SHORT, SIDE, environment, tiny_config, write_photographs

NAMES = [f"train_{i:06d}.png" for i in range(4)]


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A labeler with a semantic branch, trained for a few steps on points whose images are gone by now."""
    root = tmp_path_factory.mktemp("run")
    folder, points = write_points_folder(root / "data")
    config = folder_config(folder, points, root, "method=semantics_nearest", "head=none", "schedule.steps=3")
    made = finished(config, "tiny")
    shutil.rmtree(root / "data")
    return made


@pytest.fixture
def data(tmp_path):
    return write_points_folder(tmp_path)


def words(run, data, out, *more):
    folder, points = data
    given = [f"run={run.folder}", f"images={folder}", f"points={points}", f"out={out}", "device=cpu", *more]
    return [word for word in given if not any(word != w and w.startswith(word.split("=")[0] + "=") for w in more)]


@pytest.fixture(scope="module")
def labelled(run, tmp_path_factory):
    """Four images labelled without any trouble."""
    root = tmp_path_factory.mktemp("labelled")
    data = write_points_folder(root)
    assert main(words(run, data, root / "out")) == 0
    return root / "out"


def files_of(folder):
    """Content by name, without the pieces' order in time."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the readers ------------------------------------------------------------------------------------------------------


def panoptic_ids(path):
    colours = np.asarray(Image.open(path)).astype(int)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def test_every_click_has_its_segment(labelled):
    """What was clicked is labelled as clicked: the segment there has the class of the click."""
    content = json.loads((labelled / "panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    annotations = {a["image_id"]: a for a in content["annotations"]}
    assert [image["file_name"] for image in content["images"]] == NAMES and sorted(annotations) == [1, 2, 3, 4]
    hits = 0
    for name, x, y, class_name, *_ in clicked_rows():
        annotation = annotations[NAMES.index(name) + 1]
        segment_id = panoptic_ids(labelled / "panoptic" / annotation["file_name"])[y, x]
        found = {segment["id"]: names[segment["category_id"]] for segment in annotation["segments_info"]}
        hits += found.get(segment_id) == class_name
    assert hits >= 0.9 * len(clicked_rows())  # two clicks may share a cell of the network's input


def test_the_panoptic_format_is_kept(labelled):
    """The strict reader of this project: every id is listed and occurs; areas, boxes and scores are right."""
    source = CocoPanoptic(labelled / "panoptic.json", labelled / "panoptic", labelled, "labels")
    segments = 0
    for record in source.records:
        annotation = source.read_annotation(record)
        for segment in annotation.segments:
            rows, cols = np.nonzero(annotation.ids == segment["id"])
            box = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
            assert segment["area"] == len(rows) and segment["bbox"] == box and segment["iscrowd"] == 0
            assert 0 < segment["score"] < 1  # the branch is not sure of anything after three steps
            segments += 1
    assert segments > 8


def test_pycocotools_reads_the_instances(labelled):
    coco = COCO(str(labelled / "instances.json"))
    panoptic = json.loads((labelled / "panoptic.json").read_text())
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    assert set(coco.getCatIds()) == things and sorted(coco.getImgIds()) == [1, 2, 3, 4]
    expected = sum(s["category_id"] in things for a in panoptic["annotations"] for s in a["segments_info"])
    assert len(coco.getAnnIds()) == expected > 4
    for annotation in panoptic["annotations"]:
        ids = panoptic_ids(labelled / "panoptic" / annotation["file_name"])
        segments = [s for s in annotation["segments_info"] if s["category_id"] in things]
        instances = coco.loadAnns(coco.getAnnIds(imgIds=annotation["image_id"]))
        for segment, instance in zip(segments, instances, strict=True):
            mask = coco.annToMask(instance).astype(bool)
            assert np.array_equal(mask, ids == segment["id"]) and instance["category_id"] == segment["category_id"]
            assert coco_mask.area(instance["segmentation"]) == instance["area"]
    fields = ("image_id", "category_id", "segmentation", "score")
    results = coco.loadRes([{key: a[key] for key in fields} for a in coco.anns.values()])
    assert len(results.anns) == expected  # as detections they carry their score


def test_mmdet_reads_the_panoptic_files(labelled, monkeypatch):
    from mmdet.datasets import CocoPanopticDataset

    # mmdet takes one function from panopticapi, which is on no package index
    utils = SimpleNamespace(rgb2id=lambda c: c.astype(np.int64) @ [1, 256, 65536])
    monkeypatch.setitem(sys.modules, "panopticapi", SimpleNamespace(utils=utils))
    content = json.loads((labelled / "panoptic.json").read_text())
    things = [c["name"] for c in content["categories"] if c["isthing"]]
    stuff = [c["name"] for c in content["categories"] if not c["isthing"]]
    dataset = CocoPanopticDataset(
        ann_file="out/panoptic.json", data_root=str(labelled.parent), data_prefix={"img": "images/", "seg": "out/panoptic/"},
        metainfo={"classes": things + stuff, "thing_classes": things, "stuff_classes": stuff}, test_mode=True,
        pipeline=[{"type": "LoadImageFromFile"}, {"type": "mmdet.LoadPanopticAnnotations"}],
    )
    assert len(dataset) == 4
    for index, annotation in enumerate(content["annotations"]):
        found = dataset[index]
        assert Path(found["img_path"]).name == NAMES[index] and (found["height"], found["width"]) == (SIDE, SIDE)
        assert len(found["segments_info"]) == len(annotation["segments_info"])
        ids = panoptic_ids(labelled / "panoptic" / annotation["file_name"])
        instances = [s for s in annotation["segments_info"] if s["category_id"] <= len(things)]
        assert len(found["instances"]) == len(instances) == len(found["gt_masks"])
        for mask, segment in zip(found["gt_masks"].masks, instances, strict=True):
            assert np.array_equal(mask.astype(bool), ids == segment["id"])


def test_pillow_reads_the_voc_files(labelled):
    names = dict(line.split(" ", 1) for line in (labelled / "classes.txt").read_text().splitlines())
    content = json.loads((labelled / "panoptic.json").read_text())
    label = {c["id"]: c["name"] for c in content["categories"]}
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    for annotation in content["annotations"]:
        ids = panoptic_ids(labelled / "panoptic" / annotation["file_name"])
        classes = Image.open(labelled / "SegmentationClass" / annotation["file_name"])
        objects = Image.open(labelled / "SegmentationObject" / annotation["file_name"])
        assert classes.mode == objects.mode == "P" and classes.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
        classes, objects = np.asarray(classes), np.asarray(objects)
        assert np.array_equal(classes == 255, ids == 0)
        number = 0
        for segment in annotation["segments_info"]:
            here = ids == segment["id"]
            number += segment["category_id"] in things
            assert {names[str(v)] for v in np.unique(classes[here])} == {label[segment["category_id"]]}
            assert set(np.unique(objects[here]).tolist()) == {number if segment["category_id"] in things else 0}
    assert all(Image.open(labelled / "overlays" / f"{Path(name).stem}.jpg").size == (SIDE, SIDE) for name in NAMES)


# --- quality ----------------------------------------------------------------------------------------------------------


def test_labels_have_the_quality_that_evaluation_measured(tmp_path):
    """The same run, images, points and masks by two ways: its record, and its exported files."""
    write_photographs(tmp_path / "coco", val=3)
    data = ["dataset=coco_panoptic", f"dataset.root={tmp_path}/coco", "dataset.name=tiny", "evaluation.label_images=null"]
    config = compose_run(["scale=demo", *SHORT, *data, f"results_dir={tmp_path}", "method=nearest_point", "head=none"])
    run = finished(config, "tiny")
    assert not run.weights_file.exists()  # there is nothing to train
    measured = label_quality_result(run.read()["metrics"]["labels_val"]["quality"])
    truth = CocoPanoptic(tmp_path / "coco" / "panoptic_val.json", tmp_path / "coco" / "panoptic_val", tmp_path, "tiny")
    points = next(p for p in (tmp_path / "points").glob("*.npz") if truth.fingerprint[:12] in p.name)
    more = ("count=1", f"truth={truth.json_path}", "overlays=false")
    assert main(words(run, (tmp_path / "coco" / "val", points), tmp_path / "out", *more)) == 0
    found = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert found["images"] == 3 and found["instances"] == measured.instances > 0
    assert found["pq"] == measured.panoptic.pq and found["instance_iou"] == measured.instance_iou > 0.1
    assert found["ambiguous_accuracy"] == measured.ambiguous_accuracy
    images = json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]
    assert [image["id"] for image in images] == [100, 101, 102]  # as in the data set


# --- going on ---------------------------------------------------------------------------------------------------------


def made_images(monkeypatch, fail_at=None, error=KeyboardInterrupt):
    """Names of the images that are labelled; the one at ``fail_at`` raises."""
    names, usual = [], labelling._made

    def made(model, item, *others):
        if len(names) == fail_at:
            raise error()
        names.append(item.sample.image_id)
        return usual(model, item, *others)

    monkeypatch.setattr(labelling, "_made", made)
    return names


def test_an_interrupted_command_goes_on_to_the_same_files(run, data, labelled, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        made_images(patch, fail_at=2)
        assert main(words(run, data, tmp_path / "out")) == 1
    assert "goes on where this one ended" in capsys.readouterr().out
    assert not (tmp_path / "out" / "panoptic.json").exists() and not (tmp_path / "out" / "instances.json").exists()
    again = made_images(monkeypatch)
    assert main(words(run, data, tmp_path / "out")) == 0
    assert again == NAMES[2:]
    found, whole = files_of(tmp_path / "out"), files_of(labelled)
    assert found.keys() == whole.keys()
    assert [name for name in whole if not name.startswith(".pieces") and found[name] != whole[name]] == []


def test_a_finished_command_has_nothing_to_do_until_a_point_changes(run, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(words(run, data, out)) == 0
    again = made_images(monkeypatch)
    assert main(words(run, data, out)) == 0 and again == []
    rows = [(*row[:1], row[1] ^ 1, *row[2:]) if row[0] == NAMES[1] else row for row in clicked_rows()]
    write_csv(data[1], rows)
    (out / "SegmentationObject" / NAMES[3]).unlink()
    assert main(words(run, data, out)) == 0 and again == [NAMES[1], NAMES[3]]


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_half_and_goes_on(run, tmp_path):
    data, out = write_points_folder(tmp_path, images=12), tmp_path / "out"
    command = [sys.executable, "-m", "benchmark.label", *words(run, data, out)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((out / ".pieces").glob("*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "the command ended before it labelled three images"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "panoptic.json").exists()
    for png in [*(out / "panoptic").glob("*.png"), *(out / "SegmentationClass").glob("*.png")]:
        Image.open(png).load()
    leftover = out / "panoptic" / f".a.png.{'0' * 32}.tmp"
    leftover.write_bytes(b"half")
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((out / "panoptic.json").read_text())["images"]) == 12 and not leftover.exists()


def test_images_read_by_other_processes_are_the_same(run, data, labelled, tmp_path):
    assert main(words(run, data, tmp_path / "out", "workers=2", "overlays=false")) == 0
    assert (tmp_path / "out" / "panoptic.json").read_bytes() == (labelled / "panoptic.json").read_bytes()
    assert not (tmp_path / "out" / "overlays").exists()


def test_putting_together_needs_one_piece_at_a_time(tmp_path):
    """Memory while many pieces are put together is that of few."""
    categories = Categories([Category(1, "cat", True), Category(2, "sky", False)])
    folder = ExportFolder(tmp_path, categories, True, False, {"verb": "label", "run": "r", "weights": None})
    folder.open()
    ids = np.kron(np.arange(64).reshape(8, 8), np.ones((2, 2), dtype=np.int64))
    folder.write("a.png", [], Labelled(ids, [{"id": i, "category_id": 1 + i % 2, "score": 0.5} for i in range(1, 64)]))
    piece = folder.piece_file("a.png").read_bytes()

    def peak(count):
        for i in range(count):
            folder.piece_file(f"{i}.png").write_bytes(piece)
        tracemalloc.start()
        folder.assemble(lambda: ((i, f"{i}.png") for i in range(count)))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(10)
    assert peak(100) < few + 50_000
    assert folder.panoptic_json.stat().st_size > 100 * 2500 > 4 * 50_000  # kept in memory, it would not pass
    assert len(json.loads(folder.panoptic_json.read_text())["annotations"]) == 100


# --- input that cannot be used ----------------------------------------------------------------------------------------


def truncated_jpeg(path):
    Image.fromarray(scenes().read_image(scenes().records[1])).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-300])


def huge(path):
    """A PNG whose head promises 60000 x 60000 pixels."""
    whole = bytearray(path.read_bytes())
    whole[16:24] = (60000).to_bytes(4, "big") * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(whole))


SPOILED = {
    "truncated PNG": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "truncated JPEG": truncated_jpeg,
    "zero-byte file": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"<html>404</html>"),
    "huge dimensions": huge,
    "absent": Path.unlink,
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


def only_the_second_is_missing(run, data, out, capsys, said):
    assert main(words(run, data, out)) == 1
    shown = capsys.readouterr().out
    assert "3 of 4 images have labels" in shown and said in shown
    (line,) = (out / "skipped.txt").read_text().splitlines()
    assert line.startswith(f"{NAMES[1]}: ") and said in line
    content = json.loads((out / "panoptic.json").read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, NAMES[0]), (3, NAMES[2]), (4, NAMES[3])]
    assert not [path for path in out.rglob("*") if path.is_file() and Path(NAMES[1]).stem in path.name]
    COCO(str(out / "instances.json"))


@pytest.mark.parametrize("how", SPOILED)
def test_an_image_that_cannot_be_read_is_passed_over(run, data, tmp_path, capsys, how):
    SPOILED[how](data[0] / NAMES[1])
    only_the_second_is_missing(run, data, tmp_path / "out", capsys, str(data[0] / NAMES[1]))
    Image.fromarray(scenes().read_image(scenes().records[1])).save(replaced(data[0] / NAMES[1]))
    assert main(words(run, data, tmp_path / "out")) == 0  # repaired, it is labelled
    assert not (tmp_path / "out" / "skipped.txt").exists()


def replaced(path):
    if path.is_dir():
        path.rmdir()
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": "nan"}, "x is nan"), ({"y": "-1"}, "y is -1"), ({"x": str(SIDE)}, "is outside image"),
        ({"class": "unicorn"}, "class 'unicorn' is not one of"), ({"y": "north"}, "y is 'north', which is no number"),
        ({"class": ""}, "it has no class"),
    ],
)  # fmt: skip
def test_a_click_that_cannot_be_used_is_passed_over(run, data, tmp_path, capsys, change, said):
    rows = [dict(zip(HEADER, row, strict=True)) for row in clicked_rows()]
    wrong = next(i for i, row in enumerate(rows) if row["image"] == NAMES[1])
    rows[wrong] |= change
    write_csv(data[1], [list(row.values()) for row in rows])
    only_the_second_is_missing(run, data, tmp_path / "out", capsys, f"{data[1]}, line {wrong + 2}: ")
    assert said in (tmp_path / "out" / "skipped.txt").read_text()


def test_a_line_without_an_image_is_told(run, data, tmp_path, capsys):
    write_csv(data[1], [*clicked_rows(), ("", 1, 2, "disc", "", 1)])
    assert main(words(run, data, tmp_path / "out")) == 1
    shown = capsys.readouterr().out
    assert f"line {len(clicked_rows()) + 2}: it names no image" in shown and "4 of 4 images" in shown


def test_images_whose_maps_would_have_one_name_are_told(run, data, tmp_path, capsys):
    Image.open(data[0] / NAMES[0]).save(data[0] / "train_000000.jpg")
    write_csv(data[1], [*clicked_rows(), ("train_000000.jpg", *clicked_rows()[0][1:])])
    assert main(words(run, data, tmp_path / "out")) == 1
    assert f"would replace those of {NAMES[0]}" in (tmp_path / "out" / "skipped.txt").read_text()


@pytest.mark.parametrize("mode", ["CMYK", "P", "I;16", "L", "RGBA", "1", "LA"])
def test_images_of_every_mode_are_labelled(run, data, tmp_path, mode):
    image = Image.open(data[0] / NAMES[1])
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(data[0] / NAMES[1])
    elif mode == "CMYK":
        image.convert(mode).save(data[0] / NAMES[1], format="TIFF")
    else:
        image.convert(mode).save(data[0] / NAMES[1])
    assert main(words(run, data, tmp_path / "out")) == 0
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "train_000001.jpg")).astype(int)
    assert overlay.shape == (SIDE, SIDE, 3) and overlay.std() > 5


def test_memory_that_is_not_there_costs_one_image(run, data, tmp_path, capsys, monkeypatch):
    usual = labelling.label

    def label(model, item, device):
        if item.sample.image_id == NAMES[1]:
            raise MemoryError
        return usual(model, item, device)

    monkeypatch.setattr("benchmark.label.LABEL", replace(LABEL, make=label))
    only_the_second_is_missing(run, data, tmp_path / "out", capsys, "need more memory than there is")


def refused(capsys, said, given):
    assert main(given) == 2
    shown = capsys.readouterr().out
    assert said in shown and shown.startswith("error: ") and shown.count("\n") == 1


def test_a_full_disk_stops_the_command_with_a_sentence(run, data, tmp_path, capsys, monkeypatch):
    usual, calls = os.replace, []

    def full(source, target):
        if ".pieces" not in str(target) and "panoptic/" in str(target):
            calls.append(target)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return usual(source, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        refused(capsys, f"panoptic/{NAMES[2]} cannot be written (No space left on device)", words(run, data, out))
    assert not (out / "panoptic.json").exists() and not list(out.rglob(".*.tmp"))
    assert sorted(path.name for path in (out / ".pieces").iterdir()) == [f"{name}.json" for name in NAMES[:2]]
    again = made_images(monkeypatch)
    assert main(words(run, data, out)) == 0 and again == NAMES[2:]


def test_a_folder_that_cannot_be_written_is_named(run, data, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    refused(capsys, f"{tmp_path}/file", words(run, data, tmp_path / "file" / "out"))


def test_labels_of_another_run_are_not_mixed(run, data, labelled, tmp_path, capsys):
    shutil.copytree(labelled, tmp_path / "out")
    path = tmp_path / "out" / "labels.json"
    path.write_text(path.read_text().replace('"sha256:', '"sha256:0'))
    refused(capsys, "has the labels of label tiny, or of other weights", words(run, data, tmp_path / "out"))
    path.unlink()
    refused(capsys, "has files that this command did not write", words(run, data, tmp_path / "out"))


def test_points_of_other_classes_are_refused(run, data, tmp_path, capsys):
    write_csv(data[1], [(*row[:3], f"other {row[3]}", *row[4:]) for row in clicked_rows()])
    refused(capsys, "none of its classes (other ", words(run, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_cannot_label_is_named(run, data, tmp_path, capsys):
    copied = Run(tmp_path / "results", "tiny")
    shutil.copytree(run.folder, copied.folder)
    given = words(copied, data, tmp_path / "out")
    weights = copied.weights_file.read_bytes()
    copied.weights_file.write_bytes(weights[: len(weights) // 2])
    refused(capsys, f"{copied.weights_file} cannot be loaded", given)
    copied.weights_file.unlink()
    refused(capsys, f"{copied.weights_file} is missing; repeat the run with: python -m benchmark.run", given)
    record = copied.record_file.read_text()
    method = json.loads(record)["config"]["method"]["name"]
    copied.record_file.write_text(re.sub(r'"version": \d+', '"version": 99', record))
    refused(capsys, f"Run tiny was made by version 99 of method '{method}', and this code has version", given)
    copied.record_file.write_text(re.sub(r'"base_version": \d+', '"base_version": 99', record))
    refused(capsys, "Run tiny was made by version 99 of what all methods share, and this code has version", given)
    copied.record_file.write_text(record.replace('"state": "done"', '"state": "failed"'))
    refused(capsys, "Run tiny is not done", given)
    copied.record_file.write_text("{")
    refused(capsys, "is not valid JSON", given)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("run=tini", "results_dir=RESULTS"), "did you mean 'tiny'?"),
        (("run=tiny", "results_dir=/nowhere"), "no run 'tiny'"),
        (("images=/nowhere",), "/nowhere does not exist"), (("points=/nowhere.csv",), "/nowhere.csv does not exist"),
        (("points=/nowhere.npz",), "/nowhere.npz does not exist"), (("device=tpu9",), "device=tpu9"),
        (("truth=/nowhere.json",), "/nowhere.json does not exist"), (("count=0",), "count=0"),
        (("point=a.csv",), "did you mean 'points'?"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_used_are_named(run, data, tmp_path, capsys, more, said):
    more = [word.replace("RESULTS", str(run.results_dir)) for word in more]
    refused(capsys, said, words(run, data, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_words_that_are_missing_are_named(run, capsys):
    refused(capsys, "images= is missing", [f"run={run.folder}"])
    assert main(["--help"]) == 0 and "points=FILE" in capsys.readouterr().out


def test_a_method_on_masks_cannot_label(tmp_path, data, capsys):
    config = tiny_config(tmp_path, "method=full_masks", "head=none")
    run = finished(config, "bound")
    said = "Run bound makes its labels from masks: use python -m benchmark.predict"
    refused(capsys, said, words(run, data, tmp_path / "out"))


def test_images_outside_the_folder_are_refused(run, data, tmp_path, capsys):
    """Their labels would be written outside of out= as well."""
    drawn = draw_points(scenes(), "uniform", 1, 0)
    records = [replace(record, file_name=f"../{record.file_name}") for record in drawn.records]
    replace(drawn, records=records).save(tmp_path / "points.npz")
    given = words(run, (data[0], tmp_path / "points.npz"), tmp_path / "out")
    refused(capsys, "is no file below the images folder", given)


def test_a_points_file_of_other_ids_is_read_by_names(run, data, tmp_path):
    """The file has the scenes' category ids, the run its own; what they share is the names."""
    drawn = draw_points(scenes(), "uniform", 2, 0)
    drawn.save(tmp_path / "points.npz")
    assert main(words(run, (data[0], tmp_path / "points.npz"), tmp_path / "out", "count=1", "overlays=false")) == 0
    assert main(words(run, data, tmp_path / "by_csv", "overlays=false")) == 0
    for name in NAMES:
        first, second = (Image.open(tmp_path / out / "SegmentationClass" / name) for out in ("out", "by_csv"))
        assert np.array_equal(np.asarray(first), np.asarray(second))
