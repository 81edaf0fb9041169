"""Claims on made-up and committed grids: the cells they name, verdicts by metric, and what is compared with what."""

import json

import pytest

from benchmark.configs import compose_run
from benchmark.grid import load_grid as load_definition
from benchmark.papers import METRICS, all_claims, paper_table
from reports.claims import evidence, judge_claims
from reports.grids import load_grid
from reports.tables import result_table
from reports.verdicts import Outcome
from tests.reports.sweep import PAPER, SHIFTS, metrics, record, write_ablation, write_run

GRID = "p2m_sinkhorn_iterations"


def judge(results, name=GRID):
    grid = load_grid(results, name)
    return judge_claims(grid, result_table(grid))


def test_the_ablation_holds_by_every_metric_that_was_measured(ablation):
    found = {judged.metric: judged for judged in judge(ablation)}
    assert set(found) == {"pq", "train_instance_iou"}
    assert {j.verdict.outcome for j in found.values()} == {Outcome.HOLDS}
    assert {j.claim.name for j in found.values()} == {"point2mask/sinkhorn_iterations"}
    assert found["pq"].paper == "53.8 against 53, 53.5, 52.7, 52.2" and found["pq"].scale == "paper"
    pq, iou = (found[m].verdict.comparisons for m in ("pq", "train_instance_iou"))
    assert [(c.better, c.worse) for c in pq] == [("iterations 80", f"iterations {v}") for v in ("40", "60", "100", "120")]
    assert all(c.over_images is None for c in pq)  # PQ is not stored per image
    assert all(c.over_images.low > 0 and c.seeds == 3 for c in iou)


def test_differences_are_paired_by_seed(ablation):
    values = result_table(load_grid(ablation, GRID))
    rows = {row.values["axis:method.iterations"]: row for row in values.rows}
    (first, *_) = judge(ablation)[0].verdict.comparisons
    expected = rows["80"].values["pq"].mean - rows["40"].values["pq"].mean
    assert first.difference == pytest.approx(expected)
    assert evidence(first).startswith(f"{100 * expected:+.1f} (n = 3; seeds +")


def test_a_wrong_order_is_refuted(tmp_path):
    write_ablation(tmp_path, shifts={**SHIFTS, "40": 2, "80": 5})
    assert {j.verdict.outcome for j in judge(tmp_path)} == {Outcome.FAILS}


def test_a_missing_cell_or_result_is_not_run(tmp_path):
    write_ablation(tmp_path, shifts={k: v for k, v in SHIFTS.items() if k != "80"})
    assert judge(tmp_path) == []
    write_ablation(tmp_path / "other", shifts=SHIFTS)
    for seed in range(3):
        (tmp_path / "other" / "runs" / f"{GRID}-60-s{seed}" / "run.json").unlink()
    (judged, *_) = judge(tmp_path / "other")
    assert judged.verdict.outcome == Outcome.NOT_RUN and "iterations 60" in judged.verdict.why


def test_a_metric_at_its_floor_is_not_separable(tmp_path):
    write_ablation(tmp_path)
    for path in tmp_path.glob("runs/*/run.json"):
        content = json.loads(path.read_text())
        content["config"]["scale"] = "mini"
        path.write_text(json.dumps(content))
    found = {j.metric: j.verdict for j in judge(tmp_path)}
    assert found["pq"].outcome == Outcome.OPEN and "floor" in found["pq"].why
    assert found["train_instance_iou"].outcome == Outcome.HOLDS


def write_cells(results, cells, grid, **changes):
    """A grid of single runs: (axes, shift, config changes)."""
    listed = []
    for index, (axes, shift, config) in enumerate(cells):
        write_run(results, record(f"r{index}", axes.get("method", "m"), 0, config={**PAPER, **config},
                                  metrics=metrics(shift), **changes))  # fmt: skip
        listed.append({"run_id": f"r{index}", "axes": axes, "seed": 0})
    (results / grid).mkdir()
    content = {"grid": grid, "title": grid, "runs": [cell["run_id"] for cell in listed], "cells": listed}
    (results / grid / "grid.json").write_text(json.dumps(content))


