"""What is labelled: images with their points from a CSV or a points file, or the images of a folder without any.

Names and points are kept, a few dozen bytes an image; pixels are read one image at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.datasets import no_points
from benchmark.data.errors import DataError
from benchmark.data.images import read_rgb
from benchmark.data.points_csv import PointsTable, image_name
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import CSV, read_displayed
from methods.base.types import Categories, PointLabels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

Loaded = tuple[np.ndarray, PointLabels]
"""(H, W, 3) uint8 RGB pixels and the labels of an image."""


class Inputs(ABC):
    """Images in a fixed order.

    Attributes:
        folder: what the names are relative to.
        names: file names, with ``/``.
        stray: sentences about input that belongs to no image.
        truth: fingerprint of the ground truth that the points were drawn from, "" for none.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, names
        self.stray: Sequence[str] = ()
        self.truth = ""

    def __len__(self) -> int:
        return len(self.names)

    def image_id(self, index: int) -> int:
        """The COCO id of an image."""
        return index + 1

    def signature(self, index: int) -> list[Any]:
        """What the result for an image depends on beside the run, as plain values: if it changes, the image is made anew."""
        try:
            found = (self.folder / self.names[index]).stat()
        except OSError:
            return []
        return [found.st_size, found.st_mtime_ns]

    @abstractmethod
    def load(self, index: int) -> Loaded:
        """An image with its points; DataError, in one sentence that names the file, if either cannot be used."""


class FolderInputs(Inputs):
    """All images of a folder and its subfolders, sorted by name, as they are shown, without points."""

    def __init__(self, folder: Path, besides: Path):
        super().__init__(folder, sorted(image_files(folder, besides)))
        if not self.names:
            raise DataError(f"{folder} has no image ({', '.join(IMAGE_SUFFIXES)}): correct images=DIR.")

    def load(self, index: int) -> Loaded:
        return read_displayed(self.folder / self.names[index]), no_points()


class TableInputs(Inputs):
    """The images of a CSV, as they are shown.

    Args:
        folder: of the images.
        table: the clicks.
        categories: of the run; the table's classes are looked up in them by name.
        count: use the first points of each target only; None for all.
    """

    def __init__(self, folder: Path, table: PointsTable, categories: Categories, count: int | None):
        super().__init__(folder, table.images)
        self.stray = table.stray
        self._table, self._categories, self._count = table, categories, count

    def signature(self, index: int) -> list[Any]:
        return [*super().signature(index), self._count, self._table.clicks(index)]

    def load(self, index: int) -> Loaded:
        pixels = read_displayed(self.folder / self.names[index])
        labels = self._table.labels_of(index, pixels.shape[:2], self._categories)
        return pixels, first_points(labels, self._count)


class PointsFileInputs(Inputs):
    """The images of a points file that have points, at the sizes of its records.

    Args:
        folder, categories, count: as for `TableInputs`.
        points: the labels; their classes are looked up by name.

    DataError if an image is not below the folder.
    """

    def __init__(self, folder: Path, points: PointsFile, categories: Categories, count: int | None):
        self._kept = np.unique(points.target_image)
        try:
            names = [image_name(points.records[i].file_name) for i in self._kept]
        except ValueError as error:
            raise DataError(f"{points}: {error}.") from error
        super().__init__(folder, names)
        self.truth = points.source_fingerprint
        self._points, self._categories, self._count = points, categories, count
        self._numbered = all(isinstance(record.id, int) for record in points.records)

    def image_id(self, index: int) -> int:
        return int(self._points.records[self._kept[index]].id) if self._numbered else index + 1

    def signature(self, index: int) -> list[Any]:
        points, image = self._points, int(self._kept[index])
        targets = slice(*np.searchsorted(points.target_image, [image, image + 1]).tolist())
        rows = slice(*np.searchsorted(points.point_target, [targets.start, targets.stop]).tolist())
        columns = (
            points.target_segment[targets], points.target_category[targets], points.point_target[rows] - targets.start,
            points.point_x[rows], points.point_y[rows],
        )  # fmt: skip
        return [*super().signature(index), self._count, *(column.tolist() for column in columns)]

    def load(self, index: int) -> Loaded:
        record = self._points.records[self._kept[index]]
        labels = self._points.labels_of(int(self._kept[index]))
        own, known = self._points.categories, {category.name: i for i, category in enumerate(self._categories)}
        strange = [own[i].name for i in labels.classes.tolist() if own[i].name not in known]
        if strange:
            raise DataError(
                f"{self._points}: image {record.file_name} has class '{strange[0]}', which is not one of {', '.join(known)}."
            )
        classes = torch.tensor([known[own[i].name] for i in labels.classes.tolist()], dtype=torch.int64)
        moved = replace(labels, classes=classes, is_thing=classes < self._categories.num_things)
        return read_rgb(self.folder / record.file_name, record.height, record.width), first_points(moved, self._count)


def first_points(labels: PointLabels, count: int | None) -> PointLabels:
    """The labels with the first ``count`` points of each target."""
    if count is None:
        return labels
    earlier = (labels.target[:, None] == labels.target[None]).tril(-1).sum(dim=1)
    return replace(labels, xy=labels.xy[earlier < count], target=labels.target[earlier < count])


def image_files(folder: Path, besides: Path) -> Iterator[str]:
    """Names, relative to a folder and with ``/``, of its image files; not of hidden ones and those below ``besides``."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).resolve() != besides.resolve()]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield (here / name).relative_to(folder).as_posix()


def inputs_with_points(folder: Path, points: Path, categories: Categories, count: int | None) -> Inputs:
    """The images of a points file, CSV or .npz.

    Raises:
        DataError: the file cannot be used at all, or none of its classes is known.
    """
    if points.suffix.lower() == CSV:
        table = PointsTable.read(points)
        names, found = table.class_names, TableInputs(folder, table, categories, count)
    else:
        file = PointsFile.load(points)
        names, found = file.categories.names, PointsFileInputs(folder, file, categories, count)
    if names and not set(names) & set(categories.names):
        raise DataError(
            f"{points}: none of its classes ({', '.join(names)}) is one of the run's ({', '.join(categories.names)}); "
            "label with a run that was trained on these classes."
        )
    if not found.names:
        raise DataError(f"{points}: has no point.")
    return found
