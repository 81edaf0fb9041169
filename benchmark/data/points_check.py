"""What may be wrong with point labels, found all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, ImageSource
from benchmark.data.point_import import wrong_place
from benchmark.data.points import target_segments
from benchmark.data.points_file import PointsFile, records_by_id


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        what: in the plural, such as "points outside their image".
        count: how many.
        first: where the first of them is.
        wrong: True for what makes labels unusable or wrong, False for what may be meant.
    """

    what: str
    count: int
    first: str
    wrong: bool


class _Findings:
    def __init__(self) -> None:
        self._found: dict[str, list] = {}

    def add(self, what: str, first: str, wrong: bool, count: int = 1) -> None:
        if count:
            self._found.setdefault(what, [0, first, wrong])[0] += count

    def list(self) -> list[Finding]:
        findings = (Finding(what, *fields) for what, fields in self._found.items())
        return sorted(findings, key=lambda finding: not finding.wrong)


def check_points(points: PointsFile) -> list[Finding]:
    """What can be told from the points alone: places, repetitions, unknown and empty classes, empty targets and images."""
    found = _Findings()
    image = points.target_image[points.point_target]
    x, y, target = points.point_x, points.point_y, points.point_target
    sizes = np.array([(r.width, r.height) for r in points.records], dtype=np.int64).reshape(-1, 2)[image]
    outside = np.flatnonzero((x < 0) | (y < 0) | (x >= sizes[:, 0]) | (y >= sizes[:, 1]))
    if outside.size:
        found.add("points outside their image", _place(points, outside[0]), True, outside.size)
    known = [category.id for category in points.categories]
    strange = np.flatnonzero(~np.isin(points.target_category, known))
    if strange.size:
        first = f"category id {points.target_category[strange[0]]} in {_name(points, points.target_image[strange[0]])}"
        found.add("targets of unknown classes", first, True, strange.size)
    again = _repeated(np.stack([target, x, y], axis=1))
    if again.size:
        found.add("points that repeat one of their target", _place(points, again[0]), False, again.size)
    different = np.setdiff1d(_repeated(np.stack([image, x, y], axis=1)), again)
    if different.size:
        found.add("points at a pixel of another target", _place(points, different[0]), True, different.size)
    _find_empty(points, found)
    return found.list()


def _find_empty(points: PointsFile, found: _Findings) -> None:
    counts = np.bincount(points.point_target, minlength=len(points.target_image))
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        first = f"target {points.target_segment[empty[0]]} of {_name(points, points.target_image[empty[0]])}"
        found.add("targets without a point", first, False, empty.size)
    used = set(points.target_category[counts > 0].tolist())
    unused = [category.name for category in points.categories if category.id not in used]
    found.add("classes without a point", ", ".join(unused[:5]), False, len(unused))
    bare = np.setdiff1d(np.arange(len(points.records)), points.target_image[points.point_target])
    if bare.size:
        found.add("images without a point", _name(points, bare[0]), False, bare.size)


def check_against_masks(
    points: PointsFile, source: AnnotatedSource, show: Callable[[int], None] = lambda done: None
) -> list[Finding]:
    """What the masks say: points on void, crowd regions, other classes or other segments, and targets without a point.

    Args:
        points: the labels.
        source: the data set.
        show: called with the number of images that are done.
    """
    found = _Findings()
    if points.source_fingerprint not in ("", source.fingerprint):
        found.add("ground truths that differ from the one the points were drawn from", source.name, False)
    place_of = records_by_id(points.records)
    unknown = [r.file_name for r in points.records if r.id not in {record.id for record in source.records}]
    found.add("images that the data set does not have", unknown[0] if unknown else "", True, len(unknown))
    for done, record in enumerate(source.records, 1):
        show(done)
        if record.id not in place_of:
            found.add("images of the data set that the points do not list", record.file_name, False)
            continue
        place = place_of[record.id]
        if (points.records[place].height, points.records[place].width) != (record.height, record.width):
            found.add("images of another size than in the data set", record.file_name, True)
            continue
        try:
            _check_image(points, source, place, found)
        except DataError as error:
            found.add("images or annotations that cannot be used", str(error), True)
    return found.list()


def _check_image(points: PointsFile, source: AnnotatedSource, place: int, found: _Findings) -> None:
    record, labels = points.records[place], points.labels_of(place)
    annotation = source.read_annotation(record)
    target_of = {
        segment: (target, category)
        for target, category, members in target_segments(annotation, source.categories)
        for segment in members
    }
    below = annotation.ids[labels.xy[:, 1].numpy(), labels.xy[:, 0].numpy()].tolist()
    for (x, y), target, segment in zip(labels.xy.tolist(), labels.target.tolist(), below, strict=True):
        category = points.categories[int(labels.classes[target])].id
        where = f"x={x}, y={y} in {record.file_name}"
        wrong = wrong_place(segment, category, target_of, source.categories)
        if wrong in ("lies on void", "lies on a crowd region"):
            found.add(f"points that {wrong.replace('lies', 'lie')}", where, True)
        elif wrong:
            name = points.categories.names[int(labels.classes[target])]
            found.add("points on another class", f"{where}, of {name}, {wrong}", True)
        elif target_of[segment][0] != int(labels.ids[target]):
            found.add("points on another segment than their target", f"{where}, target {int(labels.ids[target])}", True)
    missing = {target for target, _ in target_of.values()} - set(labels.ids[labels.target].tolist())
    found.add("targets of the data set without a point", f"{record.file_name}", False, len(missing))


def check_images(points: PointsFile, images: ImageSource, show: Callable[[int], None] = lambda done: None) -> list[Finding]:
    """Images that are missing, broken or of another size than recorded."""
    found = _Findings()
    for done, record in enumerate(points.records, 1):
        try:
            images.read_image(record)
        except DataError as error:
            found.add("images that cannot be used", str(error), True)
        show(done)
    return found.list()


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Indices of rows that occurred before."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(rows)), np.unique(rows, axis=0, return_index=True)[1])


def _place(points: PointsFile, point: int) -> str:
    image = points.target_image[points.point_target[point]]
    return f"x={points.point_x[point]}, y={points.point_y[point]} in {_name(points, image)}"


def _name(points: PointsFile, image: int) -> str:
    return points.records[image].file_name


def problems_as_findings(problems: Sequence[str]) -> list[Finding]:
    """What a reader could not use, as one kind of finding."""
    return [Finding("labels that cannot be used", len(problems), problems[0], True)] if problems else []
