"""Run records as typed objects.

A report must say what happened to every cell of a grid. So nothing here fails because one record is missing, half written
or of an unknown form: such a cell becomes a `Record` with a state and a reason of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """One run, as far as its record could be read. Metrics are in [0, 1], times in seconds, memory in MB.

    ``variants`` are further predictions of the same run, by name: multi-scale testing, the weights that are best on the
    validation images. ``label_images`` holds the sums of label quality per image: split -> image id -> `IMAGE_SUMS`.
    """

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
    variants: Mapping[str, MeanIoUResult] = field(default_factory=dict)
    labels_train: LabelQualityResult | None = None
    labels_val: LabelQualityResult | None = None
    label_images: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    wall_seconds: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    finished: str = ""

    @property
    def scale(self) -> str:
        """Name of the scale that the run was made at, "" if it is not recorded."""
        return str(self.config.get("scale") or "")

    @property
    def gpu_hours(self) -> float | None:
        """Wall time times devices; None on a CPU."""
        hardware = self.provenance.get("hardware") or {}
        if self.wall_seconds is None or not str(hardware.get("device", "")).startswith("cuda"):
            return None
        return self.wall_seconds * int(self.config.get("devices") or 1) / 3600

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a training step: all timed stages over the number of steps."""
        steps = self.timings.get("steps")
        return sum(self.timings.get(stage, 0.0) for stage in STAGES) / steps if steps else None

    def stage_seconds(self, stage: str) -> float | None:
        """Mean time of one stage per training step."""
        steps = self.timings.get("steps")
        return self.timings[stage] / steps if steps and stage in self.timings else None


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
        variants={
            str(name): mean_iou_result(found["semantic"]["confusion"], found["semantic"].get("names"))
            for name, found in (metrics.get("variants") or {}).items()
        },
        labels_train=quality["train"],
        labels_val=quality["val"],
        label_images={split: dict(state["images"]) for split, (state, _) in labels.items() if state},
        timings={key: float(value) for key, value in (raw.get("timings") or {}).items()},
        peak_memory_mb=number(raw.get("peak_memory_mb")),
        wall_seconds=number(raw.get("wall_seconds")),
        provenance=dict(raw.get("provenance") or {}),
        trained=dict(raw.get("trained") or {}),
        command=str(raw.get("command") or ""),
        created=str(raw.get("created") or ""),
        finished=str(raw.get("finished") or ""),
    )


def _label_metrics(part: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Label quality sums and the confusion of the semantic branch; sums stored alone have no semantic branch beside them."""
    if not part:
        return None, None
    return (part["quality"], part.get("semantic")) if "quality" in part else (part, None)


def number(value: Any) -> float | None:
    """A stored number as float; None stays None."""
    return None if value is None else float(value)


def _reason(raw: Mapping[str, Any] | None) -> Reason | None:
    if not raw:
        return None
    tail = tuple(str(line) for line in raw.get("log_tail") or ())
    return Reason(str(raw.get("class") or "Unknown"), str(raw.get("message") or ""), tail, str(raw.get("command") or ""))
