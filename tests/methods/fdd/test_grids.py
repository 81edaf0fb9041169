"""The grids of FDD: every row of every table is a cell, and the published setting is the method's config."""

import pytest

from benchmark.configs import compose_run
from benchmark.expand import expand
from benchmark.grid import load_grid
from benchmark.papers import load_paper, paper_table

GRIDS = {
    "fdd_lambda_sem": "T1", "fdd_sharing": "T2", "fdd_injection": "T3", "fdd_query_features": "T4",
    "fdd_self_training": "T5", "fdd_color_prior": "T6", "fdd_sampling": "T7", "fdd_supervision": "T8",
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_every_row_of_its_table_in_order_and_the_default_once_per_number_of_points(name):
    grid = load_grid(name)
    assert grid.paper_table == f"fdd/{GRIDS[name]}"
    cells = expand(grid, [])
    assert [cell.paper_row for cell in cells] == [row.name for row in paper_table(grid.paper_table).rows]
    for cell in cells:
        assert cell.paper_row.endswith(f", P{cell.config['dataset']['points']['count']}")
    for count, published in ((1, 52.0), (10, 63.1)):
        default = compose_run(["scale=paper", "method=fdd", f"dataset.points.count={count}"])
        (row,) = [cell.paper_row for cell in cells if cell.config == default]
        assert paper_table(grid.paper_table).row(row).values["pq"] == published


def test_the_published_setting_has_one_number_in_all_tables():
    best = load_paper("fdd").tables[-1]
    assert best.row("FDD VOC P1").values["pq"] == 52.0 and best.row("FDD VOC P10").values["pq"] == 63.1
    for table in load_paper("fdd").tables[:-1]:
        for points, published in (("P1", 52.0), ("P10", 63.1)):
            values = [row.values["pq"] for row in table.rows if row.setting.supervision == points]
            assert values.count(published) == 1
    for name in ("VOC P1", "VOC P10", "COCO P1", "COCO P10"):
        assert best.row(f"PSPS {name}").values == paper_table("psps/quoted").row(name).values
