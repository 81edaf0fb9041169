"""The numbers of runs that tables, plots and verdicts show, by column key; raw: qualities in [0, 1], seconds, MB."""

from __future__ import annotations

import pandas as pd

from benchmark.label_quality import IMAGE_SUMS
from benchmark.statistics import ImageSums
from reports.columns import VARIANTS
from reports.grids import Grid
from reports.records import STAGES, Record, number

BY_IMAGE = {
    f"{split}_{key}": (split, part, whole)
    for split in ("train", "val")
    for key, part, whole in (
        ("instance_iou", "iou_sum", "instances"),
        ("ambiguous_accuracy", "ambiguous_correct", "ambiguous_total"),
        ("thing_accuracy", "thing_correct", "thing_total"),
    )
}
"""Measure whose sums are stored per image -> split, numerator, denominator. PQ is stored per class only."""


def measures(record: Record) -> dict[str, float | None]:
    """Every number of a run that tables show, by column key; None where it was not measured."""
    values: dict[str, float | None] = {}
    for key in ("pq", "pq_th", "pq_st", "sq", "rq"):
        values[key] = getattr(record.panoptic, key) if record.panoptic else None
    values["miou"] = record.semantic.miou if record.semantic else None
    for variant in VARIANTS:
        found = record.variants.get(variant)
        values[f"miou_{variant}"] = found.miou if found else None
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
    values["gpu_hours"] = record.gpu_hours
    values["network_parameters"] = number(record.parameters.get("network"))
    values["labeler_parameters"] = number(record.parameters.get("labeler"))
    return values


def image_sums(record: Record, measure: str) -> ImageSums | None:
    """What a measure of `BY_IMAGE` is made of, image by image; None where it is not stored."""
    if measure not in BY_IMAGE or BY_IMAGE[measure][0] not in record.label_images:
        return None
    split, *names = BY_IMAGE[measure]
    part, whole = (IMAGE_SUMS.index(name) for name in names)
    return ImageSums({image: (sums[part], sums[whole]) for image, sums in record.label_images[split].items()})


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
