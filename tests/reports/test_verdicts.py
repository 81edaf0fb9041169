"""Verdicts from numbers alone."""

import pytest

from benchmark.statistics import ImageSums
from reports.verdicts import AT_FLOOR, Measured, Outcome, Verdict, cell_verdict, claim_verdict, compare

DONE = ["done", "done", "done"]


@pytest.mark.parametrize(
    ("ours", "states", "extra", "verdict", "why"),
    [
        ([0.535, 0.541], DONE, {}, Verdict.REPRODUCED, ""),
        ([0.543], ["done"], {}, Verdict.REPRODUCED, ""),
        ([0.53, 0.55, 0.57], DONE, {}, Verdict.WITHIN_NOISE, ""),
        ([0.560, 0.561, 0.562], DONE, {}, Verdict.ABOVE, ""),
        ([0.510, 0.511, 0.512], DONE, {}, Verdict.BELOW, ""),
        ([0.51, 0.52], ["done", "done"], {}, Verdict.BELOW, "n = 2: noise not known"),
        ([0.56], ["done"], {}, Verdict.ABOVE, "n = 1: noise not known"),
        ([0.538], ["done"], {"apart": ["scale demo, not paper", "batch 8, not 16"]}, Verdict.NOT_COMPARABLE,
         "scale demo, not paper; batch 8, not 16"),
        ([], ["done"], {}, Verdict.NOT_COMPARABLE, "not measured"),
        ([], ["planned"], {}, Verdict.NOT_RUN, ""),
        ([], ["running", "planned"], {}, Verdict.NOT_RUN, "running"),
        ([], ["planned", "diverged"], {"failure": "FloatingPointError"}, Verdict.FAILED, "FloatingPointError"),
        ([], ["out_of_memory"], {}, Verdict.FAILED, "out_of_memory"),
        ([0.538], ["failed", "done"], {"failure": "X"}, Verdict.REPRODUCED, ""),
    ],
)  # fmt: skip
def test_cells(ours, states, extra, verdict, why):
    found = cell_verdict(0.538, ours, states, **extra)
    assert (found.verdict, found.why) == (verdict, why)
    assert (found.gap is None) == (verdict in (Verdict.NOT_COMPARABLE, Verdict.NOT_RUN, Verdict.FAILED))
    if found.gap is not None:
        assert found.gap == pytest.approx(sum(ours) / len(ours) - 0.538)


def test_the_text_of_a_verdict():
    assert cell_verdict(0.5, [], ["failed"], failure="RuntimeError").text == "failed (RuntimeError)"
    assert cell_verdict(0.5, [0.5], ["done"]).text == "reproduced"


def measured(name, values, images=None):
    """Values by seed; ``images``: quality of twenty images, the same for each seed."""
    sums = ImageSums({f"i{k}": (quality, 1.0) for k, quality in enumerate(images or ())})
    return Measured(name, dict(enumerate(values)), dict.fromkeys(range(len(values)), sums) if images else {})


BETTER, WORSE = [0.60, 0.61, 0.62], [0.55, 0.565, 0.57]
UP = [0.6 + 0.001 * k for k in range(20)]
DOWN = [0.5 + 0.001 * k for k in range(20)]
FLAT = [0.6] * 20
MIXED = [0.6 + (0.1 if k % 2 else -0.1) for k in range(20)]


@pytest.mark.parametrize(
    ("better", "worse", "outcome", "why"),
    [
        (measured("a", BETTER), measured("b", WORSE), Outcome.HOLDS, ""),
        (measured("a", BETTER, UP), measured("b", WORSE, DOWN), Outcome.HOLDS, ""),
        (measured("a", WORSE), measured("b", BETTER), Outcome.FAILS, ""),
        (measured("a", WORSE, DOWN), measured("b", BETTER, UP), Outcome.FAILS, ""),
        (measured("a", BETTER[:2]), measured("b", WORSE[:2]), Outcome.OPEN, "n = 2, 3 seeds are needed"),
        (measured("a", BETTER[:1], UP), measured("b", WORSE[:1], DOWN), Outcome.OPEN, "n = 1, 3 seeds are needed"),
        (measured("a", [0.6, 0.5, 0.7]), measured("b", [0.6, 0.6, 0.6]), Outcome.OPEN, "the interval over seeds holds zero"),
        (measured("a", BETTER, MIXED), measured("b", WORSE, FLAT), Outcome.OPEN, "the interval over images holds zero"),
        (measured("a", BETTER, DOWN), measured("b", WORSE, UP), Outcome.OPEN, "seeds and images differ in sign"),
        (measured("a", []), measured("b", WORSE), Outcome.NOT_RUN, "no result of a"),
    ],
)
def test_comparisons(better, worse, outcome, why):
    found = compare(better, worse)
    assert (found.outcome, found.why) == (outcome, why)


def test_seeds_are_paired():
    """Seeds vary by 0.3, the difference does not."""
    found = compare(measured("a", [0.31, 0.61, 0.46]), measured("b", [0.30, 0.60, 0.45]))
    assert found.outcome == Outcome.HOLDS and found.difference == pytest.approx(0.01)
    unpaired = Measured("c", {7: 0.3, 8: 0.6, 9: 0.45}, {})
    assert compare(measured("a", [0.31, 0.61, 0.46]), unpaired).why == "no seed in both"


def test_a_collapse_needs_more_than_a_difference():
    better, worse = measured("a", BETTER), measured("b", WORSE)
    assert compare(better, worse, share=0.75).outcome == Outcome.FAILS
    assert compare(better, measured("b", [0.2, 0.21, 0.22]), share=0.75).outcome == Outcome.HOLDS


def test_one_ordering_of_many_is_refuted_only_beyond_chance():
    better, worse = measured("a", [0.50, 0.502, 0.505]), measured("b", [0.512, 0.51, 0.5135])
    assert compare(better, worse).outcome == Outcome.FAILS
    found = compare(better, worse, alternatives=10)
    assert found.outcome == Outcome.OPEN and "not beyond chance among 10" in found.why


HOLDS = compare(measured("a", BETTER), measured("b", WORSE))
FAILS = compare(measured("a", WORSE), measured("b", BETTER))
OPEN = compare(measured("a", BETTER[:1]), measured("b", WORSE[:1]))
MISSING = compare(measured("a", BETTER), measured("b", []))


@pytest.mark.parametrize(
    ("comparisons", "outcome"),
    [
        ([HOLDS, HOLDS], Outcome.HOLDS), ([HOLDS, FAILS], Outcome.FAILS), ([HOLDS, OPEN], Outcome.OPEN),
        ([OPEN, FAILS], Outcome.FAILS), ([HOLDS, MISSING], Outcome.NOT_RUN), ([MISSING, FAILS], Outcome.FAILS),
        ([], Outcome.NOT_RUN), ([MISSING], Outcome.NOT_RUN),
    ],
)  # fmt: skip
def test_all_orderings_of_a_claim_must_hold(comparisons, outcome):
    assert claim_verdict(comparisons, "pq", "demo").outcome == outcome


@pytest.mark.parametrize("metric", sorted(AT_FLOOR["mini"]))
def test_a_metric_at_its_floor_separates_nothing(metric):
    for comparisons in ([HOLDS], [FAILS]):
        found = claim_verdict(comparisons, metric, "mini")
        assert found.outcome == Outcome.OPEN and "floor" in found.why
        assert claim_verdict(comparisons, metric, "demo").outcome != Outcome.OPEN


def test_label_quality_has_signal_at_mini():
    assert claim_verdict([HOLDS], "train_instance_iou", "mini").outcome == Outcome.HOLDS
