"""Checks that a page makes on the records it shows: are the numbers possible, and are the rows comparable?"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmark.metrics import PanopticResult
from benchmark.papers.schedules import schedule_differences
from benchmark.runs import State
from reports.grids import Grid
from reports.papers import SCALES
from reports.records import Record
from reports.supervision import is_points_only
from reports.tables import ResultTable

SHOWN_CHARACTERS = 12
"""Revisions and fingerprints are shortened to this many characters; the page has them in full below."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A claim about the records, whether it holds, and what breaks it (empty if it holds)."""

    claim: str
    holds: bool
    detail: str = ""


def check(grid: Grid, table: ResultTable) -> list[Guard]:
    """All guards of a grid; those about metrics and comparability look at the runs that are done."""
    names = table.run_names()
    done = [r for r in grid.records if r.state == State.DONE]
    measured = [(r, result) for r in done for result in _panoptic_results(r)]
    return [
        _guard("PQ, SQ and RQ are in [0, 1]", (names[r.run_id] for r, p in measured if not _in_range(p))),
        _guard("PQ_c = SQ_c RQ_c in every class", (names[r.run_id] for r, p in measured if not _is_product(p))),
        _guard("The IoUs of matches are above 0.5 and at most 1", (names[r.run_id] for r, p in measured if not _matches(p))),
        _guard(
            "Rows not trained on masks read no box and no mask, nor did what they start from",
            (names[r.run_id] for r in done if _leaks(r)),
        ),
        _guard("No row holds a seed twice", (table.name(row) for row in table.rows if _repeats_seed(row.records))),
        _seeds(table),
        _categories(done, names),
        _schedules(table),
        _same("All rows were made from the same data", {names[r.run_id]: _text(r, "data") for r in done}),
        _points(done, names),
        *_label_images(done, names),
        _same("All rows come from one code revision", {names[r.run_id]: str(r.provenance.get("revision")) for r in done}),
        _guard("No row comes from uncommitted code", (names[r.run_id] for r in done if r.provenance.get("dirty"))),
    ]


def _guard(claim: str, broken_by: Iterable[str]) -> Guard:
    names = list(dict.fromkeys(broken_by))
    return Guard(claim, not names, f"Broken by {'; '.join(names)}." if names else "")


def _same(claim: str, values: Mapping[str, str], show: bool = True) -> Guard:
    """Whether all runs (by name) have the same value; else which runs have another than most, long values shortened."""
    counts = Counter(values.values())
    if len(counts) < 2:
        return Guard(claim, True)
    usual = counts.most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    for run, value in values.items():
        if value != usual:
            others.setdefault(value, []).append(run)
    told = " and in ".join("; ".join(runs) + (f" ({_short(value)})" if show else "") for value, runs in others.items())
    return Guard(claim, False, f"Different in {told}" + (f". The others have {_short(usual)}." if show else "."))


def _short(value: str) -> str:
    return value.strip('"')[:SHOWN_CHARACTERS]


def _seeds(table: ResultTable) -> Guard:
    """Every row has the seeds that any row has: means over different seeds are means over different draws."""
    claim = "Every row has a result of every seed"
    seeds = sorted({r.seed for row in table.rows for r in row.finished if r.seed is not None})
    missing = []
    for row in table.rows:
        lacking = [str(seed) for seed in seeds if seed not in {r.seed for r in row.finished}]
        if lacking:
            missing.append(f"{table.name(row)} ({', '.join(lacking)})")
    return Guard(claim, not missing, f"Missing in {'; '.join(missing)}." if missing else "")


