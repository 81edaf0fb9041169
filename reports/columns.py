"""The columns of result tables: what is shown, in which unit, and what it means."""

from __future__ import annotations

from dataclasses import dataclass

from reports.records import STAGES


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``key``, the title, what it means, in which of the two printed tables it is, and its unit.

    Attributes:
        part: "name" (in both), "quality" or "cost", "state" (in the quality table, last), "detail" (only in the CSV file).
        scale: factor from the raw value to the shown unit; None for text.
        digits: decimals shown.
    """

    key: str
    title: str
    help: str
    part: str
    scale: float | None = None
    digits: int = 1


def _percent(key: str, title: str, meaning: str, part: str = "quality") -> Column:
    return Column(key, title, f"{meaning}, x100", part, 100.0)


VALUE_COLUMNS = (
    _percent("pq", "PQ", "Panoptic quality on the validation images"),
    _percent("pq_th", "PQ_th", "Panoptic quality of things"),
    _percent("pq_st", "PQ_st", "Panoptic quality of stuff"),
    _percent("sq", "SQ", "Segmentation quality"),
    _percent("rq", "RQ", "Recognition quality"),
    _percent("miou", "mIoU", "Mean IoU of the semantic map named beside it, over the classes that occur"),
    Column("miou_source", "mIoU of", "The map that mIoU is measured on", "quality"),
    *(
        column
        for split in ("train", "val")
        for column in (
            _percent(
                f"{split}_instance_iou", f"label IoU {split}", f"Mean IoU of pseudo instances with their masks ({split})"
            ),
            _percent(
                f"{split}_ambiguous_accuracy", f"ambiguous {split}",
                f"Thing pixels with the label of their own instance, where the class has several ({split})",
            ),
            _percent(f"{split}_label_pq", f"label PQ {split}", f"Panoptic quality of the pseudo labels ({split})"),
            _percent(f"{split}_label_pq_th", f"label PQ_th {split}", "The same of things", "detail"),
            _percent(f"{split}_label_pq_st", f"label PQ_st {split}", "The same of stuff", "detail"),
            _percent(f"{split}_label_pq_agnostic", f"label PQ any {split}", "The same without classes", "detail"),
            _percent(f"{split}_thing_accuracy", f"thing pixels {split}", "Thing pixels with their own label", "detail"),
            _percent(f"{split}_stuff_accuracy", f"stuff pixels {split}", "Stuff pixels with their class", "detail"),
            _percent(f"{split}_box_iou", f"box IoU {split}", "Mean IoU of pseudo boxes with their boxes", "detail"),
            Column(f"{split}_instances", f"instances {split}", "Thing instances scored", "detail", 1.0, 0),
        )
    ),
    Column("step_seconds", "step (ms)", "Mean time of a training step", "cost", 1e3),
    *(
        Column(f"{stage}_seconds", f"{stage.replace('_', ' ')} (ms)", f"Mean time per step: {stage}", "cost", 1e3)
        for stage in STAGES
    ),
    Column("pseudo_labels_share", "pseudo labels (%)", "Share of the pseudo-label stage in a step", "cost", 100.0),
    Column("peak_memory_mb", "memory (MB)", "Peak memory", "cost", 1.0, 0),
    Column("wall_seconds", "wall (min)", "Wall time of the run", "cost", 1 / 60),
    Column("network_parameters", "network (M)", "Parameters at test time, millions", "cost", 1e-6, 2),
    Column("labeler_parameters", "labeler (M)", "Parameters only used in training, millions", "cost", 1e-6, 2),
)

NAME_COLUMNS = (
    Column("label", "method", "What was run", "name"),
    Column("note", "note", "What a reader must know about this row", "name"),
    Column("supervision", "supervision", "What training read", "name"),
    Column("points", "points", "Points per target", "name"),
)

STATE_COLUMNS = (
    Column("seeds", "seeds", "Runs done, of those planned", "state"),
    Column("state", "state", "State of the runs", "state"),
    Column("reason", "reason", "Why a run is not done", "state"),
)
