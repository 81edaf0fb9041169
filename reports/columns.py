"""The columns of result tables: what is shown, in which unit, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reports.records import STAGES


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the CSV file and, unless its part is "detail", of a printed table.

    Attributes:
        title: heading in flat tables; unique.
        help: what it means, without unit and split, for the list under the table; empty if the title says it.
        part: "name" (in both printed tables), "quality" or "cost", "state" (in the quality table, last), "detail".
        scale: factor from the raw value to the shown unit; None for text.
        digits: decimals shown.
        group: heading over neighbouring columns where headings have two levels.
        short: heading below ``group`` and name in the list under the table; the title if empty.
        measured: False for numbers that have neither a spread nor seeds: those that others printed, ends of intervals.
        rare: only some kinds of runs have it, so that its absence is nothing to tell.
    """

    key: str
    title: str
    help: str
    part: str
    scale: float | None = None
    digits: int = 1
    group: str = ""
    short: str = ""
    measured: bool = True
    rare: bool = False

    @property
    def term(self) -> str:
        """What the list under the table explains; columns of two splits share it."""
        return self.short or self.title

    @property
    def right(self) -> bool:
        """Whether its cells end at the right edge, so that digits of equal place stand below each other."""
        return self.scale is not None or self.key in ("points", "seeds")


PREDICTION = "validation"
LABELS = {"train": "pseudo labels, training images", "val": "pseudo labels, validation images"}
STEP = "training step, ms"

VARIANTS = {
    "multi_scale": ("mIoU MS", "mIoU with test-time averaging over scales"),
    "best": ("mIoU best", "mIoU of the weights that are best on these very images: optimistic"),
    "best_multi_scale": ("mIoU best MS", "both at once: optimistic"),
}
"""Further predictions of a run -> title and meaning of their mIoU."""


def _prediction(key: str, title: str, meaning: str) -> Column:
    return Column(key, title, meaning, "quality", 100.0, group=PREDICTION)


def _label(split: str, key: str, term: str, meaning: str, part: str = "quality") -> Column:
    return Column(f"{split}_{key}", f"{term} {split}", meaning, part, 100.0, group=LABELS[split], short=term)


VALUE_COLUMNS = (
    _prediction("pq", "PQ", ""),
    _prediction("pq_th", "PQ_th", "PQ over thing categories"),
    _prediction("pq_st", "PQ_st", "PQ over stuff categories"),
    _prediction("sq", "SQ", "segmentation quality: mean IoU of matched segments (IoU above 0.5)"),
    _prediction("rq", "RQ", "recognition quality: F1 score of matching"),
    _prediction(
        "miou",
        "mIoU",
        "mean over the classes that occur of the IoU of a class map with the ground truth; void pixels of a panoptic map "
        "count as the last class",
    ),
    Column("miou_source", "mIoU of", "the class map that mIoU is measured on", "quality", group=PREDICTION),
    *(replace(_prediction(f"miou_{key}", title, meaning), rare=True) for key, (title, meaning) in VARIANTS.items()),
    *(
        column
        for split in LABELS
        for column in (
            _label(split, "instance_iou", "label IoU",
                   "mean over thing instances of the IoU of a pseudo label with the mask that its points came from"),
            _label(split, "ambiguous_accuracy", "ambiguous",
                   "share of ambiguous pixels with the label of their own instance; a pixel of a thing is ambiguous if the "
                   "image has two or more instances of its class"),
            _label(split, "label_pq", "label PQ", "PQ of the pseudo labels taken as predictions"),
            _label(split, "label_pq_th", "label PQ_th", "the same of things", "detail"),
            _label(split, "label_pq_st", "label PQ_st", "the same of stuff", "detail"),
            _label(split, "label_pq_agnostic", "label PQ any", "the same without classes", "detail"),
            _label(split, "thing_accuracy", "thing pixels", "thing pixels with their own label", "detail"),
            _label(split, "stuff_accuracy", "stuff pixels", "stuff pixels with their class", "detail"),
            _label(split, "box_iou", "box IoU", "mean IoU of pseudo boxes with their boxes", "detail"),
            Column(f"{split}_instances", f"instances {split}", "thing instances scored", "detail", 1.0, 0),
        )
    ),
    Column("step_seconds", "step (ms)", "mean time of a training step, the sum of its stages", "cost", 1e3, 1, STEP, "step"),
    *(
        Column(f"{stage}_seconds", f"{stage.replace('_', ' ')} (ms)", "", "cost", 1e3, 1, STEP, stage.replace("_", " "))
        for stage in STAGES
    ),
    Column("pseudo_labels_share", "labels share (%)", "share of the stage pseudo labels in a step", "cost", 100.0),
    Column(
        "peak_memory_mb", "memory (MB)", "peak of the run: on the GPU what was allocated there, else of the process", "cost",
        1.0, 0,
    ),
    Column("wall_seconds", "wall (min)", "wall time of the run, training and evaluation", "cost", 1 / 60),
    Column("gpu_hours", "GPU-hours", "wall time times devices, of runs on GPUs", "cost", 1.0, 2, rare=True),
    Column(
        "network_parameters", "network (M)", "parameters of the network at test time", "cost", 1e-6, 2,
        "parameters, millions", "network",
    ),
    Column(
        "labeler_parameters", "labeler (M)", "parameters that only training uses", "cost", 1e-6, 2,
        "parameters, millions", "labeler",
    ),
)  # fmt: skip

IMAGE_COLUMNS = tuple(
    Column(
        f"{split}_{key}_images_{end}", f"{name} {split}, {end} over images",
        "ends of the interval of a bootstrap over images: what other images would change, not other seeds",
        "detail", 100.0, measured=False,
    )
    for split in LABELS for key, name in (("instance_iou", "label IoU"), ("ambiguous_accuracy", "ambiguous"))
    for end in ("low", "high")
)  # fmt: skip
"""Intervals over images of a row's seeds taken together, apart from the spread of seeds."""

VERDICT_COLUMNS = (
    Column(
        "paper_gap", "gap", "ours minus the paper's, of the first metric that both have", "quality", 100.0, measured=False,
    ),
    Column(
        "verdict", "verdict",
        "reproduced: a gap of half a point or less; within noise: the printed value, a single run, lies where 95 % of "
        "further seeds of ours would; above or below: outside, or too few seeds to know the noise", "quality",
    ),
)  # fmt: skip

NAME_COLUMNS = (
    Column("label", "method", "", "name"),
    Column("note", "note", "what a reader must know about this row", "detail"),
    Column("supervision", "supervision", "what was read beside images to make the labels", "quality"),
    Column(
        "points", "points", "clicked points per target, a target being a thing instance or a stuff class of an image; "
        "P10 in names of rows stands for ten", "name",
    ),
)  # fmt: skip

SETTING_COLUMN = Column("setting", "setting", "member of the grid: axes of its own, as words of its command", "name")
"""Instead of a column for each axis, where a grid is composed of several that have few axes in common."""

STATE_COLUMNS = (
    Column("seeds", "seeds", "runs done, of those planned", "state"),
    Column("state", "state", "", "state"),
    Column("reason", "reason", "", "state"),
)
