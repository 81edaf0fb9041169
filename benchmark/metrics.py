"""Panoptic quality: streaming, mergeable, stored as raw per-class sums.

`PanopticQuality` follows COCO's panoptic evaluation to the letter (Kirillov et al., "Panoptic Segmentation", CVPR 2019, and
the COCO panoptic API). Like `MeanIoU` and `LabelQuality` it accumulates counts over a data set and divides last, so that
the counts can be stored (`state`), read back (`from_state`) and added up over processes (`merge`). The numbers made from
stored counts come from pure functions (here `panoptic_result`), which reports call as well.

All values are in [0, 1]; scaling by 100 is a matter of reports. NumPy only: no network code is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.mean_iou import MeanIoU, MeanIoUResult, mean_iou_result

__all__ = [
    "VOID",
    "ClassQuality",
    "GroupQuality",
    "MeanIoU",
    "MeanIoUResult",
    "PanopticQuality",
    "PanopticResult",
    "id_map",
    "mean_iou_result",
    "overlaps",
    "panoptic_result",
]

VOID = 0
"""Segment id of pixels that belong to no segment."""

LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """Panoptic quality of one category: ``pq``, ``sq``, ``rq`` in [0, 1] and the counts they come from."""

    pq: float
    sq: float
    rq: float
    iou: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True, slots=True)
class GroupQuality:
    """Means of the per-class values over the ``categories`` categories of a group that occur; all in [0, 1]."""

    pq: float
    sq: float
    rq: float
    categories: int


@dataclass(frozen=True, slots=True)
class PanopticResult:
    """Panoptic quality of a data set.

    Attributes:
        all, things, stuff: means over the categories with TP + FP + FN > 0; None for a group that has none.
        per_class: category name -> quality, None for a category that never occurs.
    """

    all: GroupQuality | None
    things: GroupQuality | None
    stuff: GroupQuality | None
    per_class: dict[str, ClassQuality | None]

    @property
    def pq(self) -> float | None:
        return self.all.pq if self.all else None

    @property
    def sq(self) -> float | None:
        return self.all.sq if self.all else None

    @property
    def rq(self) -> float | None:
        return self.all.rq if self.all else None

    @property
    def pq_th(self) -> float | None:
        return self.things.pq if self.things else None

    @property
    def pq_st(self) -> float | None:
        return self.stuff.pq if self.stuff else None


def id_map(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """A segment id map as (H, W) int64.

    Raises ValueError, naming ``what``, unless ``values`` is a two-dimensional integer array in ``0 .. 2**31 - 1``.
    """
    array = _integer_map(values, what)
    if array.size:
        _check_range((int(array.min()), int(array.max())), what)
    return array


def _integer_map(values: ArrayLike, what: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be an (H, W) integer map, got {array.dtype} of shape {array.shape}.")
    return array.astype(np.int64, copy=False)


def _check_range(ids: Collection[int], what: str) -> None:
    if ids and (min(ids) < 0 or max(ids) > LARGEST_ID):
        raise ValueError(f"{what} holds ids from {min(ids)} to {max(ids)}; they must be in 0..{LARGEST_ID}.")


def overlaps(first: NDArray[np.int64], second: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Number of pixels of every pair of ids that meet, sorted by the first id, then the second.

    Args:
        first, second: (H, W) int64 maps of equal shape.

    Returns:
        (id in first, id in second) -> pixels, only pairs that occur.
    """
    if first.shape != second.shape:
        raise ValueError(f"The maps differ in size: {first.shape} and {second.shape} (height, width).")
    if not first.size:
        return {}
    from benchmark.pixel_pairs import pair_counts  # loads numba, half a second that reports without a gallery do not need

    ids, pixels = pair_counts(np.ascontiguousarray(first).ravel(), np.ascontiguousarray(second).ravel())
    return dict(sorted(zip(map(tuple, ids.tolist()), pixels.tolist(), strict=True)))


