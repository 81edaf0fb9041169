"""``python -m benchmark.points``: drawing, exchanging, checking and showing points from the command line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmark.build import points_of
from benchmark.configs import compose_run
from benchmark.data.__main__ import main as prepare
from benchmark.data.points import draw_points, ensure_points
from benchmark.data.points_file import PointsFile
from benchmark.data.sources import build_source
from benchmark.points import main
from tests.benchmark.data import trees
from tests.benchmark.data.conftest import SHARED


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared VOC folder."""
    root = tmp_path_factory.mktemp("voc")
    trees.voc_tree(root / "voc")
    trees.sbd_tree(root / "sbd")
    words = [f"source={root / 'voc'}", f"sbd={root / 'sbd'}", f"out={root / 'out'}", "allow_partial=true"]
    assert prepare(["prepare", "voc2012", *words]) == 0
    return root / "out"


@pytest.fixture
def data(prepared):
    return [f"dataset.root={prepared}", "dataset.name=voc"]


def config(data, *words):
    return compose_run(["dataset=coco_panoptic", *data, *words])


@pytest.fixture
def drawn(data, tmp_path):
    assert main(["sample", *data, "count=2", f"out={tmp_path / 'p.npz'}"]) == 0
    return tmp_path / "p.npz"


@pytest.mark.parametrize(("strategy", "count", "seed"), [
    ("uniform", 1, 0), ("center_biased", 10, 0), ("border_biased", 3, 7),
])
def test_sample_draws_what_a_run_would_draw(data, tmp_path, capsys, strategy, count, seed):
    words = [f"strategy={strategy}", f"count={count}", f"seed={seed}"]
    assert main(["sample", *data, *words, f"out={tmp_path / 'p.npz'}"]) == 0
    points = PointsFile.load(tmp_path / "p.npz")
    run = config(data, *(f"dataset.points.{word}" for word in words), f"results_dir={tmp_path}")
    assert points.fingerprint == points_of(run, "train").fingerprint
    said = capsys.readouterr().out
    assert points.fingerprint[:16] in said
    assert f"dataset.points.file={tmp_path / 'p.npz'} dataset.points.count={count}" in said


def test_one_point_is_the_first_of_ten_and_seeds_differ(data, tmp_path):
    source = build_source(config(data)["dataset"], "train")
    ten = draw_points(source, "uniform", 10, 0)
    assert main(["sample", *data, f"out={tmp_path / '1.npz'}"]) == 0
    assert PointsFile.load(tmp_path / "1.npz").fingerprint == ten.select(1).fingerprint
    assert main(["sample", *data, "seed=1", f"out={tmp_path / 's.npz'}"]) == 0
    assert PointsFile.load(tmp_path / "s.npz").fingerprint != ten.select(1).fingerprint


def test_sample_of_the_other_split_and_of_scribbles(data, tmp_path):
    assert main(["sample", *data, "split=val", "strategy=scribbles", f"out={tmp_path / 's.npz'}"]) == 0
    points = PointsFile.load(tmp_path / "s.npz")
    assert [record.file_name[:-4] for record in points.records] == trees.VOC_VAL and points.strategy == "scribbles"


def test_a_points_file_of_the_command_is_what_a_run_uses(data, drawn, tmp_path):
    words = (f"dataset.points.file={drawn}", "dataset.points.count=2", f"results_dir={tmp_path}")
    assert points_of(config(data, *words), "train").fingerprint == PointsFile.load(drawn).fingerprint


@pytest.mark.parametrize(("form", "name"), [("csv", "p.csv"), ("panoptic_png", "pp"), ("whats_the_point", "p.json"),
                                            ("sparse_png", "sp"), ("scribble_png", "sc")])
def test_export_and_import_through_the_data_set(data, drawn, tmp_path, form, name, capsys):
    out = tmp_path / "exported" / name
    assert main(["export", f"points={drawn}", f"format={form}", f"out={out}"]) == 0
    assert main(["import", f"points={out}", f"format={form}", f"out={tmp_path / 'again.npz'}", *data]) == 0
    points, again = PointsFile.load(drawn), PointsFile.load(tmp_path / "again.npz")
    for column in ("target_image", "target_segment", "target_category", "point_target"):
        assert np.array_equal(getattr(again, column), getattr(points, column))
    assert set(zip(points.point_target, points.point_x, points.point_y, strict=True)) == set(
        zip(again.point_target, again.point_x, again.point_y, strict=True))
    capsys.readouterr()
    assert main(["check", f"points={out}", f"format={form}", *data]) == 0
    assert "No errors." in capsys.readouterr().out
    # and what was imported trains: its targets are found in the masks
    run = config(data, f"dataset.points.file={tmp_path / 'again.npz'}", "dataset.points.count=2", f"results_dir={tmp_path}")
    assert points_of(run, "train").source_fingerprint == points.source_fingerprint