def _categories(done: list[Record], names: Mapping[str, str]) -> Guard:
    """Metrics of one data set are over the same categories: one that only some runs know would be in no other mean."""
    claim = "No metric of a run has a category that others of its data set do not know"
    known: dict[str, Counter[str]] = {}
    of_run = {r.run_id: (_text(r, "data"), _category_sets(r)) for r in done}
    for data, sets in of_run.values():
        for categories in sets:
            known.setdefault(data, Counter()).update([json.dumps(sorted(categories), ensure_ascii=False)])
    found = []
    for r in done:
        data, sets = of_run[r.run_id]
        usual = set(json.loads(known[data].most_common(1)[0][0])) if sets else set()
        odd = sorted({name for categories in sets for name in categories ^ usual})
        if odd:
            found.append(f"{names[r.run_id]} ({', '.join(odd)})")
    return Guard(claim, not found, f"Broken by {'; '.join(found)}." if found else "")


def _category_sets(record: Record) -> list[frozenset[str]]:
    per_class = [result.per_class for result in _panoptic_results(record)]
    per_class += [record.semantic.per_class] if record.semantic else []
    return list(dict.fromkeys(frozenset(names) for names in per_class))


def _schedules(table: ResultTable) -> Guard:
    """Rows beside a paper's number, on its data and at its scale, have its epochs, batch (over all devices) and decay."""
    found = []
    for row in table.rows:
        done = [r for r in row.finished if r.config]
        if row.paper is None or not done or done[0].scale != SCALES.get(row.paper.setting.data, "paper"):
            continue
        apart = schedule_differences(done[0].config.get("schedule") or {}, row.paper.setting.schedule)
        found += [f"{table.name(row)} ({'; '.join(apart)})"] if apart else []
    claim = "Rows beside a paper's number have its epochs, effective batch and decay"
    return Guard(claim, not found, f"Broken by {'; '.join(found)}." if found else "")


def _points(done: list[Record], names: Mapping[str, str]) -> Guard:
    """Runs with equally many points per target and the same seed have the same points."""
    claim = "Runs of one seed with equally many points have the same points"
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for r in done:
        groups.setdefault((_points_per_target(r), str(r.seed)), {})[names[r.run_id]] = _text(r, "points")
    guards = [_same(claim, values) for values in groups.values()]
    return Guard(claim, all(g.holds for g in guards), " ".join(g.detail for g in guards if not g.holds))


def _points_per_target(record: Record) -> str:
    """As configured: a run on masks reads points to make its labels, too, but they are not its supervision."""
    configured = ((record.config.get("dataset") or {}).get("points") or {}).get("count")
    return str(configured if configured is not None else record.supervision.get("points_per_target"))


def _label_images(done: list[Record], names: Mapping[str, str]) -> list[Guard]:
    guards = []
    for split in ("train", "val"):
        images = {names[r.run_id]: ",".join(sorted(r.label_images[split])) for r in done if split in r.label_images}
        if images:
            guards.append(_same(f"Pseudo labels ({split}) were measured on the same images", images, show=False))
    return guards


def _text(record: Record, fingerprint: str) -> str:
    return json.dumps((record.provenance.get("fingerprints") or {}).get(fingerprint), sort_keys=True)


def _panoptic_results(record: Record) -> list[PanopticResult]:
    labels = [q.panoptic for q in (record.labels_train, record.labels_val) if q]
    return [record.panoptic, *labels] if record.panoptic else labels


def _in_range(result: PanopticResult) -> bool:
    groups = [g for g in (result.all, result.things, result.stuff, *result.per_class.values()) if g]
    return all(0 <= value <= 1 + 1e-9 for g in groups for value in (g.pq, g.sq, g.rq))


def _is_product(result: PanopticResult) -> bool:
    return all(math.isclose(c.pq, c.sq * c.rq, abs_tol=1e-9) for c in result.per_class.values() if c)


def _matches(result: PanopticResult) -> bool:
    return all(0.5 * c.tp <= c.iou <= c.tp * (1 + 1e-9) for c in result.per_class.values() if c)


def _leaks(record: Record) -> bool:
    return record.supervision.get("kind") != "masks" and not is_points_only(record)


def _repeats_seed(records: Iterable[Record]) -> bool:
    seeds = [r.seed for r in records if r.seed is not None]
    return len(set(seeds)) < len(seeds)