def test_cells_that_differ_in_another_axis_are_compared_apart(tmp_path):
    cells = [
        ({"method": method, "dataset.points.count": count}, 2, {})
        for count in ("1", "10") for method in ("psps", "semantics_nearest")
    ]  # fmt: skip
    write_cells(tmp_path, cells, "mini_main")
    found = [j for j in judge(tmp_path, "mini_main") if j.claim.name == "psps/beats_nearest_point_of_the_class"]
    assert {j.context for j in found} == {"dataset.points.count=1", "dataset.points.count=10"}
    assert all(len(j.verdict.comparisons) == 1 for j in found)
    assert {j.verdict.why for j in found} == {"n = 1, 3 seeds are needed"}


def test_scales_are_compared_apart(tmp_path):
    cells = [({"method.units": unit, "scale": scale}, 2, {"scale": scale})
             for scale in ("demo", "mini") for unit in ("equal", "nearest", "centroid")]  # fmt: skip
    write_cells(tmp_path, cells, "p2m_units")
    assert {j.scale for j in judge(tmp_path, "p2m_units")} == {"demo", "mini"}


def test_cells_of_a_member_are_judged_in_the_grid_that_has_it(tmp_path):
    write_ablation(tmp_path, grid=GRID)
    path = tmp_path / GRID / "grid.json"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell |= {"grid": GRID, "paper_table": content["paper_table"]}
    (tmp_path / "everything").mkdir()
    (tmp_path / "everything" / "grid.json").write_text(json.dumps({**content, "grid": "everything", "paper_table": None}))
    assert [j.verdict for j in judge(tmp_path, "everything")] == [j.verdict for j in judge(tmp_path)]


def test_claims_of_members_are_judged_with_the_cells_that_they_share(composed):
    """The composed grid lists a shared cell once, as one of its first member; the claim of the second needs it too."""
    whole = load_grid(composed, "whole")
    assert {len(load_grid(composed, f"whole/{name}").cells) for name in ("p2m_units", GRID)} == {9, 15}
    assert len(whole.cells) == 15 and {cell.grid for cell in whole.cells} == {"p2m_units", GRID}
    found = judge(composed, "whole")
    alone = [judged for name in ("p2m_units", GRID) for judged in judge(composed, f"whole/{name}")]
    assert {j.claim.name for j in alone} == {"point2mask/units", "point2mask/sinkhorn_iterations"}
    key = {(j.claim.name, j.metric): (j.verdict, j.paper, j.context, j.grid) for j in alone}
    assert {(j.claim.name, j.metric): (j.verdict, j.paper, j.context, j.grid) for j in found} == key
    assert len(found) == len(alone) and {j.verdict.outcome for j in found} == {Outcome.HOLDS}
    names = {c.better for j in found for c in j.verdict.comparisons}
    assert names == {"units centroid", "iterations 80"}  # the axis values of the member, not "grid"


def test_without_the_files_of_its_members_a_grid_is_judged_by_its_own_rows(composed):
    for name in ("p2m_units", GRID):
        (composed / "whole" / name / "grid.json").unlink()
    assert {j.claim.name for j in judge(composed, "whole")} == {"point2mask/units"}  # 80 is a cell of the first one only


def test_a_grid_below_with_other_runs_is_no_member(composed):
    path = composed / "whole" / GRID / "grid.json"
    content = json.loads(path.read_text())
    content["runs"].append("another")
    path.write_text(json.dumps(content))
    assert [member.name for member in load_grid(composed, "whole").members] == ["whole/p2m_units"]
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{GRID}/grid.json is not a grid file"):
        load_grid(composed, "whole")


def test_a_claim_about_two_members_says_of_which_unless_they_compare_the_same_runs(tmp_path):
    """PSPS with P1 and P10 is in both: once on the same runs, once on others."""
    for same in (True, False):
        results = tmp_path / str(same)
        results.mkdir()
        listed = []
        for member in ("fdd_voc", "p2m_points"):
            for count, shift in (("1", 5), ("10", 2)):
                run = f"{'' if same else member}psps-{count}"
                if run not in {cell["run_id"] for cell in listed}:
                    write_run(results, record(run, "psps", 0, config=PAPER, metrics=metrics(shift + (run[0] == "f"))))
                cell = {"run_id": run, "axes": {"method": "psps", "dataset.points.count": count}, "seed": 0}
                listed.append({**cell, "grid": member})
            own = [cell for cell in listed if cell["grid"] == member]
            write_grid_file(results / "whole" / member, member, own)
        once = {}
        for cell in listed:
            once.setdefault(cell["run_id"], cell)
        write_grid_file(results / "whole", "whole", list(once.values()))
        found = [j for j in judge(results, "whole") if j.claim.name == "psps/ten_points" and j.metric == "pq"]
        assert [j.context for j in found] == ([""] if same else ["grid=fdd_voc", "grid=p2m_points"])


