"""A points file in the formats of other tools and papers (`benchmark.data.point_readers`).

A map has room for one label at a pixel, and only some formats say which points belong to one object; what is lost is said.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmark.data.class_lists import BACKGROUND
from benchmark.data.coco import write_panoptic
from benchmark.data.errors import DataError
from benchmark.data.files import replacing, storing
from benchmark.data.images import Annotation, ImageRecord
from benchmark.data.label_maps import VOID, read_label_map, write_label_map
from benchmark.data.points_csv import COLUMNS, ISTHING
from benchmark.data.points_file import PointsFile
from benchmark.data.sparse_labels import write_sparse_labels
from methods.base.types import Categories, Category, PointLabels

NO_OBJECTS = "The format does not say which points belong to one object; with its data set, an import finds out again."


def write_csv(points: PointsFile, path: Path, values: Sequence[int]) -> list[str]:
    """One line a point: image,x,y,class,instance,isthing; ``instance`` is the id of the target."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, ISTHING])
    for record, labels in _images(points):
        for (x, y), target in zip(labels.xy.tolist(), labels.target.tolist(), strict=True):
            category = points.categories[int(labels.classes[target])]
            rows.writerow([record.file_name, x, y, category.name, int(labels.ids[target]), int(category.is_thing)])
    with storing(path), replacing(path) as file:
        file.write(text.getvalue().encode())
    return []


def write_whats_the_point(points: PointsFile, path: Path, values: Sequence[int]) -> list[str]:
    """The JSON of What's the Point, with the further key ``instance``; ``rank`` counts the points of a class."""
    numbers = _numbers_from_one(points.categories, values)
    content: dict[str, list[dict[str, int]]] = {}
    for record, labels in _images(points):
        ranks: dict[int, int] = defaultdict(int)
        clicks = content.setdefault(PurePosixPath(record.file_name).with_suffix("").as_posix(), [])
        for (x, y), target in zip(labels.xy.tolist(), labels.target.tolist(), strict=True):
            number = numbers[points.categories[int(labels.classes[target])].id]
            ranks[number] += 1
            clicks.append({"x": x, "y": y, "cls": number, "rank": ranks[number], "instance": int(labels.ids[target])})
    with storing(path), replacing(path) as file:
        file.write(json.dumps(content).encode())
    return []


def _numbers_from_one(categories: Categories, values: Sequence[int]) -> dict[int, int]:
    """Category id -> number: 0 for the background, from 1 on for the others."""
    names = {category.id: category.name for category in categories}
    others = [i for i in values if names[i] != BACKGROUND]
    return {i: 0 for i in values if names[i] == BACKGROUND} | {i: number for number, i in enumerate(others, 1)}


def write_panoptic_points(points: PointsFile, folder: Path, values: Sequence[int]) -> list[str]:
    """Point PNG files of the PSPS released code, and ``<folder>.json``, which lists the labelled pixels as if they were
    whole segments; the released code reads the data set's own JSON instead."""
    _one_label_a_pixel(points)
    with storing(folder):
        write_panoptic(folder.with_name(f"{folder.name}.json"), folder, points.categories, _point_maps(points))
    return []


def _point_maps(points: PointsFile) -> Iterator[tuple[ImageRecord, Annotation]]:
    for record, labels in _images(points):
        ids = np.zeros((record.height, record.width), dtype=np.int64)
        cols, rows = labels.xy.numpy().T
        ids[rows, cols] = labels.ids[labels.target].numpy()
        segments: list[dict[str, Any]] = [
            {"id": int(i), "category_id": points.categories[int(label)].id}
            for i, label in zip(labels.ids, labels.classes, strict=True)
        ]
        yield record, Annotation(ids, segments)


def write_sparse_maps(points: PointsFile, folder: Path, values: Sequence[int]) -> list[str]:
    """Sparse label maps of TEL and AGMM: a class's value at its points, K elsewhere."""
    _one_label_a_pixel(points, by_class=True)
    stems = Counter(Path(record.file_name).stem for record in points.records)
    if stems and stems.most_common(1)[0][1] > 1:
        raise DataError(f"Two images would be written to {folder / stems.most_common(1)[0][0]}.png; use format=csv.")
    value_of = {category: value for value, category in enumerate(values)}
    categories = Categories(Category(value_of[c.id] + 1, c.name, c.is_thing) for c in points.categories)
    renamed = np.array([value_of[int(c)] + 1 for c in points.target_category], dtype=np.int64)
    with storing(folder):
        write_sparse_labels(replace(points, categories=categories, target_category=renamed), folder)
    return [NO_OBJECTS]


def write_scribble_maps(points: PointsFile, folder: Path, values: Sequence[int]) -> list[str]:
    """Label maps with a class's value at its points and 255 elsewhere."""
    notes = write_sparse_maps(points, folder, values)
    for record in points.records:
        path = folder / f"{Path(record.file_name).stem}.png"
        labels = read_label_map(path)
        with storing(path):
            write_label_map(path, np.where(labels == len(values), VOID, labels))
    return notes


WRITERS: Mapping[str, Callable[[PointsFile, Path, Sequence[int]], list[str]]] = {
    "csv": write_csv,
    "panoptic_png": write_panoptic_points,
    "whats_the_point": write_whats_the_point,
    "sparse_png": write_sparse_maps,
    "scribble_png": write_scribble_maps,
}
"""Format -> ``(points, path, category ids by value)``, which writes a file or folder and returns notes on what is lost."""


def _images(points: PointsFile) -> Iterator[tuple[ImageRecord, PointLabels]]:
    for index, record in enumerate(points.records):
        yield record, points.labels_of(index)


def _one_label_a_pixel(points: PointsFile, by_class: bool = False) -> None:
    """DataError if two targets (``by_class``: of different classes) have a point at one pixel."""
    for record, labels in _images(points):
        seen: dict[tuple[int, int], int] = {}
        owners = labels.classes[labels.target] if by_class else labels.target
        for (x, y), owner in zip(labels.xy.tolist(), owners.tolist(), strict=True):
            if seen.setdefault((x, y), owner) != owner:
                raise DataError(
                    f"{points}: image {record.file_name} has two {'classes' if by_class else 'targets'} at x={x}, y={y}, "
                    "but a map has room for one; use format=csv."
                )
