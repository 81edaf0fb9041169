"""Result tables: grouping over seeds, formatting, escaping, and what is never left out."""

import csv
import io
import json
import re
import statistics
from collections import Counter

import pytest

from reports.build import markdown_table
from reports.grids import load_grid
from reports.measures import frame
from reports.records import STAGES
from reports.tables import Stat, result_table
from reports.writers import to_csv, to_markdown
from tests.reports.sweep import record, write_run


def markdown_rows(text):
    """The tables of a Markdown text as lists of dicts."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    return [[dict(zip(split(block[0]), split(line), strict=True)) for line in block[2:]] for block in blocks]


def split(line):
    return [cell.strip() for cell in line.replace(r"\|", "¦").strip("|").split("|")]


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def write_grid(results, cells):
    (results / "g").mkdir(parents=True)
    for content, _ in cells:
        write_run(results, content)
    listed = [{"run_id": c["run_id"], "axes": axes, "seed": c["seed"]} for c, axes in cells]
    content = {"grid": "g", "title": "G", "runs": [c["run_id"] for c in listed], "cells": listed}
    (results / "g" / "grid.json").write_text(json.dumps(content))
    return result_table(load_grid(results, "g"))


def test_markdown_of_the_sweep(results):
    quality, cost = markdown_rows(markdown_table(results, "demo"))
    assert [row["method"] for row in quality] == ["psps", "point2mask", "fdd", "agmm"]
    data = frame(load_grid(results, "demo")).set_index("run_id").pq * 100
    two = [data["psps-s0"], data["psps-s1"]]
    assert quality[0]["PQ"] == f"{statistics.mean(two):.1f} ± {statistics.stdev(two):.1f}"
    assert quality[1]["PQ"] == f"{data['p2m-s0']:.1f}"  # one seed done: no ±
    assert [row["seeds"] for row in quality] == ["2/2", "1/2", "0/1", "0/1"]
    assert [row["state"] for row in quality] == ["2 done", "1 done, 1 diverged", "planned", "broken"]
    assert quality[2]["PQ"] == quality[3]["PQ"] == "–"
    assert quality[2]["reason"].startswith("NoRecord") and quality[3]["reason"].startswith("BrokenRecord")
    assert {row["points"] for row in quality} == {"1"}
    assert (cost[1]["step (ms)"], cost[1]["labels share (%)"], cost[1]["wall (min)"]) == ("200.0", "25.0", "1.5")
    assert cost[1]["memory (MB)"] == "812" and cost[1]["network (M)"] == "2.50"


def test_notes_say_what_the_numbers_can_bear(results):
    text = markdown_table(results, "demo")
    assert "n is too small to separate" in text
    assert "sample standard deviation" in text
    assert "3 of 4 rows have runs that are not done" in text
    assert "Measured in no run of this grid: label IoU val" in text


def test_the_source_of_miou_is_a_note_or_a_column(tmp_path, results):
    text = markdown_table(results, "demo")
    assert "mIoU is that of the panoptic map." in text and "mIoU of" not in text
    other = record("b", "agmm", 0)
    other["metrics"]["val"]["semantic"]["source"] = "semantic branch"
    cells = [(record("a", "psps", 0), {"method": "psps"}), (other, {"method": "agmm"})]
    text = to_markdown(write_grid(tmp_path / "two", cells))
    assert [row["mIoU of"] for row in markdown_rows(text)[0]] == ["panoptic map", "semantic branch"]
    assert "mIoU is that of" not in text


def test_the_source_of_a_markdown_table_is_aligned(results):
    for block in (b for b in markdown_table(results, "demo").split("\n\n") if b.startswith("|")):
        head, rule, *rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in block.split("\n"))
        for title, dashes, *cells in zip(head, rule, *rows, strict=True):
            texts = [text[1:-1] for text in (title, *cells)]
            widest = max(len(text.strip()) for text in texts)
            right = dashes.strip().endswith(":")
            for text in (t for t in texts if len(t) <= 40):
                assert len(text) == min(40, max(4, widest)) == len(dashes) - 2
                assert not (text.endswith(" ") if right else text.startswith(" "))
            assert right == any(re.fullmatch(r"[\d.]+( ± [\d.]+)?|\d/\d", text.strip()) for text in texts)


def test_every_heading_is_explained_once_under_the_tables(results):
    lines = markdown_table(results, "demo").split("\n")
    terms = Counter(match[1] for line in lines if (match := re.match(r"\* \*\*(.+?)\*\*: \S", line)))
    assert set(terms.values()) == {1}
    plain = {"method", "state", "reason"} | {f"{stage.replace('_', ' ')} (ms)" for stage in STAGES}
    for heading in {title for table in markdown_rows("\n".join(lines)) for title in table[0]} - plain:
        term = re.sub(r" train$| val$", "", heading)
        assert term in terms or re.sub(r" \((ms|M)\)$", "", term) in terms, heading
    for word in ("IoU", "train, val"):
        assert word in terms


def test_a_note_is_said_once_for_all_its_rows(tmp_path):
    cells = [(record(name, name, 0, note="control: no image"), {"method": name}) for name in ("nearest", "voronoi")]
    cells.append((record("mine", "mine", 0, note="other schedule"), {"method": "mine", "lr": "1"}))
    cells.append((record("mine2", "mine", 0), {"method": "mine", "lr": "2"}))
    table = write_grid(tmp_path, cells)
    assert table.remarks() == [("nearest, voronoi", "control: no image"), ("mine, P1, lr=1", "other schedule")]


def test_the_state_is_told_where_a_run_is_not_done(tmp_path, results):
    assert "state" in markdown_rows(markdown_table(results, "demo"))[0][0]
    done = to_markdown(write_grid(tmp_path / "done", [(record("a", "psps", 0), {"method": "psps"})]))
    assert "state" not in markdown_rows(done)[0][0] and markdown_rows(done)[0][0]["seeds"] == "1/1"


def test_rows_on_masks_that_differ_in_points_only_are_told_apart(tmp_path):
    masks = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
    cells = [
        (record(f"{method}{points}", method, 0, supervision=masks), {"method": method, "dataset.points.count": points})
        for method, points in (("oracle", "1"), ("oracle", "10"), ("full_masks", "1"))
    ]
    table = write_grid(tmp_path, cells)
    assert [table.name(row) for row in table.rows] == ["oracle, P1", "oracle, P10", "full_masks"]


def test_text_from_records_cannot_break_markdown(results):
    text = markdown_table(results, "demo")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "[click]" not in text and r"\[click\]" in text
    assert r"our reading \| of &lt;it&gt;" in text
    quality, _ = markdown_rows(text)  # every line has as many cells as its header (strict zip)
    assert "not finite" in quality[1]["reason"]


def test_csv_has_raw_numbers(results):
    rows = csv_rows(to_csv(result_table(load_grid(results, "demo"))))
    data = frame(load_grid(results, "demo")).set_index("run_id")
    both = data.loc[["psps-s0", "psps-s1"]]
    assert float(rows[0]["pq"]) == pytest.approx(both.pq.mean(), rel=1e-12)
    assert float(rows[0]["pq_std"]) == pytest.approx(both.pq.std(), rel=1e-12)
    assert (rows[0]["pq_n"], rows[1]["pq_n"], rows[2]["pq_n"]) == ("2", "1", "0")
    assert rows[1]["pq_std"] == "" and rows[2]["pq"] == ""
    assert float(rows[1]["train_box_iou"]) == data.loc["p2m-s0"].train_box_iou
    assert rows[0]["run_ids"] == "psps-s0 psps-s1" and float(rows[0]["step_seconds"]) == 0.2
    assert "not finite" in rows[1]["reason"] and rows[3]["state"] == "broken"


def test_csv_text_is_never_a_formula(tmp_path):
    table = write_grid(tmp_path, [(record("a", "psps", 0, label="=cmd()"), {"method": "psps"})])
    assert csv_rows(to_csv(table))[0]["label"] == "'=cmd()"


def test_axes_that_vary_are_columns_and_the_others_a_note(tmp_path):
    cells = [
        (record(f"a{points}{gamma}", "psps", 0, supervision={"kind": "points", "points_per_target": points}),
         {"method": "psps", "dataset.points.count": str(points), "method.gamma": gamma, "dataset": "voc"})
        for points in (1, 10) for gamma in ("0.5", "1.0")
    ]  # fmt: skip
    table = write_grid(tmp_path, cells)
    assert [c.title for c in table.columns if c.key.startswith("axis:")] == ["method.gamma"]
    assert [table.name(row) for row in table.rows] == [
        f"psps, P{points}, method.gamma={gamma}" for points in (1, 10) for gamma in ("0.5", "1.0")
    ]
    text = to_markdown(table)
    assert "The same in all rows: dataset = voc." in text
    assert "sample standard deviation" not in text


def test_a_composed_grid_has_one_column_for_the_axes_of_its_members(composed):
    table = result_table(load_grid(composed, "whole"))
    shown = [column.key for column in table.shown("quality")]
    assert "setting" in shown and not [key for key in shown if key.startswith("axis:")]
    settings = [row.values["setting"] for row in table.rows]
    assert settings[:3] == ["p2m_units: units=equal", "p2m_units: units=nearest", "p2m_units: units=centroid"]
    assert "p2m_sinkhorn_iterations: iterations=100" in settings and len(set(settings)) == len(settings)
    header = next(csv.reader(io.StringIO(to_csv(table))))
    assert {"setting", "method.units", "method.iterations"} <= set(header)  # a program reads axes one by one


def test_masks_have_no_points(tmp_path):
    masks = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
    table = write_grid(tmp_path, [(record("a", "full_masks", 0, supervision=masks), {"method": "full_masks"})])
    assert table.rows[0].values["points"] == ""
    assert table.rows[0].values["supervision"] == "masks"


def test_an_axis_is_told_where_no_row_has_points(tmp_path):
    masks = {"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"}
    cells = [(record(a, "ground_truth", 0, supervision=masks), {"assignment": a}) for a in ("nearest", "geodesic")]
    table = write_grid(tmp_path, cells)
    names = [table.name(row) for row in table.rows]
    assert names == ["ground_truth, assignment=nearest", "ground_truth, assignment=geodesic"]


def test_methods_with_one_label_are_told_apart(tmp_path):
    cells = [(record(name, name, 0, label="psps"), {"method": name}) for name in ("psps", "psps_released")]
    table = write_grid(tmp_path, cells)
    assert [table.name(row) for row in table.rows] == ["psps, P1, method=psps", "psps, P1, method=psps_released"]


def test_runs_without_axes_are_grouped_by_what_was_run(tmp_path):
    contents = [record("a0", "psps", 0), record("a1", "psps", 1), record("b0", "psps", 0, note="released code")]
    table = write_grid(tmp_path, [(c, {}) for c in contents])
    assert [len(row.records) for row in table.rows] == [2, 1]


def test_a_value_with_fewer_seeds_than_its_row_says_so(tmp_path):
    second = record("a1", "psps", 1, peak_memory_mb=None)
    table = write_grid(tmp_path, [(record("a0", "psps", 0), {"method": "psps"}), (second, {"method": "psps"})])
    assert table.rows[0].values["peak_memory_mb"] == Stat(812.4, None, 1)
    _, cost = markdown_rows(to_markdown(table))
    assert cost[0]["memory (MB)"] == "812 (n=1)"


def test_numbers_of_a_run_that_is_not_done_do_not_count(tmp_path):
    running = record("a0", "psps", 0, state="running")
    table = write_grid(tmp_path, [(running, {"method": "psps"})])
    assert table.rows[0].values["pq"] is None and table.rows[0].values["state"] == "running"


def test_long_reasons_are_cut_in_the_table_only(tmp_path):
    reason = {"class": "RuntimeError", "message": "x" * 500, "log_tail": [], "command": ""}
    failed = record("a0", "psps", 0, state="failed", reason=reason, metrics=None)
    table = write_grid(tmp_path, [(failed, {"method": "psps"})])
    assert len(table.rows[0].values["reason"]) == 200
    assert len(table.rows[0].reasons[0].message) == 500
