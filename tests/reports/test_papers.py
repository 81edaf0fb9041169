"""A paper's numbers beside ours: in every form of the report, with their setting, and never silently comparable."""

import html
import json

import pytest

from benchmark.configs import compose_run
from benchmark.papers import paper_table
from reports.build import build_report
from reports.grids import load_grid
from reports.papers import differences
from reports.records import load_record
from reports.tables import result_table
from reports.writers import to_csv, to_markdown
from tests.reports.sweep import PAPER, metrics, record, write_run
from tests.reports.test_tables import csv_rows, markdown_rows

UNITS = {"equal": "Equal Division", "nearest": "Nearest gt Point", "centroid": "Nearest Centroid", "new": None}
DEMO = {"scale": "demo", "model": {"name": "tiny"}, "dataset": {"name": "scenes", "points": {"count": 1}}}
VOC24 = ["schedule.epochs=24", "schedule.decay_at=[0.625,0.8333333333333334]", "schedule.batch_size=8"]
COCO15 = ["schedule.epochs=15", "schedule.decay_at=[0.5333333333333333,0.8]", "schedule.batch_size=16"]


def write_grid(results, rows, table="point2mask/T5", axis="method.units", configs=None, **changes):
    """A grid with one run for each axis value, whose cells name paper rows."""
    cells = []
    for value, row in rows.items():
        config = (configs or {}).get(value, DEMO)
        write_run(results, record(f"run-{value}", "point2mask", 0, config=config, **changes))
        cells.append({"run_id": f"run-{value}", "axes": {axis: value}, "seed": 0} | ({"paper_row": row} if row else {}))
    (results / "g").mkdir()
    content = {"title": "G", "paper_table": table, "runs": [cell["run_id"] for cell in cells], "cells": cells}
    (results / "g" / "grid.json").write_text(json.dumps(content))
    return result_table(load_grid(results, "g"))


def note(table, start):
    return "\n".join(text for text in table.notes if text.startswith(start))


def test_markdown_has_the_papers_numbers_beside_ours(tmp_path):
    quality, cost = markdown_rows(to_markdown(write_grid(tmp_path, UNITS)))
    columns = ("paper PQ", "paper PQ_th", "paper PQ_st")
    assert [tuple(row[c] for c in columns) for row in quality] == [
        ("52.4", "50.5", "90.2"), ("52.8", "50.9", "90.1"), ("53.8", "51.9", "90.5"), ("–", "–", "–"),
    ]  # fmt: skip
    assert "paper SQ" not in quality[0] and "paper PQ" not in cost[0]
    titles = list(quality[0])
    assert titles.index("mIoU") < titles.index("paper PQ") < titles.index("label IoU train")


def test_csv_has_them_raw_and_without_spread(tmp_path):
    rows = csv_rows(to_csv(write_grid(tmp_path, UNITS)))
    assert [row["paper_pq"] for row in rows] == ["0.524", "0.528", "0.538", ""]
    assert not {"paper_pq_std", "paper_pq_n"} & rows[0].keys()


def test_the_page_has_a_group_of_columns_with_their_setting(tmp_path):
    table = write_grid(tmp_path, UNITS)
    assert ("paper (VOC, R50, P1)", 3) in table.headings("quality")
    page = html.unescape(build_report(tmp_path, "g").read_text())
    assert '<th colspan="3" scope="colgroup">paper (VOC, R50, P1)</th>' in page
    assert '<td class="right number" data-sort="0.524">52.4</td>' in page
    assert "not comparable with ours" in page


def test_numbers_that_are_no_target_are_not_shown(tmp_path):
    table = write_grid(tmp_path, {"equal": "EPLD"}, table="epld/summary_page")
    assert "the row 'EPLD' of epld/summary_page is no target" in note(table, "A paper's numbers are missing: ")
    (quality, *_) = markdown_rows(to_markdown(table))
    assert not [title for row in quality for title in row if title.startswith("paper")]


def test_the_notes_say_source_setting_and_why_nothing_is_comparable(tmp_path):
    table = write_grid(tmp_path, UNITS)
    source = note(table, "Columns under paper")
    for part in ("Point2Mask, Table 5", "Number of pixels that a point supplies", "VOC, R50, P1", "24 epochs"):
        assert part in source
    assert note(table, "The paper's numbers are not comparable with ours: ").endswith(
        "data set scenes, not VOC; scale demo, not paper; network tiny, not R50."
    )
    assert not note(table, "Ours")


def test_equal_settings_are_told_row_by_row(tmp_path):
    table = write_grid(tmp_path, UNITS, configs={"equal": PAPER, "nearest": PAPER})
    assert note(table, "Ours").startswith(
        "Ours has the data set, scale, network, supervision and, where it is known, schedule of the paper, and head, "
        "input, choice of points and learning rate of the grid file in point2mask, P1, method.units=equal; "
        "point2mask, P1, method.units=nearest;"
    )
    assert "network tiny, not R50 (point2mask, P1, method.units=centroid)" in note(table, "The paper's numbers are not")


