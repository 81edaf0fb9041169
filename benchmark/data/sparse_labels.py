"""Sparse labels that are no points per target: scribbles, clicks per image, and the labelled pixels of label maps.

They become a `PointsFile` like drawn points. A target of clicks and of label maps is a class of the image; a scribble
belongs to one target, as points do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.images import AnnotatedSource, Annotation
from benchmark.data.label_maps import LabelMaps, sparse_label_map, write_label_map
from benchmark.data.points import sample_points, stable_seed, target_segments
from benchmark.data.points_file import PointsFile

TRIES = 8
"""Curves drawn per scribble, of which the longest is kept."""

Target = tuple[int, int, np.ndarray]
"""(segment id, category id, (p, 2) int64 columns and rows)."""


def sample_scribble(mask: np.ndarray, seed: int, tries: int = TRIES) -> np.ndarray:
    """A thin smooth curve inside a mask: the longest of a few quadratic Bézier curves between its pixels, cut at its border.

    Args:
        mask: (H, W) bool.
        seed: non-negative integer.
        tries: number of curves.

    Returns:
        (k, 2) int64 different pixels x, y along the curve, each a neighbour of the one before; k is at least 1.

    Raises:
        ValueError: empty mask.
    """
    rows, cols = np.nonzero(mask)
    if not rows.size:
        raise ValueError("A scribble cannot be drawn in an empty mask.")
    xy = np.stack([cols, rows], axis=1)
    rng = np.random.default_rng(seed)
    curves = (_inside(mask, _bezier(xy[rng.integers(len(xy), size=3)])) for _ in range(tries))
    return max(curves, key=len)  # the first of equals


def _bezier(controls: np.ndarray) -> np.ndarray:
    """Pixels of the curve from the first to the last of three control points, neighbours following each other."""
    start, middle, end = controls.astype(np.float64)
    steps = 4 * int(np.abs(np.diff(controls, axis=0)).sum()) + 2  # the curve is shorter than its control polygon
    t = np.linspace(0, 1, steps)[:, None]
    pixels = np.floor((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end + 0.5).astype(np.int64)
    return pixels[np.append(True, np.any(np.diff(pixels, axis=0) != 0, axis=1))]


def _inside(mask: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """The longest part of a curve within the mask, without the pixels that it meets again."""
    inside = mask[curve[:, 1], curve[:, 0]]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    begin, end = max(edges.reshape(-1, 2).tolist(), key=lambda part: part[1] - part[0])
    kept = curve[begin:end]
    _, first = np.unique(kept, axis=0, return_index=True)
    return kept[np.sort(first)]


def sample_clicks(ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(k, 2) int64 columns and rows of clicks, uniform over an image's pixels that belong to a segment (``ids`` > 0).

    k is ``count``, or the number of those pixels if that is smaller; the clicks of a smaller count come first. How the
    published clicks of Cityscapes were made is not known.
    """
    known = np.asarray(ids) > 0
    return sample_points(known, count, "uniform", seed) if known.any() else np.zeros((0, 2), dtype=np.int64)


def _scribbles(source: AnnotatedSource, image: Any, annotation: Annotation, count: int, seed: int) -> Iterable[Target]:
    for segment, category, members in target_segments(annotation, source.categories):
        drawn = stable_seed(source.name, image, segment, "scribbles", seed)
        yield segment, category, sample_scribble(np.isin(annotation.ids, members), drawn)


def _clicks(source: AnnotatedSource, image: Any, annotation: Annotation, count: int, seed: int) -> Iterable[Target]:
    crowd = [s["id"] for s in annotation.segments if s.get("iscrowd")]
    ids = np.where(np.isin(annotation.ids, crowd), 0, annotation.ids)
    xy = sample_clicks(ids, count, stable_seed(source.name, image, "clicks", seed))
    return _by_class(annotation, xy)


def _labelled(source: AnnotatedSource, image: Any, annotation: Annotation, count: int, seed: int) -> Iterable[Target]:
    rows, cols = np.nonzero(annotation.ids)
    return _by_class(annotation, np.stack([cols, rows], axis=1))


def _by_class(annotation: Annotation, xy: np.ndarray) -> Iterable[Target]:
    """Pixels as targets that are classes; a target's identity is its category id."""
    category_of = {int(s["id"]): int(s["category_id"]) for s in annotation.segments}
    categories = np.array([category_of[int(i)] for i in annotation.ids[xy[:, 1], xy[:, 0]]], dtype=np.int64)
    for category in np.unique(categories).tolist():
        yield category, category, xy[categories == category]