class PanopticQuality:
    """Panoptic quality by exactly COCO's rule.

    A prediction and a ground-truth segment of one category match if
    ``|p & g| / (|p| + |g| - |p & g| - |p & void|) > 0.5``; crowd segments never match. An unmatched prediction is a false
    positive unless more than half of it lies on void or on the crowd region of its own category (of several crowd regions
    of a category in an image only the last listed one counts, as in the COCO panoptic API). An unmatched segment that is
    not crowd is a false negative. ``|p|`` is counted in the map, ``|g|`` is the ``area`` of the annotation.

    Args:
        categories: COCO category dicts with ``id``, ``name`` and ``isthing``. ValueError on repeated ids or names and on
            an empty list.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]):
        self.categories = [{"id": int(c["id"]), "name": str(c["name"]), "isthing": int(c["isthing"])} for c in categories]
        self._index = {c["id"]: index for index, c in enumerate(self.categories)}
        names = {c["name"] for c in self.categories}
        if not self.categories or len(self._index) < len(self.categories) or len(names) < len(self.categories):
            raise ValueError("Panoptic quality needs at least one category, with ids and names that are all different.")
        self._iou = np.zeros(len(self.categories))
        self._tp, self._fp, self._fn = np.zeros((3, len(self.categories)), dtype=np.int64)

    def update(
        self,
        prediction_ids: ArrayLike,
        prediction_segments: Sequence[Mapping[str, Any]],
        target_ids: ArrayLike,
        target_segments: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add one image; on an error nothing is added.

        Args:
            prediction_ids: (H, W) int, 0 = void.
            prediction_segments: COCO ``segments_info`` with ``id`` and ``category_id``, exactly the ids of the map.
            target_ids: (H, W) int, 0 = void.
            target_segments: ``segments_info`` with ``id``, ``category_id``, ``area`` (pixels) and ``iscrowd`` (0 if
                missing). Every id of the map is listed; a listed segment without a pixel is a miss, as with COCO.

        Raises:
            ValueError: maps of different size or no id maps; an id in a map that is not listed; a predicted id that is
                listed but not in the map; an id listed twice; an unknown category; an ``area`` that is missing or not
                positive though the segment has pixels.
        """
        prediction = _integer_map(prediction_ids, "The predicted map")
        target = _integer_map(target_ids, "The target map")
        predicted = self._labels(prediction_segments, "predicted")
        annotated = self._labels(target_segments, "target")
        pixels = overlaps(target, prediction)
        # of the few ids that occur: to look at every pixel again would take as long as counting them
        _check_range({p for _, p in pixels}, "The predicted map")
        _check_range({t for t, _ in pixels}, "The target map")
        predicted_areas: dict[int, int] = {}
        for (_, p), count in pixels.items():
            predicted_areas[p] = predicted_areas.get(p, 0) + count
        present = {t for t, _ in pixels} - {VOID}
        _check_listed(predicted_areas.keys() - {VOID}, predicted, "predicted")
        _check_listed(present, annotated, "target")
        if absent := sorted(predicted.keys() - (predicted_areas.keys() - {VOID})):
            raise ValueError(f"Predicted segment {absent[0]} is listed but has no pixel in the map.")
        target_areas = _areas(target_segments, present)
        crowds = {s["id"]: annotated[s["id"]] for s in target_segments if s.get("iscrowd", 0)}

        matches = []
        for (t, p), shared in pixels.items():
            if VOID in (t, p) or t in crowds or annotated[t] != predicted[p]:
                continue
            iou = shared / (predicted_areas[p] + target_areas[t] - shared - pixels.get((VOID, p), 0))
            if iou > 0.5:
                matches.append((t, p, iou))
        self._count(matches, predicted, annotated, crowds, pixels, predicted_areas)

    def _count(
        self,
        matches: list[tuple[int, int, float]],
        predicted: dict[int, int],
        annotated: dict[int, int],
        crowds: dict[int, int],
        pixels: dict[tuple[int, int], int],
        predicted_areas: dict[int, int],
    ) -> None:
        for t, _, iou in matches:
            self._iou[annotated[t]] += iou
            self._tp[annotated[t]] += 1
        for t in annotated.keys() - {t for t, _, _ in matches} - crowds.keys():
            self._fn[annotated[t]] += 1
        crowd_of = {label: t for t, label in crowds.items()}  # a later crowd region of the category replaces an earlier
        for p in predicted.keys() - {p for _, p, _ in matches}:
            unscored = pixels.get((VOID, p), 0)
            if predicted[p] in crowd_of:
                unscored += pixels.get((crowd_of[predicted[p]], p), 0)
            if unscored / predicted_areas[p] <= 0.5:
                self._fp[predicted[p]] += 1

    def _labels(self, segments: Sequence[Mapping[str, Any]], what: str) -> dict[int, int]:
        labels: dict[int, int] = {}
        for segment in segments:
            if segment["id"] in labels:
                raise ValueError(f"The {what} segment {segment['id']} is listed twice.")
            if segment["category_id"] not in self._index:
                raise ValueError(
                    f"The {what} segment {segment['id']} has category {segment['category_id']}, which is not one of the "
                    f"{len(self.categories)} categories."
                )
            labels[segment["id"]] = self._index[segment["category_id"]]
        return labels

    def compute(self) -> PanopticResult:
        """PQ, SQ and RQ of everything added so far."""
        return panoptic_result(self.state())

    def state(self) -> dict[str, dict[str, Any]]:
        """Raw sums for JSON: category name -> ``iou`` (sum over matches), ``tp``, ``fp``, ``fn``, ``is_thing``."""
        sums = zip(self.categories, self._iou.tolist(), self._tp.tolist(), self._fp.tolist(), self._fn.tolist(), strict=True)
        return {
            c["name"]: {"iou": iou, "tp": tp, "fp": fp, "fn": fn, "is_thing": bool(c["isthing"])}
            for c, iou, tp, fp, fn in sums
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
    ) -> PanopticQuality:
        """The metric with stored sums. ValueError unless ``state`` has exactly the names of ``categories``."""
        metric = cls(categories)
        names = [c["name"] for c in metric.categories]
        if set(state) != set(names):
            differing = ", ".join(sorted(set(state) ^ set(names)))
            raise ValueError(f"The stored sums belong to other categories; in one of both only: {differing}.")
        for index, name in enumerate(names):
            metric._iou[index] = state[name]["iou"]
            for counts, key in ((metric._tp, "tp"), (metric._fp, "fp"), (metric._fn, "fn")):
                counts[index] = state[name][key]
        return metric

    def merge(self, other: PanopticQuality) -> None:
        """Add the sums of another process. ValueError if its categories differ."""
        if other.categories != self.categories:
            raise ValueError("Sums over different categories can't be added.")
        self._iou += other._iou
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn


