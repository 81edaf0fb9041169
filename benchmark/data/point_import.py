"""From labelled pixels to a points file: which of them are the points of one target.

With a data set, the target of a pixel is the segment that it lies on, so that training, labels and masks agree. Without one,
it is what the format says: an object of a thing class, all of an image for a stuff class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmark.data.images import AnnotatedSource, Annotation
from benchmark.data.point_readers import (
    Clicks,
    Found,
    Images,
    Setting,
    read_csv,
    read_panoptic_points,
    read_scribble_maps,
    read_sparse_maps,
    read_whats_the_point,
)
from benchmark.data.points import target_segments
from benchmark.data.points_file import PointsFile
from methods.base.types import Categories

READERS: dict[str, Callable[[Path, Setting], Found]] = {
    "csv": read_csv,
    "panoptic_png": read_panoptic_points,
    "whats_the_point": read_whats_the_point,
    "sparse_png": read_sparse_maps,
    "scribble_png": read_scribble_maps,
}

Targets = dict[tuple[int, int], list[tuple[int, int]]]
"""(segment id, category id) -> pixels; of one image."""


def points_of_clicks(
    found: Found, images: Images, categories: Categories, name: str, origin: str, source: AnnotatedSource | None = None,
    show: Callable[[int], None] = lambda done: None,
) -> PointsFile:
    """The points file of what a reader found; what cannot be used is left out and noted in ``found.problems``.

    Args:
        found: clicks by image.
        images: of the clicks.
        categories: of the clicks.
        name: of the data set.
        origin: kept as the ``strategy`` of the points file.
        source: the data set's masks; with them, targets are the segments that the clicks lie on.
        show: called with the number of images that are done.

    Raises:
        DataError: an annotation of ``source`` cannot be read.
    """
    by_image: dict[int, Targets] = {}
    for done, (place, clicks) in enumerate(sorted(found.clicks.items()), 1):
        record = images.records[place]
        inside = ((clicks.xy >= 0) & (clicks.xy < (record.width, record.height))).all(axis=1)
        for x, y in clicks.xy[~inside].tolist():
            found.problems.append(
                f"The click x={x}, y={y} lies outside image {record.file_name} of {record.width} x {record.height} pixels."
            )
        kept = Clicks(clicks.xy[inside], clicks.categories[inside], clicks.instances[inside])
        note = _Notes(found.problems, record.file_name)
        if source is None:
            by_image[place] = _targets_of_instances(kept, categories, note)
        else:
            by_image[place] = _targets_of_segments(kept, source.read_annotation(record), categories, note)
        show(done)
    fingerprint = "" if source is None else source.fingerprint
    return _points_file(by_image, images, categories, name, origin, fingerprint)


class _Notes:
    """Problems of one image."""

    def __init__(self, problems: list[str], image: str):
        self._problems, self._image = problems, image

    def add(self, sentence: str) -> None:
        self._problems.append(f"Image {self._image}: {sentence}.")


def _targets_of_instances(clicks: Clicks, categories: Categories, note: _Notes) -> Targets:
    """Targets as the format has them; what says nothing about its object is one of its own, stuff is one target a class."""
    things = {category.id: category.is_thing for category in categories}
    fresh = itertools.count(max(0, clicks.instances.max(initial=0)) + 1)
    target_of: dict[tuple[str, int], tuple[int, int]] = {}
    taken: set[int] = set()
    targets: Targets = {}
    rows = zip(clicks.xy.tolist(), clicks.categories.tolist(), clicks.instances.tolist(), strict=True)
    for number, ((x, y), category, instance) in enumerate(rows):
        grouped = ("object", instance) if instance > 0 else ("alone", number)
        key = grouped if things[category] else ("stuff", category)
        if key not in target_of:
            segment = instance if instance > 0 and instance not in taken else next(fresh)
            taken.add(segment)
            target_of[key] = (segment, category)
        if target_of[key][1] != category:
            both = " and ".join(_name(c, categories) for c in (target_of[key][1], category))
            note.add(f"object {instance} has clicks of two classes, {both}")
            continue
        targets.setdefault(target_of[key], []).append((x, y))
    return targets


def _targets_of_segments(clicks: Clicks, annotation: Annotation, categories: Categories, note: _Notes) -> Targets:
    """Targets are the segments below the clicks, in the order of the annotation."""
    target_of = {
        segment: (target, category)
        for target, category, members in target_segments(annotation, categories)
        for segment in members
    }
    targets: Targets = {target: [] for target in target_of.values()}
    below = annotation.ids[clicks.xy[:, 1], clicks.xy[:, 0]].tolist()
    for (x, y), category, segment in zip(clicks.xy.tolist(), clicks.categories.tolist(), below, strict=True):
        wrong = wrong_place(segment, category, target_of, categories)
        if wrong:
            note.add(f"the click x={x}, y={y} on {_name(category, categories)} {wrong}")
        else:
            targets[target_of[segment]].append((x, y))
    return {target: pixels for target, pixels in targets.items() if pixels}


def wrong_place(segment: int, category: int, target_of: Mapping[int, tuple[int, int]], categories: Categories) -> str:
    """What is wrong with a point of a category on a segment of the ground truth, "" if nothing is.

    Args:
        segment: id below the point.
        category: id that the point has.
        target_of: segment id -> (target, category id) of all segments that are in a target.
    """
    if segment == 0:
        return "lies on void"
    if segment not in target_of:
        return "lies on a crowd region"
    actual = target_of[segment][1]
    return "" if actual == category else f"lies on {_name(actual, categories)}"


def _name(category: int, categories: Categories) -> str:
    return categories[categories.label_of(category)].name


def _points_file(
    by_image: Mapping[int, Targets], images: Images, categories: Categories, name: str, origin: str, fingerprint: str
) -> PointsFile:
    rows = [(place, *target, pixels) for place, targets in sorted(by_image.items()) for target, pixels in targets.items()]
    pixels = [np.array(row[3], dtype=np.int64).reshape(-1, 2) for row in rows]
    pixels = [p[np.sort(np.unique(p, axis=0, return_index=True)[1])] for p in pixels]  # a pixel clicked twice is one point
    columns = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3).T
    xy = np.concatenate([*pixels, np.empty((0, 2), dtype=np.int64)])
    lengths = [len(p) for p in pixels]
    return PointsFile(
        dataset=name, strategy=origin, count=max([1, *lengths]), seed=0, source_fingerprint=fingerprint,
        categories=categories, records=list(images.records), target_image=columns[0], target_segment=columns[1],
        target_category=columns[2], point_target=np.repeat(np.arange(len(rows)), lengths), point_x=xy[:, 0],
        point_y=xy[:, 1],
    )
