"""What pages say of a run that starts from the network of another one: supervision is points only if all of it is."""

from __future__ import annotations

import pytest

from benchmark.configs import compose_run
from benchmark.papers import paper_table
from reports.grids import load_grid
from reports.guards import check
from reports.papers import differences
from reports.records import load_record
from reports.supervision import is_points_only, supervision_text
from tests.reports.sweep import record, write_run
from tests.reports.test_tables import write_grid

POINTS = {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}
MASKS = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
CLAIM = "Rows not trained on masks read no box and no mask, nor did what they start from"


def started(*chain):
    """POINTS whose weights started from the first of a chain, which started from the next, and so on."""
    read = None
    for link in reversed(chain):
        read = {"weights": "x", "data_set": "coco", **link, **({"start": read} if read else {})}
    return {**POINTS, **({"start": read} if read else {})}


@pytest.mark.parametrize(
    ("supervision", "init_from", "text", "clean"),
    [
        (POINTS, None, "points", True),
        (MASKS, None, "masks", False),
        ({**POINTS, "boxes": 3}, None, "points, 3 boxes", False),
        (started(POINTS), "run", "points", True),
        (started(POINTS, POINTS), "run", "points", True),
        (started(MASKS), "run", "points, started from masks", False),
        (started(POINTS, MASKS), "run", "points, started from masks", False),
        (started(POINTS, {**POINTS, "boxes": 2}), "run", "points, started from masks", False),
        (started({"kind": "unknown"}), "f.safetensors", "points, started from unknown weights", False),
        (POINTS, "run", "points, started from unknown weights", False),  # a record older than the key
        ({**MASKS, "start": {"kind": "masks"}}, "run", "masks", False),
    ],
)
def test_supervision_counts_what_a_run_starts_from(tmp_path, supervision, init_from, text, clean):
    write_run(tmp_path, record("a", "psps", 0, config={"init_from": init_from}, supervision=supervision))
    found = load_record(tmp_path, "a")
    assert supervision_text(found) == text
    assert is_points_only(found) == clean


def test_a_row_that_starts_from_masks_breaks_the_guard_and_says_so(tmp_path):
    rows = {"a": (POINTS, None), "b": (started(MASKS), "m")}
    table = write_grid(tmp_path, [
        (record(name, "psps", 0, config={"init_from": start}, supervision=supervision), {"method": "psps"})
        for name, (supervision, start) in rows.items()
    ])  # fmt: skip
    grid = load_grid(tmp_path, "g")
    assert [row.values["supervision"] for row in table.rows] == ["points; points, started from masks"]
    (guard,) = [guard for guard in check(grid, table) if guard.claim == CLAIM]
    assert not guard.holds and guard.detail == f"Broken by {table.run_names()['b']}."


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (POINTS, []),
        (MASKS, ["pretrained on masks"]),
        ({"kind": "unknown", "data_set": "coco"}, ["pretrained on what has no record"]),
        ({**POINTS, "data_set": "voc"}, ["pretrained on VOC, not COCO"]),
    ],
)
def test_pretraining_is_compared_with_the_papers(tmp_path, link, expected):
    words = ["scale=paper", "dataset.name=voc", "init_from=other"]
    config = compose_run(words)
    write_run(tmp_path, record("a", "point2mask", 0, config=config, supervision=started(link)))
    apart = differences(load_record(tmp_path, "a"), paper_table("point2mask/T1").row("Point2Mask R50, COCO").setting)
    assert [text for text in apart if "pretrained" in text] == expected
