"""Hard images: from the sums of all scored images, only those that every row scored."""

import json

import pytest

from reports.grids import load_grid
from reports.hard_images import hard_images
from reports.tables import result_table
from tests.reports.sweep import record, write_run


def write_images(results, **rows):
    """Runs with a given label IoU for each training image, over two instances."""
    for name, images in rows.items():
        content = record(name, name, 0)
        sums = {image: [2 * iou, 2, 0, 0, 0, 0] for image, iou in images.items()}
        content["metrics"]["labels_train"]["quality"].update(images=sums, box_iou=dict.fromkeys(images, 0.0))
        write_run(results, content)
    (results / "g").mkdir()
    (results / "g" / "grid.json").write_text(json.dumps({"runs": list(rows)}))
    return hard_images(result_table(load_grid(results, "g")))


def test_images_are_sorted_by_difference_and_by_mean(tmp_path):
    differing, worst = write_images(
        tmp_path, one={"a": 0.9, "b": 0.2, "c": 0.5, "d": 0.5}, two={"a": 0.1, "b": 0.1, "c": 0.6, "e": 0.5}
    )
    assert [image.image for image in differing] == ["a", "b", "c"]  # d and e were scored in one row only
    assert [image.image for image in worst] == ["b", "a", "c"]
    first = differing[0]
    assert (first.split, first.best_row, first.worst_row) == ("train", "one, P1", "two, P1")
    assert (first.mean, first.worst, first.best) == pytest.approx((0.5, 0.1, 0.9))


def test_one_row_has_nothing_to_differ_from(tmp_path):
    assert write_images(tmp_path, one={"a": 0.9}) == ([], [])
