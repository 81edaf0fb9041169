"""Run records as typed objects and as a data frame.

A report must say what happened to every cell of a grid. So nothing here fails because one record is missing, half written
or of an unknown form: such a cell becomes a `Record` with a state and a reason of its own. Only a grid file that can't be
read is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.label_quality import LabelQualityResult, label_quality_result
from benchmark.mean_iou import MeanIoUResult, mean_iou_result
from benchmark.metrics import PanopticResult, panoptic_result
from benchmark.runs import SCHEMA, Run, State

BROKEN = "broken"
"""State, in reports only, of a run whose record can't be read."""

STAGES = ("data", "forward", "pseudo_labels", "losses", "backward", "optimizer")
"""The parts of a training step that are timed, in order."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is not done: class and message of the error, the last log lines, the command that repeats it."""

    kind: str
    message: str
    log_tail: tuple[str, ...] = ()
    command: str = ""

    @property
    def sentence(self) -> str:
        """Class and message on one line."""
        return " ".join(f"{self.kind}: {self.message}".split())


@dataclass(frozen=True, slots=True)
class Record:
    """One run, as far as its record could be read. Metrics are in [0, 1], times in seconds, memory in MB."""

    run_id: str
    folder: Path
    state: str
    reason: Reason | None = None
    method: str = ""
    label: str = ""
    note: str = ""
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    supervision: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    panoptic: PanopticResult | None = None
    semantic: MeanIoUResult | None = None
    semantic_source: str | None = None
    labels_train: LabelQualityResult | None = None
    labels_val: LabelQualityResult | None = None
    label_images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    wall_seconds: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    finished: str = ""

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a training step: all timed stages over the number of steps."""
        steps = self.timings.get("steps")
        return sum(self.timings.get(stage, 0.0) for stage in STAGES) / steps if steps else None

    def stage_seconds(self, stage: str) -> float | None:
        """Mean time of one stage per training step."""
        steps = self.timings.get("steps")
        return self.timings[stage] / steps if steps and stage in self.timings else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid: its run, the axis values and seed that name it in tables, and the paper row it stands for."""

    record: Record
    axes: Mapping[str, Any]
    seed: int | None
    paper_row: str | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid's cells in table order, and the paper's table (``<paper>/<table>``) whose rows they name."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    paper_table: str | None = None

    @property
    def records(self) -> list[Record]:
        """Every run once, in table order (a run may be in several cells)."""
        return list({cell.record.run_id: cell.record for cell in self.cells}.values())


def load_grid(results_dir: Path | str, grid: str) -> Grid:
    """Read ``<results_dir>/<grid>/grid.json`` and the records of its runs.

    Raises:
        FileNotFoundError: there is no such grid; lists those that exist.
        ValueError: the grid file is not a grid.
    """
    results = Path(results_dir)
    path = results / grid / "grid.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        order = [str(run_id) for run_id in content["runs"]]
        cells = [(str(c["run_id"]), dict(c["axes"]), c.get("seed"), c.get("paper_row")) for c in content.get("cells", [])]
    except FileNotFoundError:
        known = ", ".join(sorted(p.parent.name for p in results.glob("*/grid.json"))) or "none"
        raise FileNotFoundError(f"There is no grid '{grid}' in {results} (known: {known}).") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a grid file ({type(error).__name__}: {error}); run the grid to write it.") from None
    named = {run_id for run_id, *_ in cells}
    cells += [(run_id, {}, None, None) for run_id in order if run_id not in named]
    place = {run_id: index for index, run_id in enumerate(order)}
    cells.sort(key=lambda cell: place.get(cell[0], len(order)))
    records = {run_id: load_record(results, run_id) for run_id in dict.fromkeys(run_id for run_id, *_ in cells)}
    loaded = tuple(
        Cell(records[run_id], axes, records[run_id].seed if seed is None else seed, row) for run_id, axes, seed, row in cells
    )
    return Grid(grid, str(content.get("title") or grid), loaded, content.get("paper_table"))


