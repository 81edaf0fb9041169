"""What a page tells of the runs of a row when it is opened: config, seeds, curve, log, command; for the page's script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from benchmark.runs import NOT_IDENTITY
from benchmark.statistics import seed_interval
from reports.columns import VALUE_COLUMNS
from reports.curves import Curve, log_tail
from reports.grids import Grid
from reports.measures import measures
from reports.records import Record
from reports.rows import Row, Stat
from reports.tables import ResultTable

NOT_SHOWN = (*NOT_IDENTITY, "seed", "dataset.points.seed")
"""Config keys that tell no difference between experiments."""

QUALITY = tuple(column for column in VALUE_COLUMNS if column.part == "quality" and column.scale is not None)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def run_details(grid: Grid, table: ResultTable, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Everything for the page's script.

    Returns:
        ``baseline``: name of the run that configs are compared with. ``rows``: in table order, with ``name``, ``runs``
        (ids), ``numbers`` (metric, mean, interval over seeds, interval over images, paper, verdict) and ``why`` (reasons of
        verdicts). ``runs``: by id.
    """
    configs = {r.run_id: _config(r) for r in grid.records}
    names = table.run_names()
    baseline = baseline_of(configs)
    return {
        "baseline": names.get(baseline, ""),
        "rows": [
            {
                "name": table.name(row), "runs": [r.run_id for r in row.records], "numbers": _numbers(row),
                "why": list(dict.fromkeys(f"{v.verdict}: {v.why}" for v in row.verdicts.values() if v.why)),
            }
            for row in table.rows
        ],
        "runs": {r.run_id: _run(r, configs.get(baseline, {}), configs[r.run_id], curves) for r in grid.records},
    }


def _config(record: Record) -> dict[str, str]:
    return {key: value for key, value in flat(record.config) if not _left_out(key)}


@cache
def _left_out(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_SHOWN)


def baseline_of(configs: Mapping[str, Mapping[str, str]]) -> str:
    """The run whose config is closest to what most runs have, key by key; the first of several. "" without a config."""
    known = {run: config for run, config in configs.items() if config}
    counts: dict[str, Counter[str]] = {}
    for config in known.values():
        for key, value in config.items():
            counts.setdefault(key, Counter())[value] += 1
    usual = {key: values.most_common(1)[0][0] for key, values in counts.items()}
    return max(known, key=lambda run: sum(usual[key] == value for key, value in known[run].items()), default="")


def config_difference(baseline: Mapping[str, str], own: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(key, baseline's value, own value) where two configs differ; "–" for a key that one lacks."""
    keys = dict.fromkeys([*baseline, *own])
    return [(key, baseline.get(key, "–"), own.get(key, "–")) for key in keys if baseline.get(key) != own.get(key)]


def _run(record: Record, baseline: Mapping[str, str], own: Mapping[str, str], curves: Mapping[str, Curve]) -> dict[str, Any]:
    curve = curves.get(record.run_id, Curve())
    reason = record.reason
    return {
        "seed": record.seed, "state": record.state, "finished": record.finished,
        "reason": reason.sentence if reason else "",
        "command": record.command or (reason.command if reason else ""),
        "difference": config_difference(baseline, own) if own else [],
        "numbers": _own_numbers(record),
        "log": log_tail(record),
        "steps": curve.steps, "series": curve.series,
    }  # fmt: skip


def _own_numbers(record: Record) -> list[tuple[str, str]]:
    values = measures(record)
    return [
        (column.title, f"{values[column.key] * column.scale:.{column.digits}f}")
        for column in QUALITY if values.get(column.key) is not None
    ]  # fmt: skip


def _numbers(row: Row) -> list[tuple[str, str, str, str, str, str]]:
    lines = []
    for column in QUALITY:
        stat = row.values.get(column.key)
        printed = row.paper.values.get(column.key) if row.paper else None
        if not isinstance(stat, Stat) and printed is None:
            continue
        mean = f"{100 * stat.mean:.1f}" if isinstance(stat, Stat) else "–"
        seeds = seed_interval([value for _, value in row.by_run(column.key)])
        verdict = row.verdicts.get(column.key)
        over_seeds = _interval((seeds.low, seeds.high) if seeds else None)
        over_images = _interval(_over_images(row, column.key))
        theirs = "" if printed is None else f"{printed:g}"
        lines.append((column.title, mean, over_seeds, over_images, theirs, str(verdict.verdict) if verdict else ""))
    return lines


def _over_images(row: Row, key: str) -> Sequence[float] | None:
    ends = [row.values.get(f"{key}_images_{end}") for end in ("low", "high")]
    return ends if all(isinstance(end, float) for end in ends) else None


def _interval(ends: Sequence[float] | None) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
