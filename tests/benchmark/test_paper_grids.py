"""The grids of the papers: their cells at every scale, the paper rows that these name, and the papers' schedules."""

import json
import shlex
from collections import Counter
from functools import cache

import pytest

from benchmark.build import options_of
from benchmark.configs import ConfigError, compose_run, names_in
from benchmark.data.sources import build_source
from benchmark.expand import expand
from benchmark.grid import load_grid, read_grid
from benchmark.grid_file import write_grid
from benchmark.papers import paper_table
from benchmark.plan import plan_run
from benchmark.request import Request, command_for, is_chosen, read_request
from methods import build_labeler

SCALES = ("demo", "mini", "paper", "paper_coco")
CELLS = {
    "p2m_voc": (3, 3, 5, 3), "p2m_coco": (2, 2, 2, 4), "p2m_maps": (4,) * 4, "p2m_semantic_losses": (4,) * 4,
    "p2m_units": (3,) * 4, "p2m_centroid_iterations": (5,) * 4, "p2m_assignment": (4,) * 4, "p2m_points": (4, 4, 4, 3),
    "p2m_sinkhorn_iterations": (5,) * 4, "p2m_beta": (6,) * 4,
    "psps_costs": (11, 10, 10, 10), "psps_graph": (4,) * 4, "psps_color": (8,) * 4, "psps_labels": (4,) * 4,
    "psps_warmup": (4, 3, 3, 4),
    "fdd_lambda_sem": (10,) * 4, "fdd_sharing": (8,) * 4, "fdd_injection": (4,) * 4, "fdd_query_features": (4,) * 4,
    "fdd_self_training": (8,) * 4, "fdd_color_prior": (8,) * 4, "fdd_sampling": (6,) * 4, "fdd_supervision": (4,) * 4,
    "fdd_voc": (5,) * 4, "fdd_coco": (5,) * 4,
    "anchor_rounds": (6,) * 4, "anchor_parts": (10,) * 4, "anchor_distance": (8,) * 4, "anchor_points": (3,) * 4,
}  # fmt: skip
"""Grid -> number of cells at each of SCALES."""

ABLATIONS = [name for name in CELLS if name.startswith("p2m_") and name not in ("p2m_voc", "p2m_coco", "p2m_points")]
WHOLE_TABLE = ["p2m_maps", "p2m_semantic_losses", "p2m_units", "p2m_centroid_iterations", "p2m_assignment",
               "p2m_sinkhorn_iterations", "p2m_beta"]  # fmt: skip


@cache
def cells_of(name, scale=None):
    """The cells of a grid at a scale; without one, as the grid has it."""
    return expand(load_grid(name), [f"scale={scale}"] if scale else [])


def test_every_grid_of_a_paper_is_counted_here():
    """But for those whose cells start from other runs (`test_grids_of_grids`) and the semantic ones."""
    elsewhere = {"p2m_pretrained", "agmm_voc_points", "agmm_voc_scribbles", "agmm_cityscapes_clicks"}
    assert set(CELLS) | elsewhere == {name for name in names_in("grid") if load_grid(name).paper_table}


@pytest.mark.parametrize(("name", "index"), [(name, index) for name in CELLS for index in range(len(SCALES))])
def test_a_grid_has_the_intended_cells_at_every_scale(name, index):
    """The scale of the command wins over the grid's; each cell is a config of its own (`expand` composes it)."""
    cells = cells_of(name, SCALES[index])
    assert len(cells) == CELLS[name][index]
    assert {cell.config["scale"] for cell in cells} == {SCALES[index]}
    assert len({str(cell.config) for cell in cells}) == len(cells)
    small = {"demo": {"tiny"}, "mini": {"lite0"}}.get(SCALES[index])
    assert small is None or {cell.config["model"]["name"] for cell in cells} == small


@pytest.mark.parametrize("name", CELLS)
def test_a_grid_starts_from_the_papers_scale_and_a_row_is_one_cell(name):
    scale = "paper_coco" if name in ("p2m_coco", "fdd_coco") else "paper"
    assert [cell.config for cell in cells_of(name)] == [cell.config for cell in cells_of(name, scale)]
    for scale in SCALES:
        rows = Counter(cell.paper_row for cell in cells_of(name, scale) if cell.paper_row)
        assert rows and set(rows.values()) == {1}


@pytest.mark.parametrize("name", WHOLE_TABLE)
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_an_ablation_has_every_row_of_its_table_in_order(name, scale):
    rows = [cell.paper_row for cell in cells_of(name, scale) if cell.paper_row]
    assert rows == [row.name for row in paper_table(load_grid(name).paper_table).rows]


