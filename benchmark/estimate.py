"""What cells will cost, judged by past runs of the same shape."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.fingerprints import Fingerprints
from benchmark.grid import Planned
from benchmark.plan import training_of
from benchmark.runs import State

BYTES_PER_PARAMETER = 4
CHECKPOINT_COPIES = 6
"""Copies of all parameters in a run's checkpoints: two of them, each with weights and two moments of the optimiser."""

Shape = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run.

    Attributes:
        hours: on its device, times the number of devices.
        on_gpu: whether those are hours of a GPU.
        left_bytes: what stays on disk.
        passing_bytes: checkpoints, deleted when the run is done.
    """

    hours: float
    on_gpu: bool
    left_bytes: float
    passing_bytes: float


@dataclass(frozen=True, slots=True)
class Expected:
    """Of all runs that would be started.

    Attributes:
        runs: how many.
        unknown: how many of them have no finished run like them; they are in none of the sums.
        gpu_hours, cpu_hours: device time, by the kind of device that past runs used.
        left_bytes: what stays on disk.
        largest_passing_bytes: checkpoints of the largest run, to be multiplied with the runs at the same time.
    """

    runs: int
    unknown: int
    gpu_hours: float
    cpu_hours: float
    left_bytes: float
    largest_passing_bytes: float


class PastRuns:
    """Costs of the finished runs in a results folder.

    A run is judged by finished runs of the same method, then of any method, with equal scale, network, head, length of
    training and input, on the same training data.
    """

    def __init__(self, results_dir: Path):
        self._costs: dict[Shape, list[Cost]] = {}
        for file in sorted((results_dir / "runs").glob("*/run.json")):
            record = _done(file)
            cost = _cost(record, file.parent) if record else None
            if record is None or cost is None:
                continue
            data = str((record.get("provenance") or {}).get("fingerprints", {}).get("data"))
            for shape in _shapes(record["config"], data):
                self._costs.setdefault(shape, []).append(cost)

    def cost(self, config: Mapping[str, Any], data: str) -> Cost | None:
        """Medians over the finished runs most like this one, None if there are none.

        Args:
            config: of the run to be judged.
            data: fingerprint of its training data.
        """
        for shape in _shapes(config, data):
            if costs := self._costs.get(shape):
                return Cost(
                    statistics.median(c.hours for c in costs), any(c.on_gpu for c in costs),
                    statistics.median(c.left_bytes for c in costs), max(c.passing_bytes for c in costs),
                )
        return None


def expected(cells: Sequence[Planned], fingerprints: Fingerprints) -> Expected:
    """What these cells will cost together. Of cells with the same training the first one has its cost, the others only disk:
    what they measure takes little beside it."""
    past: dict[str, PastRuns] = {}
    costs = []
    trainings = set()
    for cell, run in cells:
        training = training_of(cell) or run.run_id
        folder = str(cell.config["results_dir"])
        if folder not in past:
            past[folder] = PastRuns(Path(folder))
        cost = past[folder].cost(cell.config, fingerprints.of(cell.config).data)
        costs.append(replace(cost, hours=0.0) if cost and training in trainings else cost)
        trainings.add(training)
    known = [cost for cost in costs if cost]
    return Expected(
        len(costs), len(costs) - len(known),
        sum(c.hours for c in known if c.on_gpu), sum(c.hours for c in known if not c.on_gpu),
        sum(c.left_bytes for c in known), max((c.passing_bytes for c in known), default=0.0),
    )


def _shapes(config: Mapping[str, Any], data: str) -> list[Shape]:
    """What a run's cost is looked up by, the closest first."""
    schedule, points = config["schedule"], config["dataset"]["points"]
    parts = (
        config["scale"], config["model"]["name"], config["head"]["name"], data, schedule["steps"], schedule["epochs"],
        schedule["batch_size"], config["input"]["short"],
    )
    common = tuple(map(str, parts))
    method = str(config["method"]["name"])
    return [(*common, method, str(points["count"])), (*common, method), common]


def _done(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return record if record["state"] == State.DONE and "config" in record else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a report says what is wrong with it


def _cost(record: Mapping[str, Any], folder: Path) -> Cost | None:
    seconds = record.get("wall_seconds")
    if not seconds or record.get("trained"):  # its wall time is that of an evaluation alone
        return None
    weights = sum((record.get("parameters") or {}).values()) * BYTES_PER_PARAMETER
    if record.get("timings") is None:  # nothing was trained
        weights = 0
    others = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix not in (".safetensors", ".pt"))
    hardware = (record.get("provenance") or {}).get("hardware") or {}
    devices = record["config"].get("devices", 1)
    return Cost(seconds / 3600 * devices, hardware.get("device") == "cuda", weights + others, CHECKPOINT_COPIES * weights)
