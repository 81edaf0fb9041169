"""Plots: which a table gets, what is in them, and that they fit a page of either colour."""

import re
import xml.etree.ElementTree as ET

import pytest

from reports.curves import read_curve
from reports.grids import load_grid
from reports.plots import MOST_ROWS, draw_plots
from reports.plots.annotation import printed
from reports.plots.figures import COLORS, INK, look
from reports.tables import result_table
from tests.reports.sweep import metrics, record, write_run
from tests.reports.test_tables import write_grid


def drawn(results, name):
    grid = load_grid(results, name)
    plots = draw_plots(result_table(grid), {r.run_id: read_curve(r) for r in grid.records})
    return {plot.name: plot for plot in plots}


@pytest.fixture(scope="module")
def plots(ablation):
    return drawn(ablation, "p2m_sinkhorn_iterations")


def texts(plot):
    return [element.text for element in ET.fromstring(plot.svg).iter() if element.tag.endswith("text")]


def test_an_ablation_has_its_plots(plots):
    assert set(plots) == {"ablation", "bars", "cost", "classes", "training"}


def test_the_papers_curve_is_beside_ours_in_the_order_of_the_axis(plots):
    found = texts(plots["ablation"])
    assert "paper: PQ (%)" in found and "ours: PQ (%)" in found and "ours: label IoU train (%)" in found
    ticks = [text for text in found if text in ("40", "60", "80", "100", "120")]
    assert ticks[:5] == ["40", "60", "80", "100", "120"]


def test_plots_are_svg_whose_ink_is_that_of_the_page(plots):
    for plot in plots.values():
        assert ET.fromstring(plot.svg).attrib["aria-label"] == plot.title
        assert "currentColor" in plot.svg and INK not in plot.svg
        assert "<script" not in plot.svg and "<?xml" not in plot.svg
        assert plot.caption.endswith(".")


def test_ids_are_not_shared_between_plots(plots):
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in plots.values()]
    assert len(set.union(*ids)) == sum(map(len, ids))
    for plot, own in zip(plots.values(), ids, strict=True):
        used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', plot.svg))
        assert used and used <= own


def test_the_same_table_draws_the_same(ablation, plots):
    assert drawn(ablation, "p2m_sinkhorn_iterations") == plots


def test_names_from_records_are_text(tmp_path):
    cells = [(record(f"r{i}", "m", 0, label=f"<b>{i}</b> $x_{i}$ & more"), {"method": f"m{i}"}) for i in range(2)]
    write_grid(tmp_path, cells)
    plot = drawn(tmp_path, "g")["bars"]
    assert "<b>" not in plot.svg and "<b>0</b> $x_0$ & more" in texts(plot)


def test_supervision_is_drawn_against_its_cost(tmp_path):
    masks = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
    cells = [(record("a", "psps", 0), {"method": "psps"}), (record("b", "full", 0, supervision=masks), {"method": "full"})]
    write_grid(tmp_path, cells)
    plot = drawn(tmp_path, "g")["annotation"]
    assert {"psps", "full", "Point2Mask", "JTSM"} <= set(texts(plot)) and "239.7" in plot.caption


def test_the_papers_best_numbers_by_supervision():
    places = {(name, seconds): pq for name, seconds, pq in printed()}
    assert places["JTSM", 20.0] == 39.0 and places["FDD", 22.1] == 53.0 and places["Panoptic SegFormer", 239.7] == 69.6
    assert places["Point2Mask", 22.1] == 54.8  # R101; not Swin-L, not pretrained on COCO


def test_rows_of_semantic_runs_have_plots(tmp_path):
    val = {"panoptic": None, "semantic": metrics(2)["val"]["semantic"]}
    semantic = {"val": val, "labels_train": None, "labels_val": None}
    cells = [(record(f"s{i}", f"m{i}", 0, metrics=semantic), {"method": f"m{i}"}) for i in range(2)]
    write_grid(tmp_path, cells)
    plots = drawn(tmp_path, "g")
    assert set(plots) == {"bars", "cost", "classes"} and "IoU of every class" in plots["classes"].caption
    assert "mIoU (%)" in texts(plots["bars"])


def test_nothing_measured_is_nothing_drawn(tmp_path):
    write_run(tmp_path, record("a", "psps", 0, state="failed", metrics=None, timings=None))
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "grid.json").write_text('{"runs": ["a"]}')
    assert drawn(tmp_path, "g") == {}


def test_too_many_rows_are_not_drawn(tmp_path):
    write_grid(tmp_path, [(record(f"r{i}", f"m{i}", 0), {"method": f"m{i}"}) for i in range(MOST_ROWS + 1)])
    assert drawn(tmp_path, "g") == {}


def test_series_differ_without_colour():
    kinds = [look(i) for i in range(2 * len(COLORS))]
    assert len({(k["marker"], k["linestyle"]) for k in kinds}) == len(kinds)
    assert len({k["color"] for k in kinds[: len(COLORS)]}) == len(COLORS)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ground", ["#ffffff", "#17171a"])
def test_colours_are_seen_on_light_and_dark(ground):
    """WCAG asks 3:1 of graphics; marks also differ in shape, so that the palest two may have 2:1."""
    ratios = []
    for color in COLORS:
        low, high = sorted((luminance(color), luminance(ground)))
        ratios.append((high + 0.05) / (low + 0.05))
    assert min(ratios) > 2 and sum(ratio > 2.5 for ratio in ratios) >= 6
