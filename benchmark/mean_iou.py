"""Mean IoU from a streaming, mergeable confusion matrix. Values are in [0, 1]; NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

IGNORE = 255
"""Semantic label of pixels without ground truth."""


@dataclass(frozen=True, slots=True)
class MeanIoUResult:
    """``miou`` in [0, 1] (None if no class occurs) and ``per_class``: name -> IoU, None for an absent class."""

    miou: float | None
    per_class: dict[str, float | None]


class MeanIoU:
    """Mean intersection over union from a streaming confusion matrix.

    Args:
        num_classes: number K of classes.
        names: their K names; ``"0" .. "K-1"`` if None. ValueError if there are not K different ones.
    """

    def __init__(self, num_classes: int, names: Sequence[str] | None = None):
        self.names = [str(i) for i in range(num_classes)] if names is None else [str(name) for name in names]
        if num_classes < 1 or len(set(self.names)) != num_classes or len(self.names) != num_classes:
            raise ValueError(f"{num_classes} classes need {num_classes} different names, got {self.names}.")
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: ArrayLike, target: ArrayLike) -> None:
        """Add one or more images.

        Args:
            prediction: (...) int labels in ``0 .. K-1``; read only where ``target`` is not 255.
            target: (...) int labels in ``0 .. K-1``, 255 = no ground truth.

        Raises:
            ValueError: shapes differ, or a label that is read is outside ``0 .. K-1``.
        """
        prediction, target = np.asarray(prediction), np.asarray(target)
        if prediction.shape != target.shape:
            raise ValueError(f"The label maps differ in shape: {prediction.shape} predicted, {target.shape} target.")
        known = target != IGNORE
        count = len(self.names)
        rows, columns = target[known].astype(np.int64), prediction[known].astype(np.int64)
        for labels, what in ((rows, "target"), (columns, "predicted")):
            if labels.size and (labels.min() < 0 or labels.max() >= count):
                raise ValueError(f"A {what} label is outside 0..{count - 1}: found {labels.min()} to {labels.max()}.")
        self.confusion += np.bincount(rows * count + columns, minlength=count**2).reshape(count, count)

    def compute(self, absent_as_zero: bool = False) -> MeanIoUResult:
        """Mean IoU of everything added so far, see `mean_iou_result`."""
        return mean_iou_result(self.confusion, self.names, absent_as_zero)

    def state(self) -> dict[str, Any]:
        """For JSON: ``names`` and ``confusion``, (K, K) pixel counts, rows ground truth, columns prediction."""
        return {"names": list(self.names), "confusion": self.confusion.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MeanIoU:
        """The metric with stored counts; other keys of ``state`` are not read."""
        metric = cls(len(state["confusion"]), state.get("names"))
        metric.confusion += np.asarray(state["confusion"], dtype=np.int64)
        return metric

    def merge(self, other: MeanIoU) -> None:
        """Add the counts of another process. ValueError if its classes differ."""
        if other.names != self.names:
            raise ValueError("Confusion matrices of different classes can't be added.")
        self.confusion += other.confusion


def mean_iou_result(
    confusion: ArrayLike, names: Sequence[str] | None = None, absent_as_zero: bool = False
) -> MeanIoUResult:
    """Mean IoU from a confusion matrix.

    Args:
        confusion: (K, K) pixel counts, rows ground truth, columns prediction.
        names: K class names.
        absent_as_zero: count a class that is neither predicted nor present as IoU 0, as the released PSPS code does,
            instead of leaving it out.

    Raises:
        ValueError: not a square matrix, or a negative count.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"A confusion matrix is square and not negative, got shape {counts.shape}.")
    names = [str(i) for i in range(len(counts))] if names is None else names
    diagonal = np.diagonal(counts)
    union = counts.sum(0) + counts.sum(1) - diagonal
    per_class = {
        name: (float(d / u) if u else None) for name, d, u in zip(names, diagonal, union, strict=True)
    }
    occurring = [value for value in per_class.values() if value is not None]
    divisor = len(counts) if absent_as_zero else len(occurring)
    return MeanIoUResult(sum(occurring) / divisor if divisor else None, per_class)
