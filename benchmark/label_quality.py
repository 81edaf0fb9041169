"""Quality of pseudo labels: how well the labels made from points fit the masks that the points came from.

There is no published protocol. This one compares at the size of the image file and uses what a prediction lacks: the
identity of every label is known, so instances need no matching. Void pixels of the ground truth are never scored.

The sums of every image are kept, so that methods can be compared image by image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from benchmark.metrics import VOID, PanopticQuality, PanopticResult, id_map, overlaps, panoptic_result

Segments = Sequence[Mapping[str, Any]]
Pixels = Mapping[tuple[int, int], int]  # (annotation id, label) -> number of pixels
Pairs = Sequence[tuple[int, int]]

ANY = ({"id": 1, "name": "any", "isthing": 1},)
"""The single category of the class-agnostic panoptic quality."""

IMAGE_SUMS = ("iou_sum", "instances", "ambiguous_correct", "ambiguous_total", "thing_correct", "thing_total")
"""What the state keeps per image, in this order: the summed IoU and number of instances, then pixel counts."""


@dataclass(frozen=True, slots=True)
class LabelQualityResult:
    """Quality of the pseudo labels of a set of images; every value is in [0, 1], None where there is nothing to score.

    Attributes:
        instance_iou: mean over thing instances of the IoU of a label with the mask its point came from.
        box_iou: the same of their bounding boxes; an empty label has IoU 0 in both.
        thing_accuracy: share of thing pixels that carry the label of their own instance.
        ambiguous_accuracy: the same over pixels of things whose class has two or more instances in the image, the pixels
            whose instance their class doesn't tell.
        stuff_accuracy: share of stuff pixels that carry a label of their class.
        panoptic: PQ of the labels taken as predictions.
        class_agnostic_pq: PQ with all categories taken as one.
        images, instances: numbers of images and thing instances scored.
    """

    instance_iou: float | None
    box_iou: float | None
    thing_accuracy: float | None
    ambiguous_accuracy: float | None
    stuff_accuracy: float | None
    panoptic: PanopticResult
    class_agnostic_pq: float | None
    images: int
    instances: int


class LabelQuality:
    """Accumulates the quality of pseudo labels, see `LabelQualityResult` for what is measured.

    Args:
        categories: COCO category dicts with ``id``, ``name`` and ``isthing``.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]):
        self.panoptic = PanopticQuality(categories)
        self.class_agnostic = PanopticQuality(ANY)
        self._is_thing = {c["id"]: bool(c["isthing"]) for c in self.panoptic.categories}
        self._images: dict[str, list[float]] = {}
        self._box_iou: dict[str, float] = {}
        self._stuff = np.zeros(2, dtype=np.int64)

    def update(
        self,
        image_id: int | str,
        label_ids: ArrayLike,
        targets: Pairs,
        annotation_ids: ArrayLike,
        annotation_segments: Segments,
    ) -> None:
        """Add the labels of one image; on an error nothing is added.

        Args:
            image_id: identity of the image; each is added once.
            label_ids: (H, W) int pseudo labels at the size of the annotation, 0 = void, ``i + 1`` = target ``i``.
            targets: (segment id, category id) of every target, the segment being the one its points were drawn from. For
                stuff only the category is read.
            annotation_ids: (H, W) int ground-truth ids, 0 = void.
            annotation_segments: COCO ``segments_info`` with ``id``, ``category_id``, ``area``, ``iscrowd``.

        Raises:
            ValueError: the image was added before; a label without target; two things with one segment; a thing whose
                segment is not a segment of that category in the annotation; anything that `PanopticQuality.update` refuses.
        """
        if str(image_id) in self._images:
            raise ValueError(f"The labels of image {image_id} were added before.")
        labels, annotation = id_map(label_ids, "The label map"), id_map(annotation_ids, "The annotation map")
        self._check(labels, targets, annotation_segments, image_id)
        pixels = overlaps(annotation, labels)
        predicted = [{"id": i, "category_id": targets[i - 1][1]} for i in sorted({label for _, label in pixels} - {VOID})]
        self.panoptic.update(labels, predicted, annotation, annotation_segments)  # refuses first, adds last
        self.class_agnostic.update(labels, _as_any(predicted), annotation, _as_any(annotation_segments))

        things = [(i, segment) for i, (segment, category) in enumerate(targets, 1) if self._is_thing[category]]
        boxes = _box_ious(labels, annotation, things)
        self._box_iou[str(image_id)] = math.fsum(boxes)
        self._images[str(image_id)] = [
            math.fsum(_identity_ious(pixels, things)), len(things), *self._thing_pixels(pixels, things, annotation_segments)
        ]
        self._stuff += self._stuff_pixels(pixels, targets, annotation_segments)

    def _check(
        self, labels: NDArray[np.int64], targets: Pairs, segments: Segments, image: int | str
    ) -> None:
        if labels.size and labels.max() > len(targets):
            raise ValueError(f"Label {labels.max()} of image {image} has no target: there are {len(targets)}.")
        category_of = {s["id"]: s["category_id"] for s in segments}
        seen = set()
        for segment, category in targets:
            if category not in self._is_thing:
                raise ValueError(f"A target of image {image} has the unknown category {category}.")
            if not self._is_thing[category]:
                continue
            if segment in seen:
                raise ValueError(f"Two targets of image {image} belong to segment {segment}.")
            if category_of.get(segment) != category:
                raise ValueError(f"Segment {segment} of category {category} is not in the annotation of image {image}.")
            seen.add(segment)

    def _scored(self, segments: Segments, things: bool) -> dict[int, int]:
        """Category of every thing (stuff) segment that is not crowd."""
        return {
            s["id"]: s["category_id"]
            for s in segments
            if self._is_thing[s["category_id"]] == things and not s.get("iscrowd", 0)
        }

    def _thing_pixels(self, pixels: Pixels, things: Pairs, segments: Segments) -> tuple[int, int, int, int]:
        """Pixels of non-crowd things: ambiguous ones correct and in total, all correct and in total."""
        scored = self._scored(segments, things=True)
        per_class = Counter(scored.values())
        own_label = {segment: label for label, segment in things}
        sums = np.zeros((2, 2), dtype=np.int64)
        for (segment, label), count in pixels.items():
            if segment in scored:
                hit = np.array([count * (own_label.get(segment) == label), count])
                sums[1] += hit
                sums[0] += hit * (per_class[scored[segment]] >= 2)
        return tuple(sums.ravel().tolist())

    def _stuff_pixels(self, pixels: Pixels, targets: Pairs, segments: Segments) -> tuple[int, int]:
        """Pixels of non-crowd stuff: with a label of their category, and in total."""
        scored = self._scored(segments, things=False)
        correct = total = 0
        for (segment, label), count in pixels.items():
            if segment in scored:
                total += count
                correct += count * (label != VOID and targets[label - 1][1] == scored[segment])
        return correct, total

    def compute(self) -> LabelQualityResult:
        """The quality of everything added so far."""
        return label_quality_result(self.state())

    def state(self) -> dict[str, Any]:
        """Raw sums for JSON: ``panoptic`` and ``class_agnostic`` (`PanopticQuality.state`), ``stuff`` (pixels correct and in
        total), ``box_iou`` (image id -> IoU sum over its instances) and ``images`` (image id -> `IMAGE_SUMS`)."""
        return {
            "panoptic": self.panoptic.state(),
            "class_agnostic": self.class_agnostic.state(),
            "stuff": self._stuff.tolist(),
            "box_iou": dict(self._box_iou),
            "images": {image: list(sums) for image, sums in self._images.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> LabelQuality:
        """The metric with stored sums; ValueError if they belong to other categories."""
        metric = cls(categories)
        metric.panoptic = PanopticQuality.from_state(state["panoptic"], categories)
        metric.class_agnostic = PanopticQuality.from_state(state["class_agnostic"], ANY)
        metric._stuff += np.asarray(state["stuff"], dtype=np.int64)
        metric._box_iou = dict(state["box_iou"])
        metric._images = {image: list(sums) for image, sums in state["images"].items()}
        return metric

    def merge(self, other: LabelQuality) -> None:
        """Add the sums of another process. ValueError if both hold an image, or their categories differ."""
        if both := sorted(self._images.keys() & other._images.keys()):
            raise ValueError(f"Image {both[0]} was added in both processes.")
        self.panoptic.merge(other.panoptic)
        self.class_agnostic.merge(other.class_agnostic)
        self._stuff += other._stuff
        self._box_iou |= other._box_iou
        self._images |= other._images


def _as_any(segments: Segments) -> list[dict[str, Any]]:
    return [{**segment, "category_id": ANY[0]["id"]} for segment in segments]


def _identity_ious(pixels: Pixels, things: Pairs) -> list[float]:
    """IoU of each (label, segment) without the void pixels of the annotation."""
    label_area: Counter[int] = Counter()
    segment_area: Counter[int] = Counter()
    for (segment, label), count in pixels.items():
        if segment != VOID:
            label_area[label] += count
            segment_area[segment] += count
    ious = []
    for label, segment in things:
        shared = pixels.get((segment, label), 0)
        ious.append(shared / max(1, label_area[label] + segment_area[segment] - shared))
    return ious


def _box_ious(labels: NDArray[np.int64], annotation: NDArray[np.int64], things: Pairs) -> list[float]:
    """IoU of the pixel extents of each (label, segment), labels without the void pixels of the annotation."""
    ids = np.array([segment for _, segment in things], dtype=np.int64)
    order = np.argsort(ids)
    if not len(ids):
        return []
    place = np.searchsorted(ids[order], annotation).clip(max=len(ids) - 1)
    own = np.where(ids[order][place] == annotation, order[place] + 1, 0)
    label_boxes = _extents(np.where(annotation == VOID, 0, labels), labels.max(initial=0))
    segment_boxes = _extents(own, len(ids))
    return [_box_iou(label_boxes.get(label), segment_boxes.get(i)) for i, (label, _) in enumerate(things, 1)]


def _extents(ids: NDArray[np.int64], count: int) -> dict[int, tuple[slice, slice]]:
    found = ndimage.find_objects(ids, max_label=int(count))
    return {i: extent for i, extent in enumerate(found, 1) if extent is not None}


def _box_iou(first: tuple[slice, slice] | None, second: tuple[slice, slice] | None) -> float:
    if first is None or second is None:
        return 0.0
    shared, areas = 1, [1, 1]
    for a, b in zip(first, second, strict=True):
        shared *= max(0, min(a.stop, b.stop) - max(a.start, b.start))
        areas = [areas[0] * (a.stop - a.start), areas[1] * (b.stop - b.start)]
    return shared / (sum(areas) - shared)


def label_quality_result(state: Mapping[str, Any]) -> LabelQualityResult:
    """The quality from raw sums, see `LabelQuality.state`. ValueError if a part is missing or an image has other sums."""
    missing = {"panoptic", "class_agnostic", "stuff", "box_iou", "images"} - set(state)
    if missing:
        raise ValueError(f"The label quality sums lack {', '.join(sorted(missing))}.")
    images = state["images"]
    if wrong := [image for image, sums in images.items() if len(sums) != len(IMAGE_SUMS)]:
        raise ValueError(f"The label quality sums of image {wrong[0]} are not {', '.join(IMAGE_SUMS)}.")
    # exact summation: the result doesn't depend on which process saw which image
    sums = dict(zip(IMAGE_SUMS, (math.fsum(column) for column in zip(*images.values(), strict=True)), strict=False))
    total = {name: sums.get(name, 0.0) for name in IMAGE_SUMS}
    return LabelQualityResult(
        instance_iou=_share(total["iou_sum"], total["instances"]),
        box_iou=_share(math.fsum(state["box_iou"].values()), total["instances"]),
        thing_accuracy=_share(total["thing_correct"], total["thing_total"]),
        ambiguous_accuracy=_share(total["ambiguous_correct"], total["ambiguous_total"]),
        stuff_accuracy=_share(*state["stuff"]),
        panoptic=panoptic_result(state["panoptic"]),
        class_agnostic_pq=panoptic_result(state["class_agnostic"]).pq,
        images=len(images),
        instances=int(total["instances"]),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
