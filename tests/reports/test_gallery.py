"""Galleries: the same images for all methods, whatever a run stored or lacks."""

import json

import numpy as np
import pytest
from PIL import Image

from reports import render
from reports.gallery import load_gallery
from reports.records import load_grid
from reports.strips import thing_iou
from reports.tables import result_table
from tests.reports.sweep import TARGETS, labels_of, scene


def gallery(results):
    return load_gallery(result_table(load_grid(results, "demo")))


def edit_index(results, edit):
    path = results / "runs" / "p2m-s0" / "pictures" / "index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def captions(strip):
    return [tile.caption for tile in strip.tiles]


def test_points_and_truth_once_then_a_tile_per_method(results):
    found = gallery(results)
    assert not found.problems
    (image,) = found.images
    assert (image.key, image.image_id, image.split) == ("val_000003", "7", "val")
    assert [strip.title for strip in image.strips] == ["Points and ground truth", "Pseudo labels", "Predictions"]
    assert captions(image.strips[0]) == ["1 point per target", "ground truth"]
    assert captions(image.strips[1]) == captions(image.strips[2]) == ["psps, P1", "point2mask, P1"]
    assert {tile.picture.shape for strip in image.strips for tile in strip.tiles} == {(240, 360, 3)}  # 60 x 90, four times
    assert list(image.legend) == ["cat", "dog", "background"]
    assert image.legend["background"] == render.category_color(21, stuff=True)


def test_a_photograph_is_drawn_only_where_it_is_stored(results):
    with_photo = gallery(results).images[0].strips[0].tiles[0].picture
    assert len(np.unique(with_photo.reshape(-1, 3), axis=0)) > 20
    (results / "runs" / "psps-s0" / "pictures" / "val_000003_image.png").unlink()
    without = gallery(results).images[0].strips[0].tiles[0].picture
    colors = {tuple(c) for c in np.unique(without.reshape(-1, 3), axis=0)}
    assert colors == {render.NEUTRAL, (160, 160, 166), (255, 255, 255), (0, 0, 0)}  # outlines and points only


def test_other_points_have_a_tile_of_their_own(results):
    edit_index(results, lambda index: index[0]["points"].append({**index[0]["points"][0], "x": 1}))
    assert captions(gallery(results).images[0].strips[0]) == ["1 point per target", "2 points per target", "ground truth"]
    edit_index(results, lambda index: index[0]["points"].pop(0))
    moved = "1 point per target (point2mask, P1)"
    assert captions(gallery(results).images[0].strips[0]) == ["1 point per target", moved, "ground truth"]


def test_another_ground_truth_has_a_tile_of_its_own(results):
    folder = results / "runs" / "p2m-s0" / "pictures"
    (folder / "val_000003_prediction.png").replace(folder / "val_000003_ground_truth.png")
    assert captions(gallery(results).images[0].strips[0])[1:] == ["ground truth", "ground truth (point2mask, P1)"]


@pytest.mark.parametrize(("which", "strip"), [("labels", 1), ("prediction", 2)])
def test_a_picture_that_was_not_stored_is_an_empty_tile(results, which, strip):
    (results / "runs" / "p2m-s0" / "pictures" / f"val_000003_{which}.png").unlink()
    found = gallery(results)
    assert [tile.picture is None for tile in found.images[0].strips[strip].tiles] == [False, True]
    assert found.images[0].sheet().ndim == 3 and not found.problems


@pytest.mark.parametrize(("which", "left"), [("labels", "Predictions"), ("prediction", "Pseudo labels")])
def test_what_no_run_stored_has_no_strip(results, which, left):
    with_all = gallery(results).images[0].sheet()
    for path in results.glob(f"runs/*/pictures/val_000003_{which}.png"):
        path.unlink()
    (image,) = gallery(results).images
    assert [strip.title for strip in image.strips] == ["Points and ground truth", left]
    assert image.sheet().shape[0] < with_all.shape[0] - 240


def test_only_points_are_left_without_any_map(results):
    for path in results.glob("runs/*/pictures/val_000003_*.png"):
        path.unlink()
    (strip,) = gallery(results).images[0].strips
    (tile,) = strip.tiles
    assert {tuple(c) for c in np.unique(tile.picture.reshape(-1, 3), axis=0)} == {
        render.NEUTRAL, (255, 255, 255), (0, 0, 0)
    }  # fmt: skip
    assert tile.picture.shape == (240, 360, 3)


