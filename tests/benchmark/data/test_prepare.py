"""``python -m benchmark.data prepare``: whole trees, partial ones, damaged ones, interrupted and repeated."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from PIL import Image

from benchmark.data import conversion
from benchmark.data.__main__ import main
from benchmark.data.sources import build_images, build_source
from tests.benchmark.data import trees


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """VOC and SBD trees that count as whole, and their command line."""
    trees.voc_tree(tmp_path / "voc")
    trees.sbd_tree(tmp_path / "sbd")
    trees.small_voc_is_whole(monkeypatch)
    words = [f"source={tmp_path / 'voc'}", f"sbd={tmp_path / 'sbd'}", f"out={tmp_path / 'out'}"]
    return ["prepare", "voc2012", *words]


def source_of(root, split):
    config = {"name": "x", "kind": "coco_panoptic", "root": str(root), "json": "panoptic_{split}.json",
              "masks": "panoptic_{split}", "images": "{split}"}
    return build_source(config, split), config


def leftovers(root):
    return [path for path in root.rglob("*") if path.name.endswith(".tmp")]


def test_voc_reads_back_with_the_reader_of_coco_panoptic(tmp_path, voc):
    assert main(voc) == 0
    source, config = source_of(tmp_path / "out", "train")
    assert [record.file_name for record in source.records] == [f"{name}.jpg" for name in trees.TRAIN_AUG]
    assert source.records[0].id == 2007000032
    assert (source.categories.num_things, source.categories.names[20]) == (20, "background")
    by_name = {record.file_name[:-4]: record for record in source.records}
    # VOC's own masks are taken where both have the image, SBD's elsewhere
    assert {s["category_id"] for s in source.read_annotation(by_name["2007_000032"]).segments} == {13, 15, 21}
    assert {s["category_id"] for s in source.read_annotation(by_name["2008_000007"]).segments} == {3, 8, 21}
    voc_ids = source.read_annotation(by_name["2007_000032"]).ids
    assert np.array_equal(voc_ids == 0, trees.voc_maps(0)[0] == 255)
    for record in source.records:
        original = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages" / record.file_name
        assert np.array_equal(source.read_image(record), np.asarray(Image.open(original)))
    assert len(build_images(config, "train", source.records).records) == 5
    val, _ = source_of(tmp_path / "out", "val")
    assert [record.file_name for record in val.records] == [f"{name}.jpg" for name in trees.VOC_VAL]
    assert not {r.id for r in val.records} & {r.id for r in source.records}
    assert (tmp_path / "out" / "train.txt").read_text().split() == trees.TRAIN_AUG
    assert not leftovers(tmp_path)


def test_prepared_masks_have_panoptic_quality_1_against_themselves(tmp_path, voc):
    """By hotcoco, from the files alone; areas and boxes recounted from the PNG files with NumPy."""
    assert main(voc) == 0
    out = tmp_path / "out"
    paths, folders = [str(out / "panoptic_train.json")] * 2, {"gt_folder": str(out / "panoptic_train")}
    evaluation = PanopticEval(*paths, **folders, pred_folder=str(out / "panoptic_train"))
    evaluation.evaluate()
    everything = evaluation.results()["All"]
    assert (everything["pq"], everything["sq"], everything["rq"], everything["n"]) == (1, 1, 1, 5)
    content = json.loads((out / "panoptic_train.json").read_text())
    for annotation in content["annotations"]:
        colours = np.asarray(Image.open(out / "panoptic_train" / annotation["file_name"])).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            rows, cols = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows)
            assert segment["bbox"] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]


def test_the_same_command_again_does_nothing(tmp_path, voc, monkeypatch, capsys):
    assert main(voc) == 0
    before = (tmp_path / "out" / "panoptic_train.json").read_bytes()
    monkeypatch.setattr(conversion.Conversion, "work", lambda self: pytest.fail("converted again"))
    capsys.readouterr()
    assert main(voc) == 0
    assert "5 images were done before" in capsys.readouterr().out
    assert (tmp_path / "out" / "panoptic_train.json").read_bytes() == before


def test_a_file_that_was_cut_or_lost_is_made_again(tmp_path, voc, capsys):
    assert main(voc) == 0
    masks = tmp_path / "out" / "panoptic_train"
    whole = (masks / "2007_000032.png").read_bytes()
    (masks / "2007_000032.png").write_bytes(whole[:40])
    (masks / "2008_000007.png").unlink()
    capsys.readouterr()
    assert main(voc) == 0
    assert "3 images were done before" in capsys.readouterr().out
    assert (masks / "2007_000032.png").read_bytes() == whole


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_conversion_goes_on(tmp_path, voc, monkeypatch, capsys, stop):
    """Interrupted, or out of room, at the third image: no JSON, no half file; then only the rest is done."""
    calls, write = [], conversion.write_panoptic_png

    def failing(path, ids):
        calls.append(path.name)
        if len(calls) == 3:
            raise stop
        write(path, ids)

    monkeypatch.setattr(conversion, "write_panoptic_png", failing)
    assert main(voc) == (1 if isinstance(stop, KeyboardInterrupt) else 2)
    said = capsys.readouterr().out
    if isinstance(stop, KeyboardInterrupt):
        assert said == "Stopped; the same command goes on where this one ended.\n"
    else:
        assert "2008_000007.png cannot be written: No space left on device; make room" in said
    out = tmp_path / "out"
    assert not list(out.glob("*.json")) and not leftovers(out)
    assert sorted(path.name for path in (out / "panoptic_train").iterdir()) == ["2007_000032.png", "2007_000039.png"]
    assert main(voc) == 0
    assert calls[3:6] == ["2008_000007.png", "2008_000008.png", "2009_000001.png"]
    assert (out / "panoptic_train.json").exists() and (out / "panoptic_val.json").exists()


@pytest.mark.parametrize("failing", ["panoptic_train.json", "train.txt", "train.jsonl"])
def test_no_room_for_what_is_written_last(tmp_path, voc, monkeypatch, capsys, failing):
    replace = os.replace

    def full(source, target):
        if str(target).endswith(failing):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(voc) == 2
    assert f"{failing} cannot be written: No space left on device" in capsys.readouterr().out.replace("\n", "")
    assert not list((tmp_path / "out").glob("*.json")) and not leftovers(tmp_path / "out")


def test_an_output_folder_that_is_a_file(tmp_path, voc, capsys):
    (tmp_path / "out").write_text("")
    assert main(voc) == 2
    assert "cannot be written: a file is where a folder should be" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_write_the_same_files(tmp_path, voc, monkeypatch):
    assert main([*voc, "jobs=1"]) == 0
    single = (tmp_path / "out" / "panoptic_train.json").read_bytes()
    shutil.rmtree(tmp_path / "out")
    bad = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2009_000001.jpg"
    content = bad.read_bytes()
    bad.write_bytes(b"")
    monkeypatch.setattr(conversion, "LEAST_PER_PROCESS", 1)
    assert main([*voc, "jobs=2"]) == 1  # a problem comes back from a process
    bad.write_bytes(content)
    assert main([*voc, "jobs=2"]) == 0
    assert (tmp_path / "out" / "panoptic_train.json").read_bytes() == single


def _damage(kind):
    def damage(path):
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:200])
        elif kind == "zero bytes":
            path.write_bytes(b"")
        elif kind == "text":
            path.write_text("404: not found")
        elif kind == "other size":
            trees.photograph(path, size=(9, 9))
    return damage


@pytest.mark.parametrize(("kind", "sentence"), [
    ("truncated", "2008_000008.jpg cannot be decoded, it may be truncated"),
    ("zero bytes", "2008_000008.jpg cannot be decoded, it may be truncated or no image"),
    ("text", "2008_000008.jpg cannot be decoded"),
    ("other size", "2008_000008.jpg is 9 x 9 pixels (width x height), its record says 26 x 20"),
])
def test_a_broken_image_keeps_its_split_back_unless_partial(tmp_path, voc, capsys, kind, sentence):
    image = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2008_000008.jpg"
    _damage(kind)(image)
    assert main(voc) == 1
    said = capsys.readouterr().out
    assert sentence in said and "panoptic_train.json was not written" in said
    out = tmp_path / "out"
    assert not (out / "panoptic_train.json").exists() and (out / "panoptic_val.json").exists()  # the rest went on
    assert not (out / "panoptic_train" / "2008_000008.png").exists() and not leftovers(out)
    assert main([*voc, "allow_partial=true"]) == 0
    source, _ = source_of(out, "train")
    assert [r.file_name[:-4] for r in source.records] == [name for name in trees.TRAIN_AUG if name != "2008_000008"]
    assert "4 of 5 images" in json.loads((out / "panoptic_train.json").read_text())["info"]["description"]
    trees.photograph(image)
    assert main(voc) == 0
    assert len(source_of(out, "train")[0].records) == 5


def test_cmyk_and_grayscale_photographs_are_fine(tmp_path, voc):
    folder = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    Image.new("CMYK", trees.SIZE[::-1], (10, 20, 30, 40)).save(folder / "2007_000032.jpg")
    Image.new("L", trees.SIZE[::-1], 90).save(folder / "2007_000039.jpg")
    assert main(voc) == 0
    source, _ = source_of(tmp_path / "out", "train")
    assert source.read_image(source.records[0]).shape == source.read_image(source.records[1]).shape == (20, 26, 3)


def test_smaller_trees_are_told_from_whole_ones(tmp_path, capsys):
    trees.voc_tree(tmp_path / "voc")
    trees.sbd_tree(tmp_path / "sbd")
    words = ["prepare", "voc2012", f"source={tmp_path / 'voc'}", f"sbd={tmp_path / 'sbd'}", f"out={tmp_path / 'out'}"]
    assert main(words) == 1
    said = capsys.readouterr().out
    for sentence in ("The list train.txt of VOC 2012 names 2 images, published are 1464.",
                     "The list val.txt of SBD names 2 images, published are 2857.",
                     "Together these are 5 training images, train_aug has 10582.",
                     "The list val.txt of VOC 2012 names 2 images, published are 1449.",
                     "Nothing was converted."):
        assert sentence in said
    assert not (tmp_path / "out").exists()
    assert main([*words, "allow_partial=true"]) == 0
    assert "train: 5 of 10582 images" in capsys.readouterr().out


def test_missing_files_are_named_with_their_archive(tmp_path, voc, capsys):
    folder = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    (folder / "SegmentationObject" / "2007_000039.png").unlink()
    (tmp_path / "sbd" / "benchmark_RELEASE" / "dataset" / "inst" / "2008_000007.mat").unlink()
    shutil.rmtree(folder / "JPEGImages")
    assert main(voc) == 1
    said = capsys.readouterr().out
    assert "SegmentationObject lacks 1 of 2 files, the first is 2007_000039.png; they are in the archive VOCtrainval" in said
    assert "inst lacks 1 of 3 files, the first is 2008_000007.mat; they are in the archive benchmark.tgz of SBD" in said
    assert "JPEGImages lacks 5 of 5 files, the first is 2007_000032.jpg" in said
    assert not (tmp_path / "out").exists()
    assert main([*voc, "allow_partial=true"]) == 1  # there is no image at all
    assert "no image is left" in capsys.readouterr().out and not list((tmp_path / "out").glob("*.json"))


def _remove(*parts):
    def remove(root):
        path = root.joinpath(*parts)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return remove


def _write(text, *parts):
    return lambda root: root.joinpath(*parts).write_text(text)


LISTS = ("voc", "VOCdevkit", "VOC2012", "ImageSets")


@pytest.mark.parametrize(("change", "sentence"), [
    (_remove("voc"), "The folder source="),
    (_remove(*LISTS), "has no folder ImageSets in it; unpack the archive VOCtrainval_11-May-2012.tar"),
    (_remove(*LISTS, "Segmentation", "val.txt"), "val.txt does not exist"),
    (_write("", *LISTS, "Segmentation", "train.txt"), "train.txt names no image"),
    (_write("2007_000033\n", *LISTS, "Segmentation", "train.txt"), "has 2007_000033 in both train.txt and val.txt"),
    (_write("a\na\n", *LISTS, "Segmentation", "val.txt"), "val.txt names a more than once"),
    (_remove("sbd", "benchmark_RELEASE", "dataset", "train.txt"), "train.txt does not exist"),
    (_remove("sbd", "benchmark_RELEASE", "dataset", "inst"), "has no folder inst in it; unpack the archive benchmark.tgz"),
])
def test_lists_and_folders_that_cannot_be_used(tmp_path, voc, capsys, change, sentence):
    change(tmp_path)
    assert main(voc) == 2
    said = capsys.readouterr().out
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_voc_without_sbd(tmp_path, voc, capsys):
    words = [word for word in voc if not word.startswith("sbd=")]
    assert main(words) == 1
    assert "Without sbd=FOLDER (the archive benchmark.tgz of SBD" in capsys.readouterr().out
    assert main([*words, "allow_partial=true"]) == 0
    source, _ = source_of(tmp_path / "out", "train")
    assert [r.file_name[:-4] for r in source.records] == trees.VOC_TRAIN


def test_cityscapes_reads_back(tmp_path, monkeypatch, capsys):
    trees.cityscapes_tree(tmp_path / "c")
    words = ["prepare", "cityscapes", f"source={tmp_path / 'c'}", f"out={tmp_path / 'out'}"]
    assert main(words) == 1
    assert "leftImg8bit/train has 2 images, published are 2975" in capsys.readouterr().out
    trees.publish_as(monkeypatch, CITYSCAPES_IMAGES={"train": 2, "val": 2})
    assert main(words) == 0
    source, _ = source_of(tmp_path / "out", "val")
    assert source.records[0].id == "lindau_000000_000019"
    assert source.records[0].file_name == "lindau/lindau_000000_000019_leftImg8bit.png"
    annotation = source.read_annotation(source.records[0])
    assert {(s["id"], s["category_id"], s["iscrowd"]) for s in annotation.segments} == {
        (7, 7, 0), (23, 23, 0), (26000, 26, 0), (26001, 26, 0), (24, 24, 1)}
    assert source.read_image(source.records[0]).shape == (20, 26, 3)
    assert source.categories.names[:2] == ["person", "rider"]
    (tmp_path / "c" / "gtFine" / "val" / "lindau" / "lindau_000001_000019_gtFine_instanceIds.png").unlink()
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "lacks 1 of 4 files, the first is lindau_000001_000019_gtFine_instanceIds.png; they are in the archive" in said


@pytest.fixture
def coco(tmp_path, monkeypatch):
    trees.coco_tree(tmp_path / "coco")
    trees.small_coco_is_whole(monkeypatch)
    return ["prepare", "coco2017", f"source={tmp_path / 'coco'}", f"out={tmp_path / 'out'}"]


def test_coco_is_checked_and_linked(tmp_path, coco):
    assert main(coco) == 0
    json_path = tmp_path / "out" / "panoptic_train.json"
    assert json_path.is_symlink() and json_path.resolve() == tmp_path / "coco" / "annotations" / "panoptic_train2017.json"
    source, _ = source_of(tmp_path / "out", "train")
    assert [s["id"] for s in source.read_annotation(source.records[2]).segments] == [300, 7, 70000]


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda c: c["annotations"][0]["segments_info"][0].update(area=35), "the area 35, it has 36 pixels"),
    (lambda c: c["annotations"][0]["segments_info"].pop(), "has ids that"),
    (lambda c: c["annotations"][0]["segments_info"].append({"id": 9, "category_id": 3, "area": 4}), "without a pixel"),
    (lambda c: c["images"][0].update(height=21), "its image in"),
])
def test_coco_images_that_contradict_the_json_are_left_out(tmp_path, coco, capsys, change, sentence):
    path = tmp_path / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert main(coco) == 1
    said = capsys.readouterr().out
    assert sentence in said and "000000000001.png" in said and "panoptic_val.json was not written" in said
    assert main([*coco, "allow_partial=true"]) == 0
    kept = json.loads((tmp_path / "out" / "panoptic_val.json").read_text())
    assert [image["id"] for image in kept["images"]] == [a["image_id"] for a in kept["annotations"]] == [2, 3]
    assert len(json.loads(path.read_text())["images"]) == 3  # what was downloaded is as it was


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda c: c.pop("annotations"), "has no list 'annotations'"),
    (lambda c: c["images"][1].pop("height"), "needs 'height' (int), it has None"),
    (lambda c: c["images"][1].update(id=1), "image id 1 occurs more than once"),
    (lambda c: c["annotations"][1]["segments_info"][0].update(id=7), "lists the segment id 7 more than once"),
])
def test_coco_json_that_cannot_be_used(tmp_path, coco, capsys, change, sentence):
    path = tmp_path / "coco" / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert main(coco) == 2
    said = capsys.readouterr().out
    assert sentence in said and "panoptic_train2017.json" in said
    assert not (tmp_path / "out").exists()


def test_coco_with_an_archive_that_was_not_unpacked(tmp_path, coco, capsys):
    shutil.rmtree(tmp_path / "coco" / "annotations" / "panoptic_train2017")
    (tmp_path / "coco" / "val2017" / "000000000002.jpg").unlink()
    assert main(coco) == 1
    said = capsys.readouterr().out
    assert "panoptic_train2017 does not exist; it is in the archive panoptic_annotations_trainval2017.zip" in said
    assert "val2017 lacks 1 of 3 files, the first is 000000000002.jpg; they are in the archive val2017.zip of COCO" in said


@pytest.mark.parametrize(("words", "sentence"), [
    (["prepare", "voc"], "Unknown data set 'voc'; did you mean 'voc2012'?"),
    (["prepare"], "Unknown data set ''"),
    (["prepair", "voc2012"], "Unknown command 'prepair'; did you mean 'prepare'?"),
    (["prepare", "voc2012", "out=x"], "source= is missing"),
    (["prepare", "voc2012", "source"], "'source' is not understood: write key=value"),
    (["prepare", "coco2017", "source=x", "sbd=y"], "Unknown word 'sbd'"),
    (["prepare", "voc2012", "source=x", "source=y"], "source= is given twice"),
    (["prepare", "voc2012", "source=x", "out=y", "jobs=0"], "jobs=0 is not a number"),
    (["prepare", "voc2012", "source=x", "out=y", "allow_partial=yes"], "write allow_partial=true or allow_partial=false"),
])
def test_command_lines_that_cannot_be_used(capsys, words, sentence):
    assert main(words) == 2
    assert sentence in capsys.readouterr().out


def test_a_data_set_without_a_folder_says_how_to_prepare_one():
    from benchmark.configs import compose_run
    from benchmark.data.errors import DataError

    with pytest.raises(DataError, match=r"'python -m benchmark\.data prepare' makes such a folder of VOC 2012"):
        build_source(compose_run(["scale=paper"])["dataset"], "train")