SPARSE: dict[str, Callable[[AnnotatedSource, Any, Annotation, int, int], Iterable[Target]]] = {
    "scribbles": _scribbles, "clicks": _clicks, "labelled": _labelled,
}  # fmt: skip
"""Value of ``dataset.points.strategy`` -> targets of an image: one thin curve per target (``count`` is not read),
``count`` pixels per image, or every pixel of a sparse label map (neither ``count`` nor ``seed`` is read)."""


def draw_sparse_labels(source: AnnotatedSource, strategy: str, count: int, seed: int) -> PointsFile:
    """The sparse labels of a split; images are drawn independently of each other.

    Args:
        source: the ground truth; for ``labelled``, sparse label maps.
        strategy: a key of `SPARSE`.
        count: clicks per image.
        seed: global seed.

    Raises:
        DataError: an annotation cannot be read or has another convention than it should.
    """
    targets: list[tuple[int, int, int]] = []
    points: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for index, record in enumerate(source.records):
        for segment, category, xy in SPARSE[strategy](source, record.id, source.read_annotation(record), count, seed):
            targets.append((index, segment, category))
            points.append(xy)
    image, segment, category = np.array(targets, dtype=np.int64).reshape(-1, 3).T
    lengths = [len(xy) for xy in points[1:]]
    xy = np.concatenate(points)
    return PointsFile(
        dataset=source.name, strategy=strategy, count=max([1, *lengths]), seed=seed, source_fingerprint=source.fingerprint,
        categories=source.categories, records=list(source.records), target_image=image, target_segment=segment,
        target_category=category, point_target=np.repeat(np.arange(len(targets)), lengths), point_x=xy[:, 0],
        point_y=xy[:, 1],
    )


def ensure_sparse_labels(source: AnnotatedSource, folder: Path, split: str, settings: Mapping[str, Any]) -> PointsFile:
    """The sparse labels of a split with the settings of a ``dataset.points`` config, read from ``folder`` if they were drawn
    before, else drawn and written.

    Of ``labelled``, the validation images have none: their maps are ground truth.
    """
    strategy, count, seed = settings["strategy"], int(settings["count"]), int(settings["seed"])
    if strategy == "labelled" and not (isinstance(source, LabelMaps) and source.sparse):
        return _unlabelled(source, seed)
    count, seed = (count if strategy == "clicks" else 1), (0 if strategy == "labelled" else seed)
    path = folder / f"{source.name}_{split}_{strategy}_{count}_seed{seed}_{source.fingerprint[:12]}.npz"
    if path.exists():
        found = PointsFile.load(path)
        if (found.strategy, found.seed, found.source_fingerprint) == (strategy, seed, source.fingerprint):
            return found
    drawn = draw_sparse_labels(source, strategy, count, seed)
    drawn.save(path)
    return replace(drawn, path=path)


def _unlabelled(source: AnnotatedSource, seed: int) -> PointsFile:
    none = np.zeros(0, dtype=np.int64)
    return PointsFile(
        source.name, "labelled", 1, seed, source.fingerprint, source.categories, list(source.records), *[none] * 6
    )


def write_sparse_labels(points: PointsFile, folder: Path | str) -> list[Path]:
    """Write points as sparse label maps (see `benchmark.data.label_maps`), one ``<image's stem>.png`` an image.

    Values are category ids minus 1, as `LabelMaps` reads them. ValueError if the ids are not ``1 .. K``.
    """
    count = len(points.categories)
    if sorted(c.id for c in points.categories) != list(range(1, count + 1)):
        raise ValueError(f"Sparse label maps need the category ids 1..{count}; {points} has others.")
    values = np.array([c.id - 1 for c in points.categories])
    written = []
    for index, record in enumerate(points.records):
        labels = points.labels_of(index)
        size = (record.height, record.width)
        written.append(Path(folder) / f"{Path(record.file_name).stem}.png")
        write_label_map(written[-1], sparse_label_map(labels.xy.numpy(), values[labels.point_classes.numpy()], size, count))
    return written


def sparse_supervision(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run on points reads, for its record: kind, and points per target where that says it."""
    strategy, count = settings["strategy"], settings["count"]
    kinds = {"scribbles": "scribbles", "clicks": f"{count} clicks", "labelled": "sparse label maps"}
    if strategy in kinds:
        return {"kind": kinds[strategy], "points_per_target": None}
    return {"kind": "points", "points_per_target": count}