def test_instances_of_labels_keep_their_colours_if_one_has_no_pixel(results):
    folder = results / "runs" / "p2m-s0" / "pictures"
    path = folder / "val_000003_labels.png"
    before = gallery(results).images[0].strips[1].tiles[1].picture
    ids = np.asarray(Image.open(path)).copy()
    middle = np.argwhere(ids[..., 0] == 2).mean(0).astype(int)
    ids[ids[..., 0] == 1] = 0
    Image.fromarray(ids).save(path)
    edit_index(results, lambda index: index[0]["segments"]["labels"].pop(0))
    after = gallery(results).images[0].strips[1].tiles[1].picture
    y, x = 4 * middle + 12  # beside the point's mark
    assert tuple(before[y, x]) == tuple(after[y, x]) == render.category_color(1, 1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda index: index[0].update(key="../../psps-s0/pictures/val_000003"),
        lambda index: index[0].update(height=61),
        lambda index: index[0].pop("points"),
        lambda index: index[0].update(segments=3),
        lambda index: index.append("x"),
    ],
)
def test_broken_pictures_are_a_sentence_and_the_others_stay(results, edit):
    edit_index(results, edit)
    found = gallery(results)
    assert len(found.problems) == 1 and "p2m-s0" in found.problems[0]
    assert captions(found.images[0].strips[1]) == ["psps, P1"]


def test_a_file_that_is_no_picture_is_a_sentence(results):
    (results / "runs" / "p2m-s0" / "pictures" / "val_000003_labels.png").write_text("hello")
    assert "val_000003" in gallery(results).problems[0]


def copy_image(results, run, key, shift_labels):
    """A second image of a run: the same files under another key, its labels moved."""
    folder = results / "runs" / run / "pictures"
    (first,) = json.loads((folder / "index.json").read_text())
    for which in ("labels", "prediction", "ground_truth"):
        ids = np.asarray(Image.open(folder / f"val_000003_{which}.png"))
        moved = np.roll(ids, shift_labels, axis=1) if which == "labels" else ids
        Image.fromarray(moved).save(folder / f"{key}_{which}.png")
    (folder / "index.json").write_text(json.dumps([first, {**first, "key": key, "image_id": 8}]))


def test_images_on_which_rows_differ_most_come_first_and_the_worst_are_marked(results):
    copy_image(results, "psps-s0", "val_000009", 0)
    copy_image(results, "p2m-s0", "val_000009", 9)
    found = gallery(results)
    assert [image.key for image in found.images] == ["val_000009", "val_000003"]
    assert found.images[0].spread > found.images[1].spread > 0
    labels = {image.key: {tile.row: tile for tile in image.strips[1].tiles} for image in found.images}
    assert labels["val_000009"][1].worst and not labels["val_000003"][1].worst
    assert labels["val_000009"][1].note.endswith(", the worst here of this row")
    assert not any(labels[key][0].worst for key in labels)  # as good on both


def test_tiles_say_how_well_they_fit(results):
    """Against a count of pixels by the known identity of every label."""
    tiles = gallery(results).images[0].strips[1].tiles
    assert [(tile.row, tile.worst) for tile in tiles] == [(0, False), (1, False)]
    for tile, shift in zip(tiles, (2, 5), strict=True):
        truth, labels = scene(), labels_of(scene(), shift)
        known = [np.sum((truth == s) & (labels == i)) / np.sum(((truth == s) | (labels == i)) & (truth > 0))
                 for i, (s, _) in enumerate(TARGETS[:3], 1)]  # fmt: skip
        assert tile.iou == pytest.approx(np.mean(known)) and tile.note == f"IoU {100 * tile.iou:.0f}"


def test_the_fit_is_that_of_the_best_segment_of_the_class():
    truth = np.array([[1, 1, 1, 1, 2, 2, 0, 0]])
    ids = np.array([[5, 5, 5, 6, 7, 7, 7, 5]])
    kinds = {5: 1, 6: 1, 7: 9}
    assert thing_iou(truth, {1: 1, 2: 2}, ids, kinds) == pytest.approx((3 / 4 + 0) / 2)  # 7 is of another class
    assert thing_iou(truth, {}, ids, kinds) is None and thing_iou(truth, {3: 1}, ids, kinds) is None


def test_photographs_are_left_out_on_demand(results):
    tile = load_gallery(result_table(load_grid(results, "demo")), photographs=False).images[0].strips[0].tiles[0]
    colors = {tuple(c) for c in np.unique(tile.picture.reshape(-1, 3), axis=0)}
    assert colors == {render.NEUTRAL, (160, 160, 166), (255, 255, 255), (0, 0, 0)}


def test_images_that_most_methods_have_come_first(results):
    folder = results / "runs" / "psps-s0" / "pictures"
    content = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps([{**content[0], "key": "val_000001"}, *content]))
    assert [image.key for image in gallery(results).images] == ["val_000003", "val_000001"]