def test_rows_are_the_cells_that_the_tables_describe():
    def option(grid, row, key, scale="paper"):
        (cell,) = [cell for cell in cells_of(grid, scale) if cell.paper_row == row]
        node = cell.config
        for part in key.split("."):
            node = node[part]
        return node

    for row in ("1", "2", "4", "8", "10"):
        assert option("p2m_centroid_iterations", row, "method.centroid_iterations") == int(row)
    for row in ("40", "60", "80", "100", "120"):
        assert option("p2m_sinkhorn_iterations", row, "method.iterations") == int(row)
    for row in ("1.0", "0.5", "0.2", "0.1", "0.05", "0.01"):
        assert option("p2m_beta", row, "method.beta") == float(row)
    assert option("p2m_units", "Nearest gt Point", "method.units") == "nearest"
    assert option("p2m_assignment", "Optimal Transport", "method.centroid_iterations") == 8
    assert option("p2m_semantic_losses", "partial + LAB", "method.tree_weight") == 0
    assert option("p2m_semantic_losses", "partial + LAB", "method.color_weight") == 3
    assert option("p2m_maps", "P^s + high", "method.low_boundary") == "none"
    assert option("p2m_maps", "P^s + high", "method.high_boundary") is True
    for grid, scale in (("p2m_voc", "paper"), ("p2m_coco", "paper_coco")):
        assert option(grid, "Point2Mask Swin-L", "model.name", scale) == "swin_l"
        assert option(grid, "PSPS", "method.name", scale) == "psps"
    assert option("p2m_points", "VOC R101", "dataset.points.count") == 10
    assert option("p2m_points", "COCO R50", "model.name", "paper_coco") == "r50"
    assert option("psps_costs", "VOC P1", "method.lambda_edge") == 0.1


@pytest.mark.parametrize("scale", ["demo", "paper"])
@pytest.mark.parametrize("names", [ABLATIONS, [n for n in CELLS if n.startswith("psps_")]], ids=["p2m", "psps"])
def test_the_default_setting_is_one_run_in_all_ablations(names, scale):
    """Grids share the cell that differs in nothing from the method's config: no value is written in another way there."""
    grids = [[cell.config for cell in cells_of(name, scale)] for name in names]
    assert len([config for config in grids[0] if all(config in other for other in grids[1:])]) == 1
    if names is not ABLATIONS:  # at the scale's own schedule
        assert all(compose_run([f"scale={scale}", "method=psps"]) in grid for grid in grids)


def epochs(config, key):
    return config["method"][key] * config["schedule"]["epochs"]


def decays(config):
    schedule = config["schedule"]
    return [round(schedule["epochs"] * share, 9) for share in schedule["decay_at"]]


@pytest.mark.parametrize("name", [*ABLATIONS, "p2m_voc", "p2m_points"])
def test_point2mask_has_its_schedule_on_voc_at_paper_scale_only(name):
    """24 epochs, decay after 15 and 20, batch 8, learning rate 1e-4; PSPS and small scales keep theirs."""
    for cell in cells_of(name):
        schedule = cell.config["schedule"]
        if cell.config["method"]["name"] == "point2mask":
            assert (schedule["epochs"], schedule["batch_size"], schedule["lr"]) == (24, 8, 1e-4)
            assert decays(cell.config) == [15, 20]
        else:
            assert (schedule["epochs"], schedule["batch_size"]) == (20, 16)
    demo = compose_run(["scale=demo"])["schedule"]
    assert all(cell.config["schedule"] == demo for cell in cells_of(name, "demo"))


@pytest.mark.parametrize("name", ["p2m_coco", "p2m_points"])
def test_point2mask_has_its_schedule_on_coco(name):
    """15 epochs, decay after 8 and 12, 117 266 images; warm-ups of 14 659 and 60 000 iterations, whatever the batch."""
    for cell in cells_of(name, "paper_coco"):
        if cell.config["method"]["name"] != "point2mask":
            assert epochs(cell.config, "warmup") == pytest.approx(1)
            continue
        schedule, large = cell.config["schedule"], cell.config["model"]["name"] == "swin_l"
        assert (schedule["batch_size"], schedule["lr"]) == ((8, 1e-4) if large else (16, 2e-4))
        assert (schedule["epochs"], decays(cell.config)) == (15, [8, 12])
        iterations = 117_266 / schedule["batch_size"]
        assert epochs(cell.config, "warmup") * iterations == pytest.approx(14_659, rel=1e-3)
        assert epochs(cell.config, "transport_warmup") * iterations == pytest.approx(60_000, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, "demo") for name in CELLS), ("p2m_voc", "paper"), ("p2m_points", "paper")]
)
def test_the_command_of_a_failed_cell_repeats_that_cell_only(name, scale):
    for cell in cells_of(name, scale):
        words = shlex.split(command_for(Request(name, [f"scale={scale}"]), cell))[3:]
        request = read_request(words)
        every = expand(load_grid(request.grid), request.overrides, request.seeds)
        repeated = [other for other in every if is_chosen(other, request)]
        assert [other.config for other in repeated] == [cell.config]
        assert repeated[0].paper_row == cell.paper_row


