"""A data set of images and points: what is read from which file, and what is said when it cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmark.build import points_of, supervision_of
from benchmark.configs import compose_run
from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, ImageSource
from benchmark.data.points import draw_points
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import displayed_size, read_displayed
from benchmark.data.sources import PointsFolder, build_images, build_source
from tests.benchmark.points_folders import clicked_rows, folder_config, scenes, write_csv, write_points_folder
from tests.benchmark.tiny_runs import write_photographs


def config_of(folder, points, *words):
    return folder_config(folder, points, folder.parent / "results", *words)


@pytest.fixture
def data(tmp_path):
    return write_points_folder(tmp_path)


def refused(said, folder, points, *words):
    with pytest.raises(DataError, match=said) as caught:
        points_of(config_of(folder, points, *words), "train")
    assert "\n" not in str(caught.value)


def test_a_folder_is_a_source_without_annotations(data):
    source = build_source(config_of(*data)["dataset"], "train")
    assert isinstance(source, PointsFolder) and isinstance(source, ImageSource) and not isinstance(source, AnnotatedSource)
    assert [record.file_name for record in source.records] == [f"train_{i:06d}.png" for i in range(4)]
    assert np.array_equal(source.read_image(source.records[2]), scenes().read_image(scenes().records[2]))
    assert len(build_source(config_of(*data)["dataset"], "val").records) == 0


def test_the_points_of_a_csv_are_those_that_were_clicked(data):
    """The same places and classes as in the points file that the CSV was written from."""
    found, drawn = points_of(config_of(*data), "train"), draw_points(scenes(), "uniform", 1, 0)
    assert found.count == 1 and found.strategy == "clicked" and found.source_fingerprint == ""
    for image in range(4):
        ours, theirs = found.labels_of(image), drawn.labels_of(image)
        assert ours.xy.tolist() == theirs.xy.tolist()
        assert [found.categories[i].name for i in ours.classes] == [drawn.categories[i].name for i in theirs.classes]


def test_all_points_or_the_first_of_each_target_are_used(tmp_path):
    folder, points = write_points_folder(tmp_path, per_target=3)
    whole = points_of(config_of(folder, points), "train")
    first = points_of(config_of(folder, points, "dataset.points.count=1"), "train")
    assert whole.count == 3 and len(whole.point_x) == 3 * len(first.point_x)
    assert np.array_equal(whole.select(1).point_x, first.point_x)
    refused("up to 3 points per target", folder, points, "dataset.points.count=4")


def test_a_points_file_does_as_well(data, tmp_path):
    drawn = draw_points(scenes(), "uniform", 1, 0)
    drawn.save(tmp_path / "points.npz")
    assert points_of(config_of(data[0], tmp_path / "points.npz"), "train").fingerprint == drawn.fingerprint
    (data[0] / "train_000002.png").unlink()
    refused("1 images that .* does not have, the first is train_000002.png", data[0], tmp_path / "points.npz")


def test_classes_come_from_a_json_as_well(data, tmp_path):
    rows = [row[:5] for row in clicked_rows()]
    points = write_csv(tmp_path / "plain.csv", rows, ("image", "x", "y", "class", "instance"))
    refused("which classes are things", data[0], points)
    listed = tmp_path / "categories.json"
    for content in (scenes().categories.to_coco(), {"categories": scenes().categories.to_coco(), "images": []}):
        listed.write_text(json.dumps(content))
        found = points_of(config_of(data[0], points, f"dataset.categories={listed}"), "train")
        assert found.categories == scenes().categories
    listed.write_text('[{"id": 1, "name": "cat"}]')
    refused(r"categories\.json are unusable .*isthing", data[0], points, f"dataset.categories={listed}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset.images=null",), r"dataset\.images=DIR"), (("dataset.points.file=null",), r"dataset\.points=FILE"),
        (("dataset.images=/nowhere",), "/nowhere .* does not exist"),
        (("dataset.points=/nowhere.csv",), "/nowhere.csv does not"),
        (("dataset.points=/nowhere.npz",), "/nowhere.npz does not"),
        (("dataset.categories=/nowhere.json",), "/nowhere.json does not"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(data, words, said):
    refused(said, *data, *words)


def spoil(path, how):
    whole = path.read_bytes()
    path.write_bytes({"zero-byte": b"", "no image": b"hello", "cut head": whole[:20]}[how])


@pytest.mark.parametrize("how", ["zero-byte", "no image", "cut head"])
def test_an_image_that_is_none_is_named_before_training(data, how):
    spoil(data[0] / "train_000001.png", how)
    refused("train_000001.png cannot be decoded", *data)


def test_an_image_that_is_absent_is_named_before_training(data):
    (data[0] / "train_000003.png").unlink()
    refused("train_000003.png does not exist", *data)


def test_a_wrong_line_is_named_before_training(data, tmp_path):
    rows = clicked_rows()
    wrong = [(rows[0][0], x, 3, *rows[0][3:]) for x in (64, "nan")]
    points = write_csv(tmp_path / "wrong.csv", [*rows, *wrong])
    refused(rf"wrong\.csv, line {len(rows) + 3}: x is nan", data[0], points)
    write_csv(points, [*rows, wrong[0]])
    refused(rf"wrong\.csv, line {len(rows) + 2}: the point x=64, y=3 is outside .*64 x 64", data[0], points)


def test_methods_on_masks_are_refused(data):
    for method in ("full_masks", "oracle_nearest"):
        config = config_of(*data, f"method={method}")
        with pytest.raises(DataError, match=r"reads masks, and data set 'points_folder' has points only"):
            supervision_of(config, build_source(config["dataset"], "train"))
    assert supervision_of(config_of(*data), build_source(config_of(*data)["dataset"], "train")) == "points"


def test_validation_images_with_masks_need_the_same_classes(data, tmp_path):
    write_photographs(tmp_path / "coco")
    val = [f"dataset.val.json={tmp_path}/coco/panoptic_val.json", f"dataset.val.images={tmp_path}/coco/val"]
    with pytest.raises(DataError, match=r"panoptic_val\.json are not those of .*dataset\.categories="):
        build_source(config_of(*data, *val)["dataset"], "val")
    config = config_of(*data, *val, f"dataset.categories={tmp_path}/coco/panoptic_val.json")
    assert len(build_source(config["dataset"], "val").records) == 2
    assert len(points_of(config, "val").records) == 2


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_images_are_read_as_they_are_shown(tmp_path, orientation, turn):
    """A click is made on the turned image: a red corner is where viewers show it."""
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    shown = np.rot90(pixels, turn)
    assert displayed_size(tmp_path / "a.png") == shown.shape[:2]
    assert np.array_equal(read_displayed(tmp_path / "a.png"), shown)
    rows, cols = np.nonzero(shown[..., 0])
    points = write_csv(tmp_path / "p.csv", [("a.png", cols[0], rows[0], "corner", "", 1)])
    config = config_of(tmp_path, points)
    found = points_of(config, "train")
    image = build_images(config["dataset"], "train", found.records).read_image(found.records[0])
    assert image[found.point_y[0], found.point_x[0]].tolist() == [255, 0, 0]


def test_the_place_of_files_is_no_content(data, tmp_path):
    moved = data[0].rename(tmp_path / "elsewhere")
    again = points_of(config_of(moved, data[1].rename(tmp_path / "same.csv")), "train")
    assert isinstance(again, PointsFile) and len(again.records) == 4
    write_csv(tmp_path / "other.csv", clicked_rows()[:-1])
    assert again.fingerprint != points_of(config_of(moved, tmp_path / "other.csv"), "train").fingerprint


def test_a_path_for_points_is_their_file():
    assert compose_run(["dataset=points_folder", "dataset.points=a.csv"])["dataset"]["points"]["file"] == "a.csv"
    assert compose_run(["dataset.points=b.npz"])["dataset"]["points"] == {
        **compose_run([])["dataset"]["points"], "file": "b.npz",
    }  # fmt: skip