def test_import_of_images_alone(prepared, tmp_path, capsys):
    images = f"images={prepared / 'train'}"
    table = tmp_path / "p.csv"
    table.write_text("image,x,y,class,instance,isthing\n2007_000032.jpg,3,4,horse,a,1\n2007_000032.jpg,4,4,horse,a,1\n"
                     "2007_000039,1,1,sky,,0\n")
    assert main(["import", f"points={table}", images, f"out={tmp_path / 'p.npz'}"]) == 0
    points = PointsFile.load(tmp_path / "p.npz")
    assert points.source_fingerprint == "" and points.categories.names == ["horse", "sky"] and points.count == 2
    assert [r.file_name for r in points.records] == ["2007_000032.jpg", "2007_000039.jpg"]
    assert {(r.height, r.width) for r in points.records} == {trees.SIZE}
    clicks = tmp_path / "p.json"
    clicks.write_text(json.dumps({"2007_000032": [{"x": 1, "y": 2, "cls": 13, "rank": 1}]}))
    assert main(["import", f"points={clicks}", images, "classes=voc2012", f"out={tmp_path / 'w.npz'}"]) == 0
    assert PointsFile.load(tmp_path / "w.npz").target_category.tolist() == [13]
    own = ["classes=[sky,cat,dog]", "stuff=[sky]"]
    assert main(["import", f"points={clicks}", images, *own, f"out={tmp_path / 'x.npz'}"]) == 1
    assert "cls 13 is no class; they are 1..3" in capsys.readouterr().out
    assert not (tmp_path / "x.npz").exists()
    assert main(["export", f"points={tmp_path / 'p.npz'}", "format=panoptic_png", f"out={tmp_path / 'pp'}"]) == 0
    assert main(["import", f"points={tmp_path / 'pp'}", "format=panoptic_png", f"out={tmp_path / 'y.npz'}"]) == 0
    assert PointsFile.load(tmp_path / "y.npz").categories == points.categories
    spoken = ["format=sparse_png", f"points={tmp_path / 'sp'}"]
    assert main(["export", f"points={tmp_path / 'p.npz'}", spoken[0], f"out={tmp_path / 'sp'}", "values=[sky,horse]"]) == 0
    assert np.asarray(Image.open(tmp_path / "sp" / "2007_000039.png"))[1, 1] == 0  # sky comes first
    words = [*spoken, images, "classes=[horse,sky]", "stuff=[sky]", "values=[sky,horse]", f"out={tmp_path / 'z.npz'}"]
    assert main(["import", *words]) == 0
    assert PointsFile.load(tmp_path / "z.npz").target_category.tolist() == [1, 2]


