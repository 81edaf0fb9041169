"""The grids of the port: each cell builds, changes one thing, and claims no number of the paper."""

import pytest

from benchmark.build import options_of
from benchmark.configs import compose_run
from benchmark.expand import expand
from benchmark.grid import load_grid
from benchmark.papers import load_paper, paper_table
from methods import build_labeler
from tests.methods.stand_ins import categories

CELLS = {"agmm_mixture": 18, "agmm_assignment": 7}


@pytest.mark.parametrize("scale", ["demo", "mini"])
@pytest.mark.parametrize("name", CELLS)
def test_a_grid_has_its_cells_and_every_cell_builds(name, scale):
    grid = load_grid(name)
    assert grid.paper_table is None  # mIoU of another network is no row of ours
    cells = expand(grid, [f"scale={scale}"])
    assert len(cells) == CELLS[name] and len({str(cell.config) for cell in cells}) == len(cells)
    assert compose_run([f"scale={scale}", "method=agmm"]) in [cell.config for cell in cells]
    for cell in cells:
        method = cell.config["method"]
        build_labeler(method["name"], categories(), 64, options_of(method))


def test_every_row_names_the_assignment_step():
    labels = [cell.config["method"]["label"] for cell in expand(load_grid("agmm_assignment"), [])]
    assert labels == [
        "agmm+nearest", "agmm+geodesic", "agmm+transport", "semantics_nearest", "oracle_nearest", "oracle_geodesic",
        "oracle_transport",
    ]  # fmt: skip
    heads = [cell.config["head"]["name"] for cell in expand(load_grid("agmm_assignment"), [])]
    assert heads[4:] == ["none"] * 3 and "none" not in heads[:4]


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def test_mixtures_differ_from_the_default_in_one_thing_but_for_fixed_sigma():
    default, *others = [dict(flat(cell.config)) for cell in expand(load_grid("agmm_mixture"), [])]
    assert default == dict(flat(compose_run(["scale=demo", "method=agmm"])))
    changed = [sorted(key for key in default if default[key] != cell[key]) for cell in others]
    fixed = ["method.mixture.distance", "method.mixture.sigma"]
    assert [keys for keys in changed if len(keys) > 1] == [fixed, ["method.contrast", *fixed]]
    assert len(changed) == CELLS["agmm_mixture"] - 1


def test_the_paper_is_on_record_with_its_slip():
    assert paper_table("agmm/voc_points").row("AGMM").values == {"miou": 69.6}
    assert paper_table("agmm/voc_scribbles").row("AGMM").values == {"miou": 76.4}
    assert [len(table.rows) for table in load_paper("agmm").tables] == [9, 15, 16]
    slips = [row.name for table in load_paper("agmm").tables for row in table.rows if row.slip]
    assert slips == ["AGMM, 20 clicks"]
