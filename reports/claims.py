"""The papers' claims judged by a grid's cells: which cells a claim is about, their numbers, the verdict by each metric.

Claims about a member of a grid are judged by the member's table: it has the cells that other members have as well, under the
axes that the claim names. Cells that differ in an axis that the claim does not name (another scale, another number of
points) are compared apart, each with a verdict of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.papers import METRICS, all_claims
from benchmark.papers.claims import CLAIM_METRICS, Claim
from reports.grids import Grid
from reports.measures import image_sums
from reports.rows import POINTS_AXES, Row, axis_text
from reports.tables import ResultTable, result_table
from reports.verdicts import ClaimVerdict, Comparison, Measured, Outcome, claim_verdict, compare


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim, the metric and cells that it was judged by, the verdict and what the paper prints.

    ``context`` are the axis values that these cells share and other comparisons of the claim do not; ``paper`` is the
    printed ordering of the same cells, "" without one.
    """

    claim: Claim
    grid: str
    scale: str
    metric: str
    context: str
    verdict: ClaimVerdict
    paper: str = ""

    @property
    def sentence(self) -> str:
        """The claim, with the axis values that it was judged at where there are several."""
        return f"{self.claim.sentence} ({self.context})" if self.context else self.claim.sentence

    @property
    def metric_name(self) -> str:
        """"PQ"; "label IoU train"."""
        return CLAIM_METRICS[self.metric]


def judge_claims(grid: Grid, table: ResultTable) -> list[JudgedClaim]:
    """The verdicts on all claims about a grid and its members, in the papers' order; a claim without results once, as not
    run.

    A metric that none of the cells measured (no head, no PQ) is left out unless none of the claim's metrics was measured.
    """
    in_members = member_names(grid)
    tables = [(table, [row for row in table.rows if row.cells[0].grid not in in_members])]
    tables += [(each, each.rows) for each in map(result_table, grid.members)]
    judged: list[JudgedClaim] = []
    for claim in all_claims():
        found: list[JudgedClaim] = []
        for each, rows in tables:
            about = [row for row in rows if row.cells[0].grid in claim.grids]
            verdicts = _judge(claim, about, each.name) if about else []
            found += [one for one in verdicts if not any(_same(one, other) for other in found)]
        if len({one.grid for one in found}) > 1:
            found = [replace(one, context=", ".join(filter(None, [f"grid={one.grid}", one.context]))) for one in found]
        judged += found
    return judged


def member_names(grid: Grid) -> set[str]:
    """The names, as cells have them, of the grids that a grid is composed of and whose own files are there."""
    return {cell.grid for member in grid.members for cell in member.cells}


def _same(first: JudgedClaim, second: JudgedClaim) -> bool:
    """Whether two members compare the very same numbers."""
    return (first.metric, first.context, first.verdict) == (second.metric, second.context, second.verdict)


def _judge(claim: Claim, rows: Sequence[Row], name: Callable[[Row], str]) -> list[JudgedClaim]:
    known = {axis for row in rows for axis in row.cells[0].axes}
    scales = {scale for row in rows if (scale := scale_of([row]))}
    usual = scales.pop() if len(scales) == 1 else ""  # of rows without a record yet
    groups: dict[str, tuple[dict[str, str], list[Row]]] = {}
    for row in rows:
        context = _context(row, claim, usual)
        groups.setdefault(json.dumps(context, sort_keys=True), (context, []))[1].append(row)
    contexts = [context for context, _ in groups.values()]
    found = []
    for context, members in groups.values():
        pairs = claim.pairs(_axes(members), known)
        apart = {axis: value for axis, value in context.items() if any(other.get(axis) != value for other in contexts)}
        found += _by_metric(claim, members, pairs, _text(apart), name) if pairs else []
    return found


def _text(axes: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in axes.items())


