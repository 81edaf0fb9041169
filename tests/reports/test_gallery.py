"""Galleries: the same images for all methods, whatever a run stored or lacks."""

import json

import numpy as np
import pytest

from reports import render
from reports.gallery import PANELS, load_gallery
from reports.records import load_grid
from reports.tables import result_table


def gallery(results):
    return load_gallery(result_table(load_grid(results, "demo")))


def edit_index(results, edit):
    path = results / "runs" / "p2m-s0" / "pictures" / "index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_one_row_per_method_with_pictures(results):
    found = gallery(results)
    assert not found.problems
    (image,) = found.images
    assert [row.name for row in image.rows] == ["psps, P1", "point2mask, P1"]
    assert (image.key, image.image_id, image.split) == ("val_000003", "7", "val")
    assert all(len(row.panels) == len(PANELS) and None not in map(type, row.panels) for row in image.rows)
    assert {panel.shape for row in image.rows for panel in row.panels} == {(240, 360, 3)}  # 60 x 90, four times
    assert list(image.legend) == ["cat", "dog", "background"]
    assert image.legend["background"] == render.category_color(21, stuff=True)


def test_a_photograph_is_drawn_only_where_it_is_stored(results):
    with_photo, without = (row.panels[0] for row in gallery(results).images[0].rows)
    assert len(np.unique(with_photo.reshape(-1, 3), axis=0)) > 20
    colors = {tuple(c) for c in np.unique(without.reshape(-1, 3), axis=0)}
    assert colors == {render.NEUTRAL, (160, 160, 166), (255, 255, 255), (0, 0, 0)}  # outlines and points only


def test_ground_truth_is_the_same_in_all_rows(results):
    first, second = (row.panels[3] for row in gallery(results).images[0].rows)
    assert (first == second).all()


@pytest.mark.parametrize(("which", "panel"), [("labels", 1), ("prediction", 2), ("ground_truth", 3)])
def test_a_picture_that_was_not_stored_is_an_empty_panel(results, which, panel):
    (results / "runs" / "p2m-s0" / "pictures" / f"val_000003_{which}.png").unlink()
    found = gallery(results)
    row = found.images[0].rows[1]
    assert [p is None for p in row.panels] == [i == panel for i in range(4)]
    assert found.images[0].sheet().ndim == 3 and not found.problems


def test_only_points_are_left_without_any_map(results):
    for which in ("labels", "prediction", "ground_truth"):
        (results / "runs" / "p2m-s0" / "pictures" / f"val_000003_{which}.png").unlink()
    panel = gallery(results).images[0].rows[1].panels[0]
    assert {tuple(c) for c in np.unique(panel.reshape(-1, 3), axis=0)} == {render.NEUTRAL, (255, 255, 255), (0, 0, 0)}


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
    assert [row.name for row in found.images[0].rows] == ["psps, P1"]


def test_a_file_that_is_no_picture_is_a_sentence(results):
    (results / "runs" / "p2m-s0" / "pictures" / "val_000003_labels.png").write_text("hello")
    assert "val_000003" in gallery(results).problems[0]


def test_images_that_most_methods_have_come_first(results):
    folder = results / "runs" / "psps-s0" / "pictures"
    content = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps([{**content[0], "key": "val_000001"}, *content]))
    assert [image.key for image in gallery(results).images] == ["val_000003", "val_000001"]