def test_import_keeps_back_what_has_problems_unless_partial(data, tmp_path, capsys):
    table = tmp_path / "p.csv"
    table.write_text("image,x,y,class,instance\n2007_000032.jpg,nan,4,horse,\n2007_000039.jpg,25,0,background,\n")
    words = ["import", f"points={table}", *data, f"out={tmp_path / 'p.npz'}"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "p.csv, line 2: x is nan, which is no place in an image." in said and "Nothing was written." in said
    assert not (tmp_path / "p.npz").exists()
    assert main([*words, "allow_partial=true"]) == 0
    assert len(PointsFile.load(tmp_path / "p.npz").point_x) == 1
    table.write_text("image,x,y,class,instance\n2007_000032.jpg,nan,4,horse,\n")
    assert main([*words[:-1], f"out={tmp_path / 'q.npz'}", "allow_partial=true"]) == 2
    assert "has no point that can be used" in capsys.readouterr().out and not (tmp_path / "q.npz").exists()


def test_check_finds_confused_label_values(prepared, tmp_path, capsys):
    """255 for unlabelled in maps that should have 21, and 0 for unlabelled."""
    for name, values in (("2007_000032", 255), ("2007_000039", 0)):
        labels = np.full(trees.SIZE, values, dtype=np.uint8)
        labels[2, 2] = 13
        trees.palette_png(tmp_path / "maps" / f"{name}.png", labels)
    words = [f"points={tmp_path / 'maps'}", "format=sparse_png", f"images={prepared / 'train'}", "classes=voc2012"]
    assert main(["check", *words]) == 1
    said = "".join(capsys.readouterr().out.split())
    assert "labelsthatcannotbeused" in said and "1kindsoferrors" in said
    assert main(["import", *words, f"out={tmp_path / 'p.npz'}"]) == 1
    said = capsys.readouterr().out
    assert "pixels of 255, which in sparse maps means padding" in said and "% zeros, but 0 is a class" in said


def test_check_compares_points_with_masks(data, drawn, tmp_path, capsys):
    table = tmp_path / "p.csv"
    assert main(["export", f"points={drawn}", "format=csv", f"out={table}"]) == 0
    moved = table.read_text().replace(",horse,", ",sheep,")
    assert moved != table.read_text()
    table.write_text(moved)
    capsys.readouterr()
    assert main(["check", f"points={table}", *data]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "labels that cannot be used" in said and "errors" in said
    # a points file is compared as it is
    points = PointsFile.load(drawn)
    points.point_x[:] = 0
    points.point_y[:] = 0
    points.save(tmp_path / "moved.npz")
    assert main(["check", f"points={tmp_path / 'moved.npz'}", *data]) == 1
    said = capsys.readouterr().out
    assert "points on another class" in said and "points at a pixel" in said  # the table breaks longer texts


def test_check_of_images_without_masks(prepared, drawn, capsys):
    assert main(["check", f"points={drawn}", f"images={prepared / 'train'}"]) == 0
    assert main(["check", f"points={drawn}", f"images={prepared / 'val'}"]) == 1
    assert "images that cannot be" in capsys.readouterr().out


def test_show_draws_marks_where_points_are(data, prepared, drawn, tmp_path):
    assert main(["show", f"points={drawn}", *data, f"out={tmp_path / 'pictures'}", "count=2"]) == 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["2007_000032.png", "2009_000001.png"]  # evenly spread over five
    points, picture = PointsFile.load(drawn), np.asarray(Image.open(pictures[0])).astype(int)
    photograph = np.asarray(Image.open(prepared / "train" / "2007_000032.jpg")).astype(int)
    factor = 480 // 20
    assert picture.shape[1] == 26 * factor and picture.shape[0] > 20 * factor  # a legend below
    untouched = picture[factor // 2 : 20 * factor : factor, factor // 2 :: factor]
    labels = points.labels_of(0)
    hit = np.zeros(trees.SIZE, dtype=bool)
    hit[labels.xy[:, 1].numpy(), labels.xy[:, 0].numpy()] = True
    assert (untouched[~hit] == photograph[~hit]).all() and (untouched[hit] != photograph[hit]).any(axis=-1).all()


def test_show_goes_on_after_a_broken_image(tmp_path, prepared, drawn, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (prepared / "train").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "2007_000032.jpg").write_bytes(b"")
    assert main(["show", f"points={drawn}", f"images={images}", f"out={tmp_path / 'pictures'}"]) == 1
    said = capsys.readouterr().out
    assert "2007_000032.jpg cannot be decoded" in said and "4 pictures" in said


@pytest.mark.parametrize("command", ["sample", "import", "export", "show"])
def test_no_room_leaves_nothing_behind(data, drawn, tmp_path, monkeypatch, capsys, command):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert main(["export", f"points={drawn}", "format=csv", f"out={tmp_path / 'p.csv'}"]) == 0
    out = tmp_path / "new" / "result.npz"
    words = {
        "sample": data, "import": [f"points={tmp_path / 'p.csv'}", *data], "show": [f"points={drawn}", *data],
        "export": [f"points={drawn}", "format=sparse_png"],
    }[command]  # fmt: skip
    monkeypatch.setattr(os, "replace", full)
    assert main([command, *words, f"out={out}"]) == 2
    assert f"{out} cannot be written: No space left on device; make room" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_an_output_below_a_file(data, drawn, capsys):
    assert main(["sample", *data, f"out={drawn / 'x.npz'}"]) == 2
    assert "x.npz cannot be written: a file is where a folder should be" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "sentence"), [
    (["draw"], "Unknown command 'draw'"),
    (["sample", "out=x"], "has no folder: set dataset.root=FOLDER"),
    (["sample", "dataset.root=/nowhere", "out=x"], "/nowhere of data set 'coco_panoptic' does not exist"),
    (["sample", "dataset.root=/nowhere", "out=x", "strategy=unform"], "Unknown strategy 'unform'; did you mean 'uniform'?"),
    (["sample", "dataset.roott=x", "out=x"], "Unknown key 'dataset.roott'; did you mean 'dataset.root'?"),
    (["sample", "out=x", "count=0"], "count=0 is not a number of things"),
    (["sample", "out=x", "seed=-1"], "seed=-1 is not a whole number"),
    (["sample", "out=x", "split=test"], "Unknown split 'test'"),
    (["import", "points=x"], "out= is missing"),
    (["import", "points=x", "out=y"], "Of what format is x? Add format= and one of npz, csv"),
    (["import", "points=x", "format=cvs", "out=y"], "Unknown format 'cvs'; did you mean 'csv'?"),
    (["import", "points=/nowhere/p.csv", "out=y"], "/nowhere/p.csv does not exist"),
    (["export", "points=/nowhere/p.npz", "format=csv", "out=y"], "points file /nowhere/p.npz does not exist"),
    (["export", "points=x", "format=xml", "out=y"], "Unknown format 'xml'"),
    (["check", "point=x"], "Unknown word 'point'; did you mean 'points'?"),
])
def test_command_lines_that_cannot_be_used(capsys, words, sentence):
    assert main(words) == 2
    said = capsys.readouterr().out
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "Which images are these points of? Add images=DIR, or dataset.root=FOLDER."),
    (["images=/nowhere"], "images folder /nowhere does not exist"),
    (["images=IMAGES"], "Which classes are these? Add classes="),
    (["images=IMAGES", "classes=[cat]", "stuff=[sky]"], "stuff= has sky, which is none of classes=[cat]"),
    (["images=IMAGES", "classes=[cat,cat]"], "Category name cat is listed more than once"),
    (["images=IMAGES", "classes=none.json"], "none.json does not exist"),
    (["images=IMAGES", "classes=[cat,sky]", "values=[cat]"], "values= must list each class once: cat, sky; it has cat."),
])
def test_words_about_classes_and_images(prepared, tmp_path, capsys, words, sentence):
    (tmp_path / "p.json").write_text("{}")
    words = [word.replace("IMAGES", str(prepared / "train")) for word in words]
    assert main(["import", f"points={tmp_path / 'p.json'}", f"out={tmp_path / 'x'}", *words]) == 2
    assert sentence in capsys.readouterr().out


