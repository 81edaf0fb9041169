"""Training curves and log tails of runs, from the files beside their records. What can't be read is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.runs import Run
from reports.records import Record

MOST_POINTS = 60
TAIL_LINES = 8
TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by step: the sum that is trained on (``loss``) and the sums of its parts by their first word.

    ``series`` has a list as long as ``steps`` for each name, at most `MOST_POINTS` long; None where a step has no such part.
    """

    steps: list[int] = field(default_factory=list)
    series: dict[str, list[float | None]] = field(default_factory=dict)


def read_curve(record: Record) -> Curve:
    """The curve of a run; empty if it logged none. A last line that is still being written is not read."""
    lines = list(_lines(Run(record.folder.parent.parent, record.run_id).metrics_file))
    stride = math.ceil(len(lines) / MOST_POINTS) or 1
    kept = lines[stride - 1 :: stride]
    sums = [_sums(line) for line in kept]
    names = list(dict.fromkeys(name for line in sums for name in line))
    if len(names) == 2 and "loss" in names:
        names = ["loss"]  # the only part is the sum again
    return Curve([int(line["step"]) for line in kept], {name: [line.get(name) for line in sums] for name in names})


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield values


def _sums(line: Mapping[str, Any]) -> dict[str, float]:
    """``loss`` and, for each first word of ``word/part`` names, the sum of its parts; finite numbers only."""
    sums: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, int | float) and math.isfinite(value) and (name == "loss" or "/" in name):
            group = name.split("/")[0]
            sums[group] = float(f"{sums.get(group, 0.0) + value:.4g}")
    return sums


def log_tail(record: Record) -> list[str]:
    """The last lines of a run's log: those that its failure recorded, else of its log file."""
    if record.reason and record.reason.log_tail:
        return list(record.reason.log_tail)
    try:
        with Run(record.folder.parent.parent, record.run_id).log_file.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-TAIL_LINES:]
