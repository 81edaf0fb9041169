"""Point labels: drawing them from masks, once, reproducibly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.data.files import content_hash
from benchmark.data.images import AnnotatedSource, Annotation
from benchmark.data.points_file import PointsFile
from methods.base.types import Categories

__all__ = [
    "STRATEGIES", "PointsFile", "draw_points", "ensure_points", "pixel_weights", "sample_points", "stable_seed",
    "target_segments",
]

STRATEGIES = ("uniform", "center_biased", "border_biased")


def stable_seed(*parts: int | str) -> int:
    """A 128 bit seed from a cryptographic hash of its parts: the same in every process, and 1 differs from "1"."""
    return int(content_hash(*parts)[:32], 16)


def pixel_weights(xy: np.ndarray, strategy: str) -> np.ndarray:
    """Unnormalised probability of each pixel of a mask to be clicked.

    With d the distance to the mask's centroid: 1 (uniform), d^2 (border_biased, FDD), or d_max^2 - d^2 (center_biased; FDD
    says "reversed distance map" and gives no formula).

    Args:
        xy: (n, 2) pixel coordinates of the mask.
        strategy: one of `STRATEGIES`; ValueError otherwise.

    Returns:
        (n,) float64 in [0, d_max^2]; all zero where every pixel is as good as the other.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown point strategy '{strategy}'; known are {', '.join(STRATEGIES)}.")
    if strategy == "uniform":
        return np.ones(len(xy))
    squared = np.square(xy - xy.mean(axis=0)).sum(axis=1)
    weights = squared if strategy == "border_biased" else squared.max() - squared
    # rounding of the centroid must not turn an exact zero into a tiny probability
    return np.where(weights > 1e-12 * squared.max(), weights, 0.0)


def sample_points(mask: np.ndarray, count: int, strategy: str, seed: int) -> np.ndarray:
    """Draw pixels of a mask without replacement, by successive draws with the strategy's weights.

    The order is part of the draw: a smaller ``count`` gives the first points of a larger one. When all pixels of positive
    weight are taken, the rest is drawn uniformly.

    Args:
        mask: (H, W) bool.
        count: number of points wanted, at least 1.
        strategy: one of `STRATEGIES`.
        seed: non-negative integer, see `stable_seed`.

    Returns:
        (k, 2) int64 coordinates x, y with k = min(count, pixels of the mask).

    Raises:
        ValueError: empty mask, count below 1 or unknown strategy.
    """
    if count < 1:
        raise ValueError(f"At least one point must be drawn, count is {count}.")
    rows, cols = np.nonzero(mask)
    if not rows.size:
        raise ValueError("Points cannot be drawn from an empty mask.")
    xy = np.stack([cols, rows], axis=1)
    weights = pixel_weights(xy, strategy)
    # Exponential arrival times with these rates come in the order of successive weighted draws (Efraimidis and Spirakis,
    # 2006). One variate per pixel, whatever the count, makes smaller draws prefixes of larger ones.
    times = -np.log1p(-np.random.default_rng(seed).random(len(xy)))
    positive, zero = np.flatnonzero(weights > 0), np.flatnonzero(weights == 0)
    chosen = positive[_smallest(times[positive] / weights[positive], count)]
    top_up = zero[_smallest(times[zero], count - len(chosen))]
    return xy[np.concatenate([chosen, top_up])].astype(np.int64)


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` smallest values, ascending; fewer if there are fewer."""
    if count >= len(values):
        return np.argsort(values, kind="stable")
    candidates = np.argpartition(values, count)[:count]
    return candidates[np.argsort(values[candidates], kind="stable")]


def target_segments(annotation: Annotation, categories: Categories) -> list[tuple[int, int, list[int]]]:
    """The targets of an image: ``(segment id, category id, ids of all its segments)``, in the order of the annotation.

    One target per thing instance and one per stuff class that is present: the segments of a stuff class are merged under the
    id of the first. Crowd regions are in no target.
    """
    targets: list[tuple[int, int, list[int]]] = []
    stuff: dict[int, list[int]] = {}
    for segment in annotation.segments:
        segment_id, category_id = int(segment["id"]), int(segment["category_id"])
        if segment.get("iscrowd"):
            continue
        if category_id in stuff:
            stuff[category_id].append(segment_id)
            continue
        targets.append((segment_id, category_id, [segment_id]))
        if not categories[categories.label_of(category_id)].is_thing:
            stuff[category_id] = targets[-1][2]
    return targets


def draw_points(
    source: AnnotatedSource, strategy: str, count: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> PointsFile:
    """Draw up to ``count`` points for every target of a split, from its masks.

    Each target has its own random stream, seeded by data set name, image id, segment id, strategy and ``seed``: a draw
    depends neither on the order of images nor on ``count`` (one point per target is the first of ten). Crowd and void pixels
    are never drawn; images without a target are kept, without points.

    Args:
        source: the ground truth.
        strategy: one of `STRATEGIES`.
        count: points per target, at least 1; a target of fewer pixels gives all of them.
        seed: global seed.
        progress: called with (images done, images) after each image.

    Raises:
        DataError: an annotation cannot be read.
        ValueError: unknown strategy, or count below 1.
    """
    targets: list[tuple[int, int, int]] = []
    points: list[np.ndarray] = []
    for index, record in enumerate(source.records):
        annotation = source.read_annotation(record)
        for segment_id, category_id, members in target_segments(annotation, source.categories):
            target_seed = stable_seed(source.name, record.id, segment_id, strategy, seed)
            points.append(sample_points(np.isin(annotation.ids, members), count, strategy, target_seed))
            targets.append((index, segment_id, category_id))
        if progress is not None:
            progress(index + 1, len(source.records))
    columns = np.array(targets, dtype=np.int64).reshape(-1, 3).T
    xy = np.concatenate([*points, np.empty((0, 2), dtype=np.int64)])
    return PointsFile(
        dataset=source.name, strategy=strategy, count=count, seed=seed, source_fingerprint=source.fingerprint,
        categories=source.categories, records=list(source.records), target_image=columns[0], target_segment=columns[1],
        target_category=columns[2], point_target=np.repeat(np.arange(len(points)), [len(p) for p in points]),
        point_x=xy[:, 0], point_y=xy[:, 1],
    )


def ensure_points(
    source: AnnotatedSource, folder: Path | str, strategy: str, count: int, seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> PointsFile:
    """The points of a split with these settings: read from ``folder`` if they were drawn before, else drawn and written.

    A file counts as drawn before if its settings and the hash of its ground truth agree; a file that cannot be read raises
    DataError rather than being overwritten.
    """
    name = f"{source.name}_{strategy}_{count}_seed{seed}_{source.fingerprint[:12]}.npz"
    path = Path(folder) / name
    wanted = (source.name, strategy, count, seed, source.fingerprint)
    if path.exists():
        found = PointsFile.load(path)
        if (found.dataset, found.strategy, found.count, found.seed, found.source_fingerprint) == wanted:
            return found
    drawn = draw_points(source, strategy, count, seed, progress)
    drawn.save(path)
    return replace(drawn, path=path)