def test_a_shared_cell_has_the_numbers_of_every_member_that_names_a_row(composed):
    """Of the first that does, beside it; other numbers of the others in a note."""
    path = composed / "whole" / "grid.json"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        if cell["grid"] == "p2m_units":
            cell["paper_row"] = None
    path.write_text(json.dumps(content))
    table = result_table(load_grid(composed, "whole"))
    shown = {row.values.get("axis:method.units"): row.paper.name for row in table.rows if row.cells[0].grid == "p2m_units"}
    assert shown == {"equal": "Equal Division", "nearest": "Nearest gt Point", "centroid": "Nearest Centroid"}
    assert len(table.rows) == 5 and all(row.paper for row in table.rows)
    notes = [text for text in table.notes if "is also the row" in text]
    assert len(notes) == 2  # the centroid and 80 iterations print the same
    equal = "is also the row 60 of Point2Mask, supplement, Table A2, which prints PQ 53.5, PQ_th 51.7, PQ_st 90.1."
    assert any(text.endswith(equal) and "method.units=equal" in text for text in notes)


def test_known_slips_and_remarks_of_the_rows_are_notes(tmp_path):
    rows = {"minimum_cost": "Minimum Cost", "transport": "Optimal Transport"}
    table = write_grid(tmp_path, rows, "point2mask/T7", "method.assignment")
    assert "printed PQ is 51.9" in note(table, "Paper, row Minimum Cost")
    assert "8 centroid iterations" in note(table, "Paper, row Optimal Transport")


def test_digits_and_metrics_are_those_of_the_table(tmp_path):
    rows = markdown_rows(to_markdown(write_grid(tmp_path / "a", {"8": "8"}, "point2mask/T6", "method.centroid_iterations")))
    assert rows[0][0]["paper PQ"] == "54.24" and "paper PQ_th" not in rows[0][0]
    rows = markdown_rows(to_markdown(write_grid(tmp_path / "b", {"0": "partial"}, "point2mask/T4", "method.tree_weight")))
    assert rows[0][0]["paper mIoU"] == "61.6"


def test_a_heading_has_only_what_its_rows_share(tmp_path):
    rows = {"r50": "Point2Mask R50", "r101": "Point2Mask R101"}
    table = write_grid(tmp_path, rows, "point2mask/T1", "model")
    assert ("paper (VOC, P1)", 3) in table.headings("quality")
    assert "VOC, R101, P1, 24 epochs, decay after 15 and 20, batch 8 (Point2Mask R101)" in note(table, "Columns under paper")


@pytest.mark.parametrize(("table", "row"), [("point2mask/T99", "1"), ("point2mask/T5", "Nearest Center")])
def test_a_row_that_is_not_known_is_said_and_breaks_nothing(tmp_path, table, row):
    table = write_grid(tmp_path, {"equal": row}, table)
    assert "Unknown" in note(table, "A paper's numbers are missing")
    assert not [column for column in table.columns if column.key.startswith("paper_")]
    assert build_report(tmp_path, "g").exists()


def test_a_run_without_a_record_has_the_papers_numbers(tmp_path):
    write_grid(tmp_path, UNITS)
    (tmp_path / "runs" / "run-equal" / "run.json").unlink()
    table = result_table(load_grid(tmp_path, "g"))
    assert table.rows[0].values["paper_pq"] == pytest.approx(0.524) and table.rows[0].values["pq"] is None
    assert "not comparable" in "".join(table.notes)


def test_a_grid_without_paper_rows_has_no_columns_and_notes_of_papers(results):
    table = result_table(load_grid(results, "demo"))
    assert not [column for column in table.columns if column.key.startswith("paper_") or column.key == "verdict"]
    assert not [text for text in table.notes if "paper" in text.lower()]


