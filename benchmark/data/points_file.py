"""The file that carries point labels into training: all that a run on points knows beside the pixels."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.errors import DataError
from benchmark.data.files import replacing
from benchmark.data.images import ImageRecord
from methods.base.types import Categories, PointLabels

FORMAT = 1
_COLUMNS = ("target_image", "target_segment", "target_category", "point_target", "point_x", "point_y")
# what numpy, zipfile and JSON raise on damaged files and on files of another kind
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class PointsFile:
    """Point labels of one split, with all that training needs to know about it but the pixels.

    Attributes:
        dataset: name of the data set.
        strategy: how the points were drawn, one of `benchmark.data.points.STRATEGIES`; another word for another origin.
        count: largest number of points per target.
        seed: global seed of the draw.
        source_fingerprint: hash of the ground truth that the points were drawn from, "" for none.
        categories: of the data set.
        records: the images, with and without targets.
        target_image: (n,) int64 index into ``records``.
        target_segment: (n,) int64 identity of the target in its image, unique there: the segment it was drawn from.
        target_category: (n,) int64 category id.
        point_target: (p,) int64 index into the targets.
        point_x, point_y: (p,) int64 pixel column and row in the original image.
        path: the file it was read from, for messages only.

    Targets and points may be given in any order; they are kept grouped by image and by target, in stable order.

    Raises:
        DataError: columns of different length, an index out of range, or a target that occurs twice.
    """

    dataset: str
    strategy: str
    count: int
    seed: int
    source_fingerprint: str
    categories: Categories
    records: list[ImageRecord]
    target_image: np.ndarray
    target_segment: np.ndarray
    target_category: np.ndarray
    point_target: np.ndarray
    point_x: np.ndarray
    point_y: np.ndarray
    path: Path | None = None

    def __post_init__(self) -> None:
        columns = {name: np.asarray(getattr(self, name), dtype=np.int64) for name in _COLUMNS}
        for group, limit in (("target", len(self.records)), ("point", len(columns["target_image"]))):
            names = [name for name in _COLUMNS if name.startswith(group)]
            if len({columns[name].shape for name in names}) > 1 or columns[names[0]].ndim != 1:
                raise DataError(f"{self}: the columns {', '.join(names)} must be lists of one length.")
            index = columns[names[0]]
            if index.size and (index.min() < 0 or index.max() >= limit):
                raise DataError(f"{self}: the column {names[0]} must be in 0 .. {limit - 1}.")
        _group(columns)
        for name, column in columns.items():
            object.__setattr__(self, name, column)
        pairs = np.lexsort((self.target_segment, self.target_image))
        image, segment = self.target_image[pairs], self.target_segment[pairs]
        twice = np.flatnonzero((image[1:] == image[:-1]) & (segment[1:] == segment[:-1]))
        if twice.size:
            name = self.records[image[twice[0]]].file_name
            raise DataError(f"{self}: image {name} has the target {segment[twice[0]]} twice.")

    def __str__(self) -> str:
        return f"Points file {self.path}" if self.path else f"Points of data set '{self.dataset}'"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content in a canonical form; neither the path nor the bytes of the zip file matter."""
        digest = hashlib.sha256(json.dumps(self._metadata(), sort_keys=True).encode())
        for name in _COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name), dtype="<i8").tobytes())
        return digest.hexdigest()

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "dataset": self.dataset, "strategy": self.strategy, "count": self.count, "seed": self.seed,
            "source_fingerprint": self.source_fingerprint, "categories": self.categories.to_coco(),
            "records": [list(asdict(record).values()) for record in self.records],
        }

    def save(self, path: Path | str) -> None:
        """Write an .npz file of integer columns and one JSON text, atomically and without pickle."""
        metadata = np.frombuffer(json.dumps(self._metadata()).encode(), dtype=np.uint8)
        with replacing(Path(path)) as file:
            np.savez_compressed(file, metadata=metadata, **{name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def load(cls, path: Path | str) -> PointsFile:
        """Read what `save` wrote; DataError if the file is missing, damaged or of another format."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as content:
                metadata = json.loads(content["metadata"].tobytes())
                columns = {name: content[name] for name in _COLUMNS}
            if metadata.pop("format") != FORMAT:
                raise DataError(f"The points file {path} has another format than {FORMAT}: draw the points again.")
            categories = Categories.from_coco(metadata.pop("categories"))
            records = [ImageRecord(*fields) for fields in metadata.pop("records")]
            return cls(**metadata, categories=categories, records=records, **columns, path=path)
        except FileNotFoundError:
            raise DataError(f"The points file {path} does not exist.") from None
        except _UNREADABLE as error:
            raise DataError(
                f"The points file {path} cannot be read, it may be truncated or no points file: {error}."
            ) from error

    def select(self, count: int) -> PointsFile:
        """The same labels with the first ``count`` points of each target; ValueError unless 1 <= count <= ``self.count``."""
        if not 1 <= count <= self.count:
            raise ValueError(f"{self} has up to {self.count} points per target, {count} cannot be selected.")
        first = np.searchsorted(self.point_target, self.point_target)
        kept = np.arange(len(self.point_target)) - first < count
        points = {name: getattr(self, name)[kept] for name in _COLUMNS if name.startswith("point")}
        return replace(self, count=count, **points)

    def images_with_things(self) -> np.ndarray:
        """(images,) bool, True where an image has a thing target."""
        things = [category.id for category in self.categories if category.is_thing]
        with_things = np.zeros(len(self.records), dtype=bool)
        with_things[self.target_image[np.isin(self.target_category, things)]] = True
        return with_things

    def check(self) -> None:
        """DataError naming file, image and point at the first point outside its image or target of an unknown category."""
        self._check(slice(0, len(self.target_image)), slice(0, len(self.point_target)))

    def labels_of(self, image: int) -> PointLabels:
        """The labels of one image, in its original coordinates; empty if it has no target. DataError as for `check`."""
        targets = slice(*np.searchsorted(self.target_image, [image, image + 1]).tolist())
        points = slice(*np.searchsorted(self.point_target, [targets.start, targets.stop]).tolist())
        self._check(targets, points)
        xy = np.stack([self.point_x[points], self.point_y[points]], axis=1)
        labels = [self.categories.label_of(int(category)) for category in self.target_category[targets]]
        classes = torch.tensor(labels, dtype=torch.int64)
        return PointLabels(
            xy=torch.from_numpy(xy), target=torch.from_numpy(self.point_target[points] - targets.start), classes=classes,
            is_thing=classes < self.categories.num_things, ids=torch.from_numpy(self.target_segment[targets].copy()),
        )

    def _check(self, targets: slice, points: slice) -> None:
        known = [category.id for category in self.categories]
        for i in np.flatnonzero(~np.isin(self.target_category[targets], known))[:1] + targets.start:
            name = self.records[self.target_image[i]].file_name
            raise DataError(
                f"{self}: target {self.target_segment[i]} of image {name} has the unknown category id "
                f"{self.target_category[i]}."
            )
        images = self.target_image[self.point_target[points]]
        low = images[0] if images.size else 0
        spanned = self.records[low : images[-1] + 1] if images.size else []
        sizes = np.array([(r.width, r.height) for r in spanned], dtype=np.int64).reshape(-1, 2)[images - low]
        xy = np.stack([self.point_x[points], self.point_y[points]], axis=1)
        for i in np.flatnonzero(((xy < 0) | (xy >= sizes)).any(axis=1))[:1]:
            record = self.records[images[i]]
            raise DataError(
                f"{self}: the point x={xy[i, 0]}, y={xy[i, 1]} lies outside image {record.file_name} "
                f"of {record.width} x {record.height} pixels."
            )


def _group(columns: dict[str, np.ndarray]) -> None:
    """Order targets by image and points by target, both stably, in place."""
    order = np.argsort(columns["target_image"], kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    columns["point_target"] = position[columns["point_target"]]
    point_order = np.argsort(columns["point_target"], kind="stable")
    for name in _COLUMNS:
        columns[name] = columns[name][order if name.startswith("target") else point_order]


def records_by_id(records: Sequence[ImageRecord]) -> dict[int | str, int]:
    """Position of each image id."""
    return {record.id: index for index, record in enumerate(records)}