def test_a_users_word_wins_over_the_papers_schedule():
    (cell, *_) = expand(load_grid("p2m_units"), ["schedule.epochs=2"])
    assert cell.config["schedule"]["epochs"] == 2 and cell.config["schedule"]["batch_size"] == 8


def test_several_scales_are_an_axis_each_with_its_own_blocks():
    cells = expand(load_grid("p2m_voc"), ["scale=demo,paper"])
    assert [(c.axes["scale"], c.config["scale"]) for c in cells] == [("demo", "demo")] * 3 + [("paper", "paper")] * 5


def test_a_new_value_of_an_axis_joins_a_block_of_the_scale_and_stands_for_no_row():
    cells = expand(load_grid("p2m_voc"), ["scale=demo", "method=psps,nearest_point"])
    assert [(c.config["method"]["name"], c.paper_row) for c in cells] == [("psps", "PSPS"), ("nearest_point", None)]


def test_the_paper_row_is_written_and_no_part_of_a_runs_identity(tmp_path):
    grid = load_grid("p2m_assignment")
    cells = [(cell, plan_run(cell, {"train": "a"})) for cell in expand(grid, ["scale=demo", f"results_dir={tmp_path}"])]
    write_grid(tmp_path / grid.name, grid, cells)
    content = json.loads((tmp_path / grid.name / "grid.json").read_text())
    assert content["paper_table"] == "point2mask/T7"
    assert [cell.get("paper_row") for cell in content["cells"]] == ["Minimum Cost", None, "Optimal Transport", None]
    assert all("paper" not in str(key) or key == "base_version" for cell, _ in cells for key in cell.config)


BLOCK = """\
title: T
paper_table: point2mask/T5
overrides: [scale=demo, method=point2mask]
blocks:
  - axes: {method.units: [equal, centroid]}
    paper_rows:
      Equal Division: {method.units: equal}
"""


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("paper_table", "paper_tabel", ["unknown key 'paper_tabel'", "paper_table"]),
        ("paper_rows", "rows", ["a block with the unknown key 'rows'", "paper_rows"]),
        ("point2mask/T5", "point2mask/T51", ["'point2mask/T51'", "did you mean 'point2mask/T5'", "point2mask/A1"]),
        ("Equal Division:", "Equal Divison:", ["'Equal Divison'", "did you mean 'Equal Division'", "Nearest gt Point"]),
        ("{method.units: equal}", "{method.unit: equal}", ["axis of the paper row 'Equal Division'", "method.units"]),
        ("{method.units: equal}", "{method.units: even}", ["'even'", "value of method.units", "centroid"]),
        ("{method.units: equal}", "{method.units: equal}\n      Nearest Centroid: {}", ["several paper rows: Equal D"]),
        ("paper_table: point2mask/T5\n", "", ["names paper rows but no table"]),
        ("  - axes", "  - scales: {paper: [], huge: []}\n    axes", ["'huge'", "scale in grid 'g'", "demo"]),
        ("title: T\n", "title: T\nscales: {papre: []}\n", ["'papre'", "did you mean 'paper'"]),
        ("{method.units: [", "{scale: [demo], method.units: [", ["axis 'scale'"]),
    ],
)
def test_a_wrong_grid_file_is_one_sentence_with_the_valid_names(tmp_path, old, new, parts):
    path = tmp_path / "g.yaml"
    path.write_text(BLOCK)
    assert len(expand(read_grid(path), [])) == 2
    assert BLOCK.count(old) == 1
    path.write_text(BLOCK.replace(old, new))
    with pytest.raises(ConfigError) as error:
        read_grid(path)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_may_not_stand_for_a_row_that_is_no_target(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(BLOCK.replace("point2mask/T5", "epld/summary_page").replace("Equal Division:", "EPLD:"))
    with pytest.raises(ConfigError, match=r"'g' stands for the row 'EPLD' of epld/summary_page, .* no target"):
        read_grid(path)


def test_a_scale_without_a_block_says_which_have_one(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(BLOCK.replace("  - axes", "  - scales: {paper: []}\n    axes"))
    with pytest.raises(ConfigError, match="nothing at scale=demo; it has blocks for paper"):
        expand(read_grid(path), [])
    with pytest.raises(ConfigError, match="Unknown scale 'dem'; did you mean 'demo'"):
        expand(read_grid(path), ["scale=dem"])


@pytest.mark.parametrize("name", CELLS)
def test_methods_accept_the_values_of_every_cell(name):
    categories = build_source(cells_of(name, "demo")[0].config["dataset"], "val").categories
    for cell in cells_of(name, "demo"):
        method = cell.config["method"]
        assert build_labeler(method["name"], categories, 64, options_of(method)).supervision in ("points", "masks")