@pytest.mark.parametrize(
    ("words", "table", "row", "expected"),
    [
        (["scale=paper", "dataset.name=voc", *VOC24], "T1", "Point2Mask R50", []),
        (["scale=paper", "dataset.name=voc", "model=swin_l", *VOC24], "T1", "Point2Mask Swin-L", []),
        (["scale=paper_coco", "dataset.name=coco", *COCO15], "T2", "Point2Mask R50", []),
        (["scale=paper", "dataset.name=voc", *VOC24[:2]], "T1", "Point2Mask R50", ["batch 16, not 8"]),
        (["scale=paper", "dataset.name=coco"], "T2", "Point2Mask R50", ["scale paper, not paper_coco"]),
        (["scale=paper", "dataset.name=voc", "dataset.points.count=10"], "T1", "PSPS", ["supervision P10, not P1"]),
        (["scale=paper", "dataset.name=voc", *VOC24], "T1", "Point2Mask R50, COCO", ["not pretrained on COCO"]),
        (["scale=paper", "dataset.name=voc", *VOC24, "init_from=other"], "T1", "Point2Mask R50, COCO",
         ["pretrained on what has no record"]),
        (["scale=paper", "dataset.name=voc", *VOC24, "init_from=other"], "T1", "Point2Mask R50", ["pretrained"]),
        (["scale=paper", "dataset.name=voc"], "T1", "Panoptic FPN", ["supervision P1, not M"]),
        (["scale=paper", *VOC24], "T1", "Point2Mask R101", ["data set coco_panoptic, not VOC", "network r50, not R101"]),
    ],
)
def test_differences_of_a_config_and_a_setting(tmp_path, words, table, row, expected):
    write_run(tmp_path, record("a", "point2mask", 0, config=compose_run(words)))
    setting = paper_table(f"point2mask/{table}").row(row).setting
    assert differences(load_record(tmp_path, "a"), setting) == expected


def test_a_run_on_masks_is_compared_with_full_supervision(tmp_path):
    masks = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
    config = compose_run(["scale=paper", "dataset.name=voc"])
    write_run(tmp_path, record("a", "full_masks", 0, config=config, supervision=masks))
    run = load_record(tmp_path, "a")
    assert differences(run, paper_table("point2mask/T1").row("Panoptic SegFormer").setting) == []
    assert differences(run, paper_table("point2mask/T1").row("PSPS").setting) == ["supervision M, not P1"]


def test_sparse_label_maps_and_clicks_are_compared_as_far_as_they_say_what_they_are(tmp_path):
    config = {**PAPER, "model": {"name": "r101"}, "schedule": {"epochs": 80}}
    maps = {"kind": "sparse label maps", "points_per_target": None, "boxes": 0, "masks": 0}
    write_run(tmp_path, record("a", "agmm_semantic", 0, config=config, supervision=maps))
    write_run(tmp_path, record("b", "agmm_semantic", 0, config=config, supervision={**maps, "kind": "20 clicks"}))
    setting = paper_table("agmm/voc_points").row("AGMM").setting
    assert differences(load_record(tmp_path, "a"), setting) == []
    assert differences(load_record(tmp_path, "b"), setting) == ["supervision 20 clicks, not points"]


def test_comparable_cells_have_a_gap_and_a_verdict(tmp_path):
    table = write_grid(tmp_path, UNITS, configs={"equal": PAPER, "nearest": PAPER})
    values = [row.values for row in table.rows]
    ours = values[0]["pq"].mean
    assert values[0]["paper_gap"] == pytest.approx(ours - 0.524)
    assert [v["verdict"] for v in values] == ["above (n = 1: noise not known)"] * 2 + ["not comparable", ""]
    assert table.rows[2].verdicts["pq"].why.startswith("data set scenes, not VOC")
    assert list(table.rows[0].verdicts) == ["pq", "pq_th", "pq_st"]
    (quality, _) = markdown_rows(to_markdown(table))
    assert quality[0]["gap"] == f"{100 * (ours - 0.524):+.1f}" and quality[2]["gap"] == "–"


@pytest.mark.parametrize(("state", "verdict"), [("failed", "failed (RuntimeError)"), ("planned", "not run")])
def test_a_cell_that_is_not_done_has_a_verdict(tmp_path, state, verdict):
    reason = {"class": "RuntimeError", "message": "x", "log_tail": [], "command": ""}
    table = write_grid(tmp_path, {"equal": "Equal Division"}, state=state, reason=reason, metrics=None)
    assert table.rows[0].values["verdict"] == verdict


def test_a_row_without_panoptic_quality_is_judged_by_miou(tmp_path):
    config = {**PAPER, "model": {"name": "r101"}, "schedule": {"epochs": 80}}
    semantic = {"val": {"panoptic": None, "semantic": {**metrics(2)["val"]["semantic"], "source": "semantic map"}},
                "labels_train": None, "labels_val": None,
                "variants": {"best": metrics(1)["val"]}}  # fmt: skip
    maps = {"kind": "sparse label maps", "points_per_target": None, "boxes": 0, "masks": 0}
    table = write_grid(tmp_path, {"adaptive": "AGMM"}, "agmm/voc_points", "method.mixture.sigma", {"adaptive": config},
                       metrics=semantic, supervision=maps)  # fmt: skip
    row = table.rows[0].values
    assert row["verdict"] == "mIoU above (n = 1: noise not known)" and row["miou_best"].mean > row["miou"].mean
    (quality, _) = markdown_rows(to_markdown(table))
    assert "PQ" not in quality[0] and {"mIoU", "mIoU best", "paper mIoU"} <= quality[0].keys()
    assert build_report(tmp_path, "g").exists()
