"""A row is compared with a paper only where it is the cell that the grid file has for it."""

from __future__ import annotations

import pytest

from benchmark.configs import names_in
from benchmark.expand import NothingAtScale, expand
from benchmark.grid import load_grid
from benchmark.papers import paper_table
from reports.paper_config import config_differences, configs_of_rows
from reports.papers import SCALES, differences
from reports.records import load_record
from tests.reports.sweep import record, write_run

TABLE, ROW = "point2mask/T5", "Nearest Centroid"


def cell(*words):
    """The config of the cell for the row, under a user's words."""
    cells = expand(load_grid("p2m_units"), ["scale=paper", "dataset.name=voc", *words], [0])
    return next(c.config for c in cells if c.paper_row == ROW)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=0", []), ("method.beta=0.3", []), ("workers=3", []),
        ("head=mask2former", ["head mask2former, not panoptic_segformer"]),
        ("input.short=128", ["short side 128, not 600"]),
        ("dataset.points.strategy=border_biased", ["choice of points border_biased, not uniform"]),
        ("schedule.lr=0.01", ["learning rate 0.01, not 0.0001"]),
    ],
)
def test_what_a_word_changes_is_told(tmp_path, word, expected):
    config = cell(*([] if word == "seed=0" else [word]))
    assert config_differences(config, TABLE, ROW, "paper") == expected
    write_run(tmp_path, record("a", "point2mask", 0, config=config))
    setting = paper_table(TABLE).row(ROW).setting
    assert differences(load_record(tmp_path, "a"), setting, (TABLE, ROW)) == expected


def test_a_row_that_no_grid_has_is_not_compared():
    assert configs_of_rows("point2mask/T99", "paper") == {}
    assert config_differences(cell("schedule.lr=0.01"), "point2mask/T99", "none", "paper") == []


def test_the_cells_of_the_grid_files_depart_from_none_of_their_rows():
    """Two grids that have the same row have it with the same head, input, points and rate."""
    compared = 0
    for name in names_in("grid"):
        grid = load_grid(name)
        if grid.paper_table is None:
            continue
        for scale in SCALES.values():
            try:
                cells = expand(grid, [f"scale={scale}"], [0])
            except NothingAtScale:
                continue
            for found in cells:
                if found.paper_row:
                    assert config_differences(found.config, grid.paper_table, found.paper_row, scale) == [], name
                    compared += 1
    assert compared > 50