def _check_listed(present: set[int], listed: Mapping[int, int], what: str) -> None:
    if unlisted := sorted(present - listed.keys()):
        raise ValueError(f"Id {unlisted[0]} is in the {what} map but not in the {what} segments.")


def _areas(segments: Sequence[Mapping[str, Any]], present: set[int]) -> dict[int, int]:
    areas = {segment["id"]: segment.get("area", 0) for segment in segments if segment["id"] in present}
    for segment_id, area in areas.items():
        if area <= 0:
            raise ValueError(f"The target segment {segment_id} is in the map and needs a positive 'area' (pixels).")
    return areas


def panoptic_result(state: Mapping[str, Mapping[str, Any]]) -> PanopticResult:
    """PQ, SQ and RQ from raw sums.

    ``SQ_c = iou / TP`` (0 without a TP), ``RQ_c = TP / (TP + FP/2 + FN/2)``, ``PQ_c = SQ_c RQ_c``; a group's values are the
    means over its categories with TP + FP + FN > 0, so a group's PQ is not the product of its SQ and RQ.

    Args:
        state: category name -> ``iou``, ``tp``, ``fp``, ``fn``, ``is_thing``, see `PanopticQuality.state`.

    Raises:
        ValueError: a sum is missing, negative or not finite; names the category.
    """
    per_class: dict[str, ClassQuality | None] = {}
    groups: dict[bool, list[ClassQuality]] = {True: [], False: []}
    for name, sums in state.items():
        missing = {"iou", "tp", "fp", "fn", "is_thing"} - set(sums)
        if missing:
            raise ValueError(f"The panoptic sums of '{name}' lack {', '.join(sorted(missing))}.")
        iou, tp, fp, fn = (sums[key] for key in ("iou", "tp", "fp", "fn"))
        if not all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in (iou, tp, fp, fn)):
            raise ValueError(f"The panoptic sums of '{name}' must be finite and not negative: {dict(sums)}.")
        per_class[name] = quality = _class_quality(iou, tp, fp, fn) if tp + fp + fn else None
        if quality:
            groups[bool(sums["is_thing"])].append(quality)
    occurring = [quality for quality in per_class.values() if quality]
    return PanopticResult(_group(occurring), _group(groups[True]), _group(groups[False]), per_class)


def _class_quality(iou: float, tp: int, fp: int, fn: int) -> ClassQuality:
    denominator = tp + 0.5 * fp + 0.5 * fn
    return ClassQuality(iou / denominator, iou / tp if tp else 0.0, tp / denominator, iou, tp, fp, fn)


def _group(qualities: Sequence[ClassQuality]) -> GroupQuality | None:
    if not qualities:
        return None
    count = len(qualities)
    pq, sq, rq = (sum(getattr(q, key) for q in qualities) / count for key in ("pq", "sq", "rq"))
    return GroupQuality(pq, sq, rq, count)
