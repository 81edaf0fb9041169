"""The grids of AGMM's own track: their cells at each scale, the recipe at paper, and the rows of the slides."""

import pytest

from benchmark.build import options_of
from benchmark.configs import ConfigError
from benchmark.expand import expand
from benchmark.grid import load_grid
from benchmark.papers import paper_table
from methods import build_labeler
from tests.methods.stand_ins import categories

GRIDS = {"agmm_voc_points": 3, "agmm_voc_scribbles": 3, "agmm_cityscapes_clicks": 9}
LABELS = ["partial_cross_entropy", "agmm_semantic_fixed", "agmm_semantic_adaptive"]


def cells_of(name, scale):
    return expand(load_grid(name), [f"scale={scale}"])


@pytest.mark.parametrize("scale", ["demo", "mini", "paper"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_the_baseline_and_both_widths_and_every_cell_builds(name, scale):
    cells = cells_of(name, scale)
    assert len(cells) == GRIDS[name]
    assert list(dict.fromkeys(cell.config["method"]["label"] for cell in cells)) == LABELS
    for cell in cells:
        method = cell.config["method"]
        build_labeler(method["name"], categories(), 16, options_of(method))
        assert cell.config["head"]["name"] == "none"
    others = [{k: v for k, v in cell.config.items() if k not in ("method", "dataset")} for cell in cells]
    assert all(other == others[0] for other in others)  # the rows differ in losses and clicks only


def test_the_widths_differ_in_what_belongs_to_them():
    _, fixed, adaptive = (cell.config["method"] for cell in cells_of("agmm_voc_points", "demo"))
    assert {key for key in fixed if fixed[key] != adaptive[key]} == {"label", "mixture"}
    changed = {key for key in fixed["mixture"] if fixed["mixture"][key] != adaptive["mixture"][key]}
    assert changed == {"sigma", "distance"}  # a fixed width belongs to the mean absolute distance


def test_rows_of_the_slides():
    for name, row in (("agmm_voc_points", 69.6), ("agmm_voc_scribbles", 76.4)):
        assert [cell.paper_row for cell in cells_of(name, "paper")] == [None, "AGMM", "AGMM"]
        assert paper_table(load_grid(name).paper_table).row("AGMM").values == {"miou": row}
    rows = [cell.paper_row for cell in cells_of("agmm_cityscapes_clicks", "paper")]
    assert rows == [f"{who}, {n} clicks" for who in ("baseline", "AGMM", "AGMM") for n in (20, 50, 100)]
    table = paper_table(load_grid("agmm_cityscapes_clicks").paper_table)
    values = {row: table.row(row).values["miou"] for row in rows}
    assert values["AGMM, 20 clicks"] == 76.1 and "impossible" in table.row("AGMM, 20 clicks").slip
    assert values["baseline, 20 clicks"] == 53.5 and values["AGMM, 100 clicks"] == 71.6


def test_the_recipe_of_the_paper():
    voc = cells_of("agmm_voc_points", "paper")[0].config
    city = cells_of("agmm_cityscapes_clicks", "paper")[0].config
    for config, crop, epochs, batch, rate, factor in (
        (voc, 321, 80, 16, 0.01, 0.1), (city, 721, 240, 4, 0.005, 1.0)
    ):
        schedule = config["schedule"]
        assert config["input"]["crop"] == crop and config["input"]["scale_range"] == [0.5, 2.0]
        assert (schedule["epochs"], schedule["batch_size"], schedule["lr"]) == (epochs, batch, rate)
        assert (schedule["optimizer"], schedule["momentum"], schedule["weight_decay"]) == ("sgd", 0.9, 1e-4)
        assert (schedule["decay"], schedule["power"], schedule["clip_norm"]) == ("poly", 0.9, None)
        assert schedule["backbone_lr_factor"] == factor and config["method"]["resolution"] == "pixel"
        assert config["evaluation"]["multi_scale"] == {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0], "flip": True}
    assert voc["input"]["photometric"] and not city["input"]["photometric"]
    assert voc["evaluation"]["window"] is None and city["evaluation"]["window"] == {"tile": 721, "stride": 241}
    assert (voc["model"]["rates"], city["model"]["rates"]) == ([6, 12, 18], [12, 24, 36])
    assert (voc["model"]["backbone"]["multi_grid"], city["model"]["backbone"]["multi_grid"]) == (None, [2, 2, 4])
    assert len(voc["dataset"]["classes"]) == 21 and len(city["dataset"]["classes"]) == 19


def test_each_grid_has_its_labels():
    found = {name: cells_of(name, scale)[0].config["dataset"] for name, scale in (
        ("agmm_voc_points", "demo"), ("agmm_voc_scribbles", "demo"), ("agmm_cityscapes_clicks", "demo")
    )}  # fmt: skip
    assert [d["points"]["strategy"] for d in found.values()] == ["uniform", "scribbles", "clicks"]
    points, scribbles, clicks = (cells_of(name, "paper")[0].config["dataset"] for name in GRIDS)
    assert points["train"]["labels"] == "points/{name}.png" and points["points"]["strategy"] == "labelled"
    assert scribbles["train"]["labels"] == "scribbles/{name}.png" and scribbles["points"]["strategy"] == "labelled"
    assert clicks["points"]["strategy"] == "clicks" and clicks["points"]["count"] == 20


def test_coco_has_never_been_reported():
    for name in GRIDS:
        with pytest.raises(ConfigError, match="nothing at scale=paper_coco"):
            cells_of(name, "paper_coco")