def test_points_of_other_classes_are_not_compared_with_a_data_set(drawn, tmp_path, capsys):
    trees.coco_tree(tmp_path / "coco")
    root = tmp_path / "coco"
    words = [f"dataset.root={root}", "dataset.json='annotations/panoptic_{split}2017.json'",
             "dataset.masks='annotations/panoptic_{split}2017'", "dataset.images='{split}2017'"]
    assert main(["check", f"points={drawn}", *words]) == 2
    assert "its classes are not those of data set 'coco_panoptic'" in capsys.readouterr().out


@pytest.mark.slow
def test_both_commands_are_modules():
    for module, word in (("benchmark.points", "whats_the_point"), ("benchmark.data", "allow_partial=true")):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
        assert word in done.stdout


@pytest.mark.slow
def test_photographs_draw_export_and_check(tmp_path):
    root = SHARED / "coco_voc20"
    if not root.is_dir():
        pytest.skip("the photographs in COCO panoptic format are not beside the checkout (../shared/data)")
    words = [f"dataset.root={root}", "split=val"]
    assert main(["sample", *words, "count=10", f"out={tmp_path / 'p.npz'}"]) == 0
    points = PointsFile.load(tmp_path / "p.npz")
    source = build_source(compose_run(["dataset=coco_panoptic", words[0]])["dataset"], "val")
    assert points.fingerprint == ensure_points(source, tmp_path, "uniform", 10, 0).fingerprint
    assert main(["check", f"points={tmp_path / 'p.npz'}", *words]) == 0
    assert main(["export", f"points={tmp_path / 'p.npz'}", "format=sparse_png", f"out={tmp_path / 'sp'}"]) == 0
    assert len(list((tmp_path / "sp").glob("*.png"))) == 76
    again = [f"points={tmp_path / 'sp'}", "format=sparse_png", f"out={tmp_path / 'q.npz'}"]
    assert main(["import", *words, *again]) == 0
    assert len(PointsFile.load(tmp_path / "q.npz").point_x) == len(points.point_x)
