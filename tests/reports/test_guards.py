"""Guards: each holds on the sweep and is broken by the record that it exists for."""

import json

import pytest

from reports.grids import load_grid
from reports.guards import check
from reports.tables import result_table
from tests.reports.sweep import write_ablation


def guards(results):
    grid = load_grid(results, "demo")
    return {guard.claim: guard for guard in check(grid, result_table(grid))}


def change(results, run_id, edit):
    path = results / "runs" / run_id / "run.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_all_hold_on_the_sweep(results):
    found = guards(results)
    assert len(found) >= 12
    missing = found.pop("Every row has a result of every seed")
    assert all(guard.holds and not guard.detail for guard in found.values())
    assert missing.detail == "Missing in point2mask, P1 (1); fdd, P1 (0, 1); agmm, P1 (0, 1)."


def test_all_hold_on_the_ablation(ablation):
    grid = load_grid(ablation, "p2m_sinkhorn_iterations")
    assert all(guard.holds for guard in check(grid, result_table(grid)))


def test_a_claim_about_nothing_is_not_made(results):
    assert not any("(val)" in claim for claim in guards(results))


CASES = {
    "PQ, SQ and RQ are in [0, 1]": lambda r: r["metrics"]["val"]["panoptic"]["cat"].update(iou=9.0),
    "The IoUs of matches are above 0.5 and at most 1": lambda r: r["metrics"]["labels_train"]["quality"]["panoptic"][
        "cat"
    ].update(iou=0.4),
    "Rows not trained on masks read no box and no mask, nor did what they start from": lambda r: (
        r["supervision"].update(boxes=4)
    ),
    "No row holds a seed twice": lambda r: r.update(seed=0),
    "All rows were made from the same data": lambda r: r["provenance"]["fingerprints"].update(data="d2"),
    "Pseudo labels (train) were measured on the same images": lambda r: r["metrics"]["labels_train"]["quality"].update(
        images={"8": [0, 0, 0, 0, 0, 0]}
    ),
    "All rows come from one code revision": lambda r: r["provenance"].update(revision="def456"),
    "No metric of a run has a category that others of its data set do not know": lambda r: r["metrics"]["val"][
        "panoptic"
    ].update(zebra={"iou": 0.0, "tp": 0, "fp": 1, "fn": 0, "is_thing": True}),
    "No row comes from uncommitted code": lambda r: r["provenance"].update(dirty=True),
}


@pytest.mark.parametrize("claim", CASES)
def test_a_guard_is_broken_by_its_case(results, claim):
    change(results, "psps-s1", CASES[claim])
    guard = guards(results)[claim]
    assert not guard.holds and "psps" in guard.detail


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"epochs": 20}, "20 epochs, not 24 epochs"), ({"batch_size": 16}, "batch 16, not 8"),
        ({"epochs": None, "steps": 500}, "500 steps, not 24 epochs"),
        ({"decay_at": [0.75]}, "decay after 0.75 of the run, not after 15 and 20 of 24 epochs"),
    ],
)  # fmt: skip
def test_another_schedule_than_the_papers_is_told(tmp_path, schedule, told):
    write_ablation(tmp_path, shifts={"80": 2, "100": 4})
    for seed in range(3):
        change(tmp_path, f"p2m_sinkhorn_iterations-80-s{seed}", lambda r: r["config"]["schedule"].update(schedule))
    grid = load_grid(tmp_path, "p2m_sinkhorn_iterations")
    guard = next(g for g in check(grid, result_table(grid)) if "effective batch" in g.claim)
    assert guard.detail == f"Broken by point2mask, P1, method.iterations=80 ({told})."


def test_points_are_compared_between_runs_of_one_seed(results):
    claim = "Runs of one seed with equally many points have the same points"
    change(results, "psps-s1", lambda r: r["provenance"]["fingerprints"].update(points="p2"))
    assert guards(results)[claim].holds  # the only finished run with seed 1
    change(results, "psps-s0", lambda r: r["provenance"]["fingerprints"].update(points="p2"))
    assert "point2mask, P1, seed 0 (p1)" in guards(results)[claim].detail
    change(results, "psps-s0", lambda r: r["supervision"].update(points_per_target=10))
    assert guards(results)[claim].holds


def test_points_of_runs_on_masks_are_compared_by_the_configured_number(results):
    claim = "Runs of one seed with equally many points have the same points"
    for run_id, count in (("psps-s0", 1), ("p2m-s0", 10)):
        change(results, run_id, lambda r, count=count: r.update(
            supervision={"kind": "masks", "points_per_target": None, "boxes": 0, "masks": "all training images"},
            config={"dataset": {"points": {"count": count}}},
            provenance={**r["provenance"], "fingerprints": {"points": f"p{count}"}},
        ))  # fmt: skip
    assert guards(results)[claim].holds
    change(results, "p2m-s0", lambda r: r["config"]["dataset"]["points"].update(count=1))
    assert not guards(results)[claim].holds


def test_the_product_guard_looks_at_every_class(results, monkeypatch):
    """The product holds by construction; a result that was made in another way is caught."""
    import reports.records as records

    original = records.panoptic_result

    def wrong(state):
        result = original(state)
        quality = result.per_class["dog"]
        result.per_class["dog"] = type(quality)(quality.pq / 2, *(getattr(quality, k) for k in quality.__slots__[1:]))
        return result

    monkeypatch.setattr(records, "panoptic_result", wrong)
    assert not guards(results)["PQ_c = SQ_c RQ_c in every class"].holds