def write_grid_file(folder, name, cells):
    folder.mkdir(parents=True, exist_ok=True)
    runs = [cell["run_id"] for cell in cells]
    (folder / "grid.json").write_text(json.dumps({"grid": name, "title": name, "runs": runs, "cells": cells}))


def test_rows_without_panoptic_metrics_are_judged_by_what_they_have(tmp_path):
    cells = [({"method": "agmm"}, 2, {}), ({"method": "semantics_nearest"}, 5, {})]
    val = {"panoptic": None, "semantic": metrics(2)["val"]["semantic"]}
    semantic = {"val": val, "labels_train": None, "labels_val": None}
    write_cells(tmp_path, cells, "quickstart")
    for path in tmp_path.glob("runs/*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": semantic}))
    found = judge(tmp_path, "quickstart")
    assert [(j.claim.name, j.metric) for j in found] == [("agmm/in_the_common_network", "miou")]


def cells_of(grid, scale):
    """A grid file, the axes of its cells at a scale, and their paper rows."""
    definition = load_definition(grid)
    blocks = [block for block in definition.blocks if block.scales is None or scale in block.scales]
    cells = [axes for block in blocks for axes in block.combinations()]
    rows = [next(iter(block.rows_of(axes)), None) for block in blocks for axes in block.combinations()]
    return definition, cells, rows


def pairs_of(claim, cells):
    """(better, worse) indices of all cells that a claim compares, context by context."""
    contexts, found = {}, []
    for index, cell in enumerate(cells):
        contexts.setdefault(tuple(sorted((a, v) for a, v in cell.items() if a not in claim.axes)), []).append(index)
    known = {axis for cell in cells for axis in cell}
    for members in contexts.values():
        found += [(members[a], members[b]) for a, b in claim.pairs([cells[i] for i in members], known)]
    return found


@pytest.mark.parametrize("claim", all_claims(), ids=lambda claim: claim.name)
def test_a_claim_names_cells_that_its_grids_have(claim):
    """In each of its grids there is a scale and a context where the claim compares cells."""
    for grid in claim.grids:
        assert any(pairs_of(claim, cells_of(grid, scale)[1]) for scale in ("paper", "paper_coco", "mini", "demo")), grid


@pytest.mark.parametrize("claim", [c for c in all_claims() if c.table], ids=lambda claim: claim.name)
def test_the_paper_prints_what_it_claims(claim):
    """Where the cells of a claim stand for rows of its table, the printed numbers have the claimed order."""
    compared = 0
    for grid in claim.grids:
        definition, cells, rows = cells_of(grid, "paper_coco" if grid.endswith("_coco") else "paper")
        if definition.paper_table != claim.table:
            continue
        table = paper_table(claim.table)
        for better, worse in pairs_of(claim, cells):
            if rows[better] is None or rows[worse] is None:
                continue
            first, second = table.row(rows[better]).values, table.row(rows[worse]).values
            for metric in METRICS.keys() & set(claim.metrics) & first.keys() & second.keys():
                assert second[metric] < claim.share * first[metric], metric
                compared += 1
    assert bool(compared) != (claim.name in NO_ROWS)


NO_ROWS = {"epld/beats_fdd", "epld/beats_point2mask", "point2mask/transport_at_one_iteration", "psps/ten_points"}
"""Claims whose cells stand for no two rows of one table: their grids have no paper table, or rows for some cells only."""


def test_composed_configs_of_the_ablations_have_the_papers_schedule():
    """What the guard about schedules compares: the config of a grid at scale paper."""
    definition = load_definition(GRID)
    config = compose_run((*definition.overrides, *definition.scales["paper"]))
    assert {key: config["schedule"][key] for key in PAPER["schedule"]} == PAPER["schedule"]