def _axes(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [{axis: axis_text(value) for axis, value in row.cells[0].axes.items()} for row in rows]


def _context(row: Row, claim: Claim, usual: str) -> dict[str, str]:
    """The axes that the claim does not name, and the scale: what must be equal within a comparison."""
    axes = {axis: axis_text(value) for axis, value in row.cells[0].axes.items() if axis not in claim.axes}
    return axes | {"scale": scale_of([row]) or axes.get("scale", usual)}


def scale_of(rows: Sequence[Row]) -> str:
    """The scale that rows were run at, "" while none has a record."""
    return next((r.scale for row in rows for r in row.records if r.scale), "")


def _by_metric(
    claim: Claim, rows: Sequence[Row], pairs: Sequence[tuple[int, int]], context: str, name: Callable[[Row], str]
) -> list[JudgedClaim]:
    members = sorted({i for pair in pairs for i in pair})
    names = _short_names(rows, members, name)
    verdicts: dict[str, ClaimVerdict] = {}
    scale = scale_of(rows)
    for metric in claim.metrics:
        cells = {i: _measured(rows[i], metric, names[i]) for i in members}
        if any(cell.by_seed for cell in cells.values()):
            comparisons = [compare(cells[a], cells[b], claim.share, len(pairs)) for a, b in pairs]
            verdicts[metric] = claim_verdict(comparisons, metric, scale)
    if not verdicts:
        verdicts[claim.metrics[0]] = ClaimVerdict(Outcome.NOT_RUN, "no result of its cells", ())
    grid = rows[0].cells[0].grid
    return [
        JudgedClaim(claim, grid, scale, metric, context, verdict, _printed(claim, rows, pairs, metric))
        for metric, verdict in verdicts.items()
    ]


def _short_names(rows: Sequence[Row], members: Sequence[int], name: Callable[[Row], str]) -> dict[int, str]:
    """The axis values in which the compared cells differ; the rows' names where that says nothing."""
    axes = _axes(rows)
    differing = [axis for axis in dict.fromkeys(axis for i in members for axis in axes[i])
                 if len({axes[i].get(axis) for i in members}) > 1]  # fmt: skip
    short = {i: ", ".join(_short(axis, axes[i][axis]) for axis in differing if axis in axes[i]) for i in members}
    return short if len(set(short.values())) == len(members) else {i: name(rows[i]) for i in members}


def _short(axis: str, value: str) -> str:
    if axis in POINTS_AXES:
        return f"P{value}"
    return value if axis == "method" else f"{axis.rsplit('.', 1)[-1]} {value}"


def _measured(row: Row, metric: str, name: str) -> Measured:
    by_seed, by_image = {}, {}
    for record, value in row.by_run(metric):
        if record.seed is None:
            continue
        by_seed[record.seed] = value
        if (sums := image_sums(record, metric)) is not None:
            by_image[record.seed] = sums
    return Measured(name, by_seed, by_image)


def _printed(claim: Claim, rows: Sequence[Row], pairs: Sequence[tuple[int, int]], metric: str) -> str:
    """"53.8 against 52.4, 52.8": what the paper has for the cells, in the metric or, for label quality, in PQ."""
    key = metric if metric in METRICS else "pq"
    values: list[tuple[float, float]] = []
    for pair in pairs:
        papers = [rows[i].paper for i in pair]
        if any(paper is None or key not in paper.values for paper in papers):
            return ""
        values.append((papers[0].values[key], papers[1].values[key]))
    better = dict.fromkeys(f"{a:g}" for a, _ in values)
    worse = dict.fromkeys(f"{b:g}" for _, b in values)
    prefix = "" if key == metric else f"{METRICS[key]} "
    return f"{prefix}{', '.join(better)} against {', '.join(worse)}"


def summary(judged: Sequence[JudgedClaim]) -> Mapping[Outcome, int]:
    """How many verdicts there are of each kind."""
    return {outcome: count for outcome in Outcome if (count := sum(j.verdict.outcome == outcome for j in judged))}


def evidence(comparison: Comparison) -> str:
    """"+1.9 (n = 3; seeds 0.4 to 3.4; images 1.1 to 2.8)", in points; intervals are of 95 %."""
    if comparison.difference is None:
        return comparison.why
    parts = [f"n = {comparison.seeds}"]
    for what, interval in (("seeds", comparison.over_seeds), ("images", comparison.over_images)):
        if interval is not None:
            parts.append(f"{what} {signed_points(interval.low)} to {signed_points(interval.high)}")
    return f"{signed_points(comparison.difference)} ({'; '.join(parts)})"


def signed_points(value: float) -> str:
    """A difference of qualities in points, with its sign; nothing is +0.0."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"
