"""Galleries: the same images for all methods, whatever a run stored or lacks."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmark.scalar_maps import GrayMap
from reports import render
from reports.gallery import load_gallery
from reports.grids import load_grid
from reports.maps import StoredMap
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


MAPS = "Distance and cost maps"


def maps_of(results, **options):
    """The tiles of the strip of maps."""
    found = load_gallery(result_table(load_grid(results, "demo")), **options)
    return next((strip.tiles for strip in found.images[0].strips if strip.title == MAPS), ())


def without_maps(results):
    """As runs were stored before there were maps."""
    for path in results.glob("runs/*/pictures/index.json"):
        entries = json.loads(path.read_text())
        path.write_text(json.dumps([{key: entry[key] for key in entry if key != "maps"} for entry in entries]))


def captions(strip):
    return [tile.caption for tile in strip.tiles]


def test_points_and_truth_once_then_a_tile_per_method(results):
    found = gallery(results)
    assert not found.problems
    (image,) = found.images
    assert (image.key, image.image_id, image.split) == ("val_000003", "7", "val")
    assert [strip.title for strip in image.strips] == ["Points and ground truth", "Pseudo labels", MAPS, "Predictions"]
    assert captions(image.strips[0]) == ["1 point per target", "ground truth"]
    assert captions(image.strips[1]) == captions(image.strips[3]) == ["psps, P1", "point2mask, P1"]
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


@pytest.mark.parametrize(("which", "strip"), [("labels", 1), ("prediction", 3)])
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
    assert [strip.title for strip in image.strips if strip.title != MAPS] == ["Points and ground truth", left]
    assert image.sheet().shape[0] < with_all.shape[0] - 240


def test_only_points_are_left_without_any_map(results):
    for path in results.glob("runs/*/pictures/val_000003_*.png"):
        path.unlink()
    without_maps(results)
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
        lambda index: index[0]["maps"][0].update(file="../x.png"),
        lambda index: index[0]["maps"][0].pop("low"),
        lambda index: index[0].update(maps=5),
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


def test_a_grid_of_many_rows_shows_fewer_images(results, monkeypatch):
    path = results / "runs" / "psps-s0" / "pictures" / "index.json"
    (first,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**first, "key": f"val_{number:06d}"} for number in range(12)]))
    for tiles, images in ((240, 8), (6, 3), (1, 2)):  # of two rows
        monkeypatch.setattr("reports.gallery.MOST_TILES", tiles)
        assert len(gallery(results).images) == images


# --- maps that labels were decided from -------------------------------------------------------------------------------


def test_maps_are_tiles_of_the_same_size_with_their_name_and_range(results):
    tiles = maps_of(results)
    assert [(tile.caption, tile.row) for tile in tiles] == [("psps, P1", 0), ("psps, P1", 0), ("point2mask, P1", 1)]
    assert {tile.picture.shape for tile in tiles} == {(240, 360, 3)}
    distance, sure = "path distance: 0 to 25.2 px, bright is far", "sureness <b>: 0.5 everywhere, bright is sure; grey: void"
    assert [tile.detail for tile in tiles] == [distance, sure, distance]
    assert gallery(results).terms == (("path distance", "How <far>."), ("sureness <b>", "How sure."))
    assert all(tile.iou is None and tile.told == f"{tile.caption}\n{tile.detail}" for tile in tiles)


def test_a_map_is_bright_where_it_is_high_and_neutral_where_nothing_is_known(results):
    """The outlines of labels and the points lie on it; away from both it is the colour of its values."""
    without_marks(results)
    distance, sureness, _ = (tile.picture.astype(int) for tile in maps_of(results))
    light = distance.sum(axis=-1)
    assert light[2, -3] > light[120, 180] > light[-3, 2]  # farthest is the right upper corner
    assert tuple(sureness[20, 180]) == render.NEUTRAL and tuple(sureness[-20, 180]) == tuple(distance[-1, 0])


def without_marks(results):
    """No points and no labels, whose marks lie on maps."""
    for path in results.glob("runs/*/pictures/val_000003_labels.png"):
        path.unlink()
    for path in results.glob("runs/*/pictures/index.json"):
        path.write_text(json.dumps([{**entry, "points": []} for entry in json.loads(path.read_text())]))


def test_points_and_outlines_of_labels_lie_on_a_map(results):
    marked = maps_of(results)[0].picture
    labels = np.asarray(Image.open(results / "runs" / "psps-s0" / "pictures" / "val_000003_labels.png"))[..., 0]
    without_marks(results)
    changed = (marked != maps_of(results)[0].picture).any(axis=-1)
    assert changed[render.outlines(render.enlarged(labels.astype(int), 4))].mean() > 0.99
    (first, *_) = json.loads((results / "runs" / "psps-s0" / "pictures" / "index.json").read_text())
    assert changed.mean() < 0.1 and not first["points"]


def test_runs_without_maps_have_no_strip_of_them(results):
    without_maps(results)
    found = gallery(results)
    assert [strip.title for strip in found.images[0].strips] == ["Points and ground truth", "Pseudo labels", "Predictions"]
    assert not found.problems and not found.terms


def test_a_method_that_decides_from_nothing_has_no_tile_and_a_lost_file_an_empty_one(results):
    edit_index(results, lambda index: index[0].update(maps=[]))
    assert [tile.caption for tile in maps_of(results)] == ["psps, P1", "psps, P1"]
    (results / "runs" / "psps-s0" / "pictures" / "val_000003_map_0.png").unlink()
    lost = maps_of(results)[0]
    assert lost.picture is None and lost.detail == "path distance" and not gallery(results).problems


def test_a_map_without_any_value_says_what_that_means(results):
    edit_index(results, lambda index: index[0]["maps"][0].update(low=None, high=None))
    tile = maps_of(results)[-1]
    assert tile.detail == "path distance: no thing"
    assert (tile.picture == render.NEUTRAL).all(axis=-1).mean() > 0.8


def test_maps_are_no_photographs(results):
    assert [tile.detail for tile in maps_of(results, photographs=False)] == [tile.detail for tile in maps_of(results)]


def test_a_name_that_means_two_things_is_told_with_its_rows(results):
    edit_index(results, lambda index: index[0]["maps"][0].update(about="Another path."))
    assert gallery(results).terms[:2] == (
        ("path distance (psps, P1)", "How <far>."), ("path distance (point2mask, P1)", "Another path."),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0, 3.21987, "0 to 3.22"), (0.000606, 1.2234, "0 to 1.22"), (0.4567, 0.6071, "0.457 to 0.607"), (3, 3, "3 everywhere"),
     (-0.004, 167.3, "0 to 167"), (12.5, 83.26, "12.5 to 83.3"), (1e-7, 3e-7, "1e-07 to 3e-07"), (0, 12345.6, "0 to 12300")],
)  # fmt: skip
def test_ends_of_a_map_have_the_digits_that_its_range_needs(low, high, told):
    gray = GrayMap(np.ones((2, 2), dtype=np.uint8), low, high)
    assert StoredMap("m", "", "far", "void", "", gray).told == f"m: {told}, bright is far"
