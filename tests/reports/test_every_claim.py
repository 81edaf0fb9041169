"""The list of all claims: which verdicts it shows, and which of their differences."""

import re
from collections.abc import Mapping

import pytest

from benchmark.papers import all_claims
from reports.claims import JudgedClaim, judge_claims
from reports.every_claim import every_claim
from reports.grids import load_grid
from reports.tables import result_table
from reports.verdicts import ClaimVerdict, Comparison, Outcome

TRANSPORT = next(claim for claim in all_claims() if claim.name == "point2mask/transport")


def judged(
    outcome: Outcome, *differences: float, seeds: int = 3, metric: str = "pq", scale: str = "demo", context: str = "",
    refuted: int | None = None,
) -> JudgedClaim:  # fmt: skip
    comparisons = tuple(
        Comparison("a", "b", difference, seeds, None, None, Outcome.FAILS if i == refuted else Outcome.OPEN)
        for i, difference in enumerate(differences)
    )
    return JudgedClaim(TRANSPORT, "p2m_assignment", scale, metric, context, ClaimVerdict(outcome, "", comparisons))


def lines(by_grid: Mapping[str, list[JudgedClaim]], start: str = "| Optimal transport beats") -> list[list[str]]:
    """Cells of the claim's lines: sentence, source, metric, one for each scale."""
    text = every_claim(by_grid).splitlines()
    first = next(i for i, line in enumerate(text) if line.startswith(start))
    last = next(i for i in range(first + 1, len(text)) if not text[i].startswith("|  "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text[first:last]]


def test_a_claim_has_a_line_for_each_metric_and_a_column_for_each_scale():
    found = lines({
        "a": [judged(Outcome.HOLDS, 0.029), judged(Outcome.FAILS, -0.04, refuted=0, metric="train_instance_iou")],
        "b": [judged(Outcome.OPEN, 0.0, seeds=1, scale="mini", metric="train_instance_iou")],
    })  # fmt: skip
    assert found == [
        [TRANSPORT.sentence, TRANSPORT.source, "PQ", "holds: +2.9 (n = 3)", "–"],
        ["", "", "label IoU train", "does not hold: -4.0 (n = 3)", "not separable: +0.0 (n = 1)"],
    ]


@pytest.mark.parametrize(
    ("refuted", "outcome", "text"),
    [(None, Outcome.OPEN, "not separable: -2.0 (n = 3; least of 3)"),
     (2, Outcome.FAILS, "does not hold: -1.0 (n = 3; refuted of 3)")],
)  # fmt: skip
def test_of_several_orderings_the_one_that_decides_is_shown(refuted, outcome, text):
    ((*_, cell),) = lines({"a": [judged(outcome, 0.05, -0.02, -0.01, refuted=refuted)]})
    assert cell == text


def test_the_grid_with_most_seeds_is_shown_then_that_with_most_metrics():
    one, three = [judged(Outcome.OPEN, 0.5, seeds=1)], [judged(Outcome.OPEN, 0.1)]
    both = [judged(Outcome.OPEN, 0.2), judged(Outcome.OPEN, 0.3, metric="train_instance_iou")]
    assert [line[-1].split()[2] for line in lines({"a": one, "b": three})] == ["+10.0"]
    assert [line[-1].split()[2] for line in lines({"a": three, "b": both, "c": one})] == ["+20.0", "+30.0"]


def test_contexts_are_claims_of_their_own():
    text = every_claim({"a": [judged(Outcome.OPEN, 0.1, context=f"P={n}") for n in (1, 10)]})
    assert all(f"{TRANSPORT.sentence} (P={n})" in text for n in (1, 10)) and f"{TRANSPORT.sentence} |" not in text


def test_verdicts_are_counted_and_claims_without_one_are_not_run():
    nothing = JudgedClaim(TRANSPORT, "g", "demo", "pq", "", ClaimVerdict(Outcome.NOT_RUN, "no result", ()))
    labels = judged(Outcome.HOLDS, 0.1, metric="train_instance_iou")
    text = every_claim({"a": [labels, judged(Outcome.HOLDS, 0.1)], "b": [nothing]})
    assert "| demo  | the network |     1 |             0 |             0 |" in text
    assert "| demo  | the labels  |     1 |             0 |             0 |" in text
    for claim in all_claims():
        assert claim.sentence in text
    assert len(re.findall(r"not run +\|", text)) == len(list(all_claims())) - 1
    assert lines({"b": [nothing]})[0][2:] == ["–"]  # no scale, no column


def test_numbers_are_those_of_the_grid(ablation):
    grid = load_grid(ablation, "p2m_sinkhorn_iterations")
    claims = judge_claims(grid, result_table(grid))
    found = lines({grid.name: claims}, "| 80 Sinkhorn")
    for one, line in zip(claims, found, strict=True):
        least = min(c.difference for c in one.verdict.comparisons)
        assert line[3] == f"holds: {100 * least:+.1f} (n = 3; least of 4)"
