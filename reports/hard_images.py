"""Which images are hard: label quality of every scored image, from the sums in the records (not only of pictured ones)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.label_quality import IMAGE_SUMS
from reports.records import Record
from reports.tables import ResultTable

MOST = 6
PART, WHOLE = IMAGE_SUMS.index("iou_sum"), IMAGE_SUMS.index("instances")


@dataclass(frozen=True, slots=True)
class HardImage:
    """An image with the mean instance IoU of its labels in [0, 1]: over the rows, of the worst and of the best row."""

    split: str
    image: str
    mean: float
    worst: float
    worst_row: str
    best: float
    best_row: str


def image_iou(record: Record, split: str) -> dict[str, float]:
    """Image id -> mean IoU in [0, 1] over its instances, of the labels of one run; images without instances are left out."""
    sums = record.label_images.get(split, {})
    return {image: values[PART] / values[WHOLE] for image, values in sums.items() if values[WHOLE]}


def hard_images(table: ResultTable) -> tuple[list[HardImage], list[HardImage]]:
    """(images on which rows differ most, images that are worst for all rows), at most `MOST` each.

    The first finished run of each row stands for it; only images that every row scored are compared.
    """
    found = [image for split in ("val", "train") for image in _of_split(table, split)]
    differing = sorted(found, key=lambda image: image.worst - image.best)
    worst = sorted(found, key=lambda image: image.mean)
    return differing[:MOST], worst[:MOST]


def _of_split(table: ResultTable, split: str) -> list[HardImage]:
    rows = [(table.name(row), image_iou(row.finished[0], split)) for row in table.rows if row.finished]
    rows = [(name, values) for name, values in rows if values]
    if len(rows) < 2:
        return []
    images = [image for image in rows[0][1] if all(image in values for _, values in rows)]
    return [_hard(split, image, [(name, values[image]) for name, values in rows]) for image in images]


def _hard(split: str, image: str, values: Sequence[tuple[str, float]]) -> HardImage:
    (worst_row, worst), (best_row, best) = min(values, key=lambda v: v[1]), max(values, key=lambda v: v[1])
    return HardImage(split, image, float(np.mean([v for _, v in values])), worst, worst_row, best, best_row)