def load_record(results_dir: Path | str, run_id: str) -> Record:
    """The record of a run; never raises for what a run's folder lacks.

    A run without record is planned; a record that can't be read or understood has the state ``broken``. Both say why.
    """
    run = Run(Path(results_dir), run_id)
    if Path(run_id).name != run_id:
        return _unreadable(run, BROKEN, "BrokenRecord", f"'{run_id}' is not the name of a run folder.")
    try:
        raw = run.read()
    except (OSError, ValueError) as error:
        return _unreadable(run, BROKEN, "BrokenRecord", str(error))
    if raw is None:
        return _unreadable(run, State.PLANNED.value, "NoRecord", "The run has no run.json; run the grid to make it.")
    try:
        return _record(run, raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"run.json is not a valid record ({type(error).__name__}: {error}); delete the folder to repeat the run."
        return _unreadable(run, BROKEN, "BrokenRecord", message)


def _unreadable(run: Run, state: str, kind: str, message: str) -> Record:
    return Record(run.run_id, run.folder, state, Reason(kind, message), label=run.run_id)


def _record(run: Run, raw: Mapping[str, Any]) -> Record:
    if raw.get("schema") != SCHEMA:
        raise ValueError(f"schema {raw.get('schema')} is not {SCHEMA}")
    metrics = raw.get("metrics") or {}
    val = metrics.get("val") or {}
    labels = {split: _label_metrics(metrics.get(f"labels_{split}")) for split in ("train", "val")}
    quality = {split: label_quality_result(state) if state else None for split, (state, _) in labels.items()}
    semantic = val.get("semantic") or labels["val"][1]  # without a head only the semantic branch is left to measure
    return Record(
        run_id=run.run_id,
        folder=run.folder,
        state=State(raw["state"]).value,
        reason=_reason(raw.get("reason")),
        method=str(raw.get("method", "")),
        label=str(raw.get("label") or raw.get("method") or run.run_id),
        note=str(raw.get("note") or ""),
        seed=raw.get("seed"),
        config=dict(raw.get("config") or {}),
        supervision=dict(raw.get("supervision") or {}),
        parameters=dict(raw.get("parameters") or {}),
        panoptic=panoptic_result(val["panoptic"]) if val.get("panoptic") else None,
        semantic=mean_iou_result(semantic["confusion"], semantic.get("names")) if semantic else None,
        semantic_source=str(semantic["source"]) if semantic else None,
        labels_train=quality["train"],
        labels_val=quality["val"],
        label_images={split: frozenset(state["images"]) for split, (state, _) in labels.items() if state},
        timings={key: float(value) for key, value in (raw.get("timings") or {}).items()},
        peak_memory_mb=_number(raw.get("peak_memory_mb")),
        wall_seconds=_number(raw.get("wall_seconds")),
        provenance=dict(raw.get("provenance") or {}),
        created=str(raw.get("created") or ""),
        finished=str(raw.get("finished") or ""),
    )


def _label_metrics(part: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Label quality sums and the confusion of the semantic branch; sums stored alone have no semantic branch beside them."""
    if not part:
        return None, None
    return (part["quality"], part.get("semantic")) if "quality" in part else (part, None)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _reason(raw: Mapping[str, Any] | None) -> Reason | None:
    if not raw:
        return None
    tail = tuple(str(line) for line in raw.get("log_tail") or ())
    return Reason(str(raw.get("class") or "Unknown"), str(raw.get("message") or ""), tail, str(raw.get("command") or ""))


def measures(record: Record) -> dict[str, float | None]:
    """Every number of a run that tables show, by column key; None where it was not measured."""
    values: dict[str, float | None] = {}
    for key in ("pq", "pq_th", "pq_st", "sq", "rq"):
        values[key] = getattr(record.panoptic, key) if record.panoptic else None
    values["miou"] = record.semantic.miou if record.semantic else None
    for split, quality in (("train", record.labels_train), ("val", record.labels_val)):
        for key in ("instance_iou", "ambiguous_accuracy", "thing_accuracy", "stuff_accuracy", "box_iou", "instances"):
            values[f"{split}_{key}"] = getattr(quality, key) if quality else None
        for key in ("pq", "pq_th", "pq_st"):
            values[f"{split}_label_{key}"] = getattr(quality.panoptic, key) if quality else None
        values[f"{split}_label_pq_agnostic"] = quality.class_agnostic_pq if quality else None
    values["step_seconds"] = record.step_seconds
    for stage in STAGES:
        values[f"{stage}_seconds"] = record.stage_seconds(stage)
    stage, whole = record.stage_seconds("pseudo_labels"), record.step_seconds
    values["pseudo_labels_share"] = stage / whole if stage is not None and whole else None
    values["peak_memory_mb"] = record.peak_memory_mb
    values["wall_seconds"] = record.wall_seconds
    values["network_parameters"] = _number(record.parameters.get("network"))
    values["labeler_parameters"] = _number(record.parameters.get("labeler"))
    return values


def frame(grid: Grid) -> pd.DataFrame:
    """One row per cell, in table order: identity, state and every measure (float, NaN where not measured)."""
    rows = [
        {
            "run_id": cell.record.run_id,
            "method": cell.record.method,
            "label": cell.record.label,
            "note": cell.record.note,
            "seed": cell.seed,
            "state": cell.record.state,
            **{key: float("nan") if value is None else float(value) for key, value in measures(cell.record).items()},
        }
        for cell in grid.cells
    ]
    return pd.DataFrame(rows)
