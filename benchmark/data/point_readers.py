"""Point labels in the formats of other tools and papers, read into one form.

A reader knows nothing of targets: it gives, for each image, pixels with their category and, where the format says so, which
of them belong to one object. `benchmark.data.point_import` makes targets of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from benchmark.data.class_lists import BACKGROUND
from benchmark.data.errors import DataError
from benchmark.data.files import read_json
from benchmark.data.images import ImageRecord
from benchmark.data.label_maps import VOID, check_label_map, read_label_map, sparse_pixels
from benchmark.data.panoptic_png import read_panoptic_png
from benchmark.data.points_csv import PointsTable
from benchmark.data.points_folder import displayed_size
from methods.base.types import Categories

ALONE = -1
"""Instance of a click that says nothing about others: of a thing, an object of its own."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Clicks:
    """Labelled pixels of one image as a file has them.

    Attributes:
        xy: (p, 2) int64 columns and rows; nothing is said about the image's size.
        categories: (p,) int64 category ids.
        instances: (p,) int64, equal where pixels belong to one object of the image, or `ALONE`.
    """

    xy: np.ndarray
    categories: np.ndarray
    instances: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int, int]]) -> Clicks:
        """From rows of x, y, category id and instance."""
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return cls(table[:, :2], table[:, 2], table[:, 3])


class Images(Protocol):
    """The images that labels may name."""

    records: list[ImageRecord]

    def find(self, name: str) -> int:
        """Place in ``records`` of a file name, with or without its ending; DataError if there is none."""
        ...


class KnownImages:
    """The images of a data set."""

    def __init__(self, records: Sequence[ImageRecord], where: str):
        self.records, self._where = list(records), where
        self._places: dict[str, int | None] = {}
        for place, record in enumerate(self.records):
            path = Path(record.file_name)
            for name in {record.file_name, path.name, path.stem, path.with_suffix("").as_posix(), str(record.id)}:
                self._places[name] = None if name in self._places else place

    def find(self, name: str) -> int:
        place = self._places.get(name)
        if place is None:
            reason = "fits several images" if name in self._places else "is no image"
            raise DataError(f"'{name}' {reason} of {self._where}")
        return place


class FolderOfImages:
    """The images of a folder, as far as labels name them; they get the ids 1, 2, ... in that order."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.records: list[ImageRecord] = []
        if not folder.is_dir():
            raise DataError(f"The images folder {folder} does not exist: correct images=DIR.")
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        self._known = KnownImages([ImageRecord(name, name, 1, 1) for name in files], str(folder))
        self._places: dict[int, int] = {}

    def find(self, name: str) -> int:
        file = self._known.find(name)
        if file not in self._places:
            file_name = self._known.records[file].file_name
            self.records.append(ImageRecord(len(self.records) + 1, file_name, *displayed_size(self.folder / file_name)))
            self._places[file] = len(self.records) - 1
        return self._places[file]


@dataclass(frozen=True, slots=True)
class Setting:
    """What labels are read into.

    Attributes:
        images: that they may name.
        categories: that they may have.
        values: category id of each value of a label map, see `benchmark.data.class_lists.ids_by_value`.
        unlabelled: value of unlabelled pixels of a label map; None for the format's own.
        segments: from an image to its ``segments_info``, for formats that name segments; None where there are none.
    """

    images: Images
    categories: Categories
    values: Sequence[int]
    unlabelled: int | None = None
    segments: Callable[[ImageRecord], Iterable[Mapping[str, Any]]] | None = None


@dataclass(slots=True)
class Found:
    """What a reader found: clicks by place of the image, and a sentence for each part that cannot be used."""

    clicks: dict[int, Clicks] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_csv(path: Path, setting: Setting) -> Found:
    """Clicks of a table with the columns image,x,y,class,instance (`benchmark.data.points_csv`); an image of which a line
    cannot be used is left out."""
    table = PointsTable.read(path)
    found = Found(problems=list(table.stray))
    for index, name in enumerate(table.images):
        try:
            place = setting.images.find(name)
            record = setting.images.records[place]
            labels = table.labels_of(index, (record.height, record.width), setting.categories)
        except DataError as error:
            found.problems.append(_in_file(path, error))
            continue
        category = np.array([setting.categories[label].id for label in labels.classes.tolist()], dtype=np.int64)
        target = labels.target.numpy()
        found.clicks[place] = Clicks(labels.xy.numpy(), category[target], labels.ids.numpy()[target])
    return found


def read_whats_the_point(path: Path, setting: Setting) -> Found:
    """Clicks of What's the Point: ``{image: [{"x", "y", "cls", "rank"}, ...]}``.

    ``cls`` counts from 1 over the classes but the background (VOC's own numbers; 0 is the background); clicks of a class are
    put in the order of ``rank``, the worker's first click first. Each click is an object of its own unless it has the
    further key ``instance``, which this project writes.

    Raises:
        DataError: the file is missing or no such JSON.
    """
    content = read_json(path, "point annotation JSON")
    if not isinstance(content, dict):
        raise DataError(f"The point annotation JSON {path} must hold an object: image -> list of clicks.")
    names = {category.id: category.name for category in setting.categories}
    numbered = [i for i in setting.values if names[i] != BACKGROUND]
    category_of = dict(enumerate(numbered, 1))
    category_of.update((0, i) for i, name in names.items() if name == BACKGROUND)
    found = Found()
    for name, clicks in content.items():
        try:
            place = setting.images.find(name)
        except DataError as error:
            found.problems.append(_in_file(path, error))
            continue
        rows = []
        for number, click in enumerate(clicks if isinstance(clicks, list) else [clicks], 1):
            try:
                rows.append(_json_click(click, category_of))
            except ValueError as error:
                found.problems.append(f"{path}, image {name}, click {number}: {error}.")
        rows.sort(key=lambda row: row[0])
        if rows:
            found.clicks[place] = Clicks.of([row[1:] for row in rows])
    return found


def _json_click(click: Any, category_of: Mapping[int, int]) -> tuple[float, int, int, int, int]:
    """Rank, x, y, category id, instance; ValueError says what is wrong."""
    if not isinstance(click, dict):
        raise ValueError("it is no object with x, y, cls and rank")
    numbers = {}
    for key, default in (("x", None), ("y", None), ("cls", None), ("rank", 0), ("instance", ALONE)):
        value = click.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{key} is missing" if value is None else f"{key} is {value}, which is no number")
        numbers[key] = value
    if numbers["cls"] not in category_of:
        raise ValueError(f"cls {numbers['cls']} is no class; they are {min(category_of)}..{max(category_of)}")
    place = (math.floor(numbers["x"]), math.floor(numbers["y"]))
    return numbers["rank"], *place, category_of[int(numbers["cls"])], int(numbers["instance"])


def read_panoptic_points(folder: Path, setting: Setting) -> Found:
    """Point PNG files of the PSPS released code: panoptic PNG files with ids at labelled pixels only.

    Segment ids mean what the annotation JSON says. Segments of a crowd are no targets; their pixels are passed over, as the
    released code does for instances.
    """
    if setting.segments is None:
        raise DataError(f"The ids of {folder} mean nothing without their JSON: add json=FILE, or dataset.root=FOLDER.")
    found = Found()
    for path, place in _png_files(folder, setting, found):
        record = setting.images.records[place]
        try:
            ids = read_panoptic_png(path, "point PNG")
            _same_size(path, ids, record)
        except DataError as error:
            found.problems.append(str(error))
            continue
        listed = {int(s["id"]): s for s in setting.segments(record)}
        rows, cols = np.nonzero(ids)
        values = ids[rows, cols]
        strange = sorted(set(values.tolist()) - set(listed))
        if strange:
            found.problems.append(f"The point PNG {path} has the id {strange[0]}, which is no segment of its image.")
        kept = np.isin(values, [i for i, segment in listed.items() if not segment.get("iscrowd")])
        categories = np.array([int(listed[i]["category_id"]) for i in values[kept].tolist()], dtype=np.int64)
        if kept.any():
            found.clicks[place] = Clicks(np.stack([cols, rows], axis=1)[kept].astype(np.int64), categories, values[kept])
    return found


def read_sparse_maps(folder: Path, setting: Setting) -> Found:
    """Sparse label maps of TEL and AGMM (`benchmark.data.label_maps`): K is unlabelled. Pixels of a class are one object."""
    return _read_maps(folder, setting, len(setting.categories), lambda labels, values: values + 1)


def read_scribble_maps(folder: Path, setting: Setting) -> Found:
    """Scribbles drawn into label maps: 255 is unlabelled, as in VOC's own maps, and a connected stroke is one object."""
    return _read_maps(folder, setting, VOID, _strokes)


def _read_maps(
    folder: Path, setting: Setting, unlabelled: int, objects: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Found:
    """``objects(map, values at labelled pixels)`` are the instances of the labelled pixels, row by row."""
    count = len(setting.categories)
    unlabelled = unlabelled if setting.unlabelled is None else setting.unlabelled
    if unlabelled < count:
        raise DataError(f"unlabelled={unlabelled} is a class; the classes of {folder} are 0..{count - 1}.")
    found = Found()
    for path, place in _png_files(folder, setting, found):
        try:
            labels = read_label_map(path)
            _same_size(path, labels, setting.images.records[place])
            if unlabelled != count:
                _refuse_other_convention(path, labels, count, unlabelled)
                labels[labels == unlabelled] = count
            check_label_map(labels, count, True, f"The label map {path}")
        except DataError as error:
            found.problems.append(str(error))
            continue
        xy, values = sparse_pixels(labels, count)
        if len(xy):
            found.clicks[place] = Clicks(xy, np.array(setting.values)[values], objects(labels, values))
    return found


def _refuse_other_convention(path: Path, labels: np.ndarray, count: int, unlabelled: int) -> None:
    if (labels == count).any():
        raise DataError(
            f"The label map {path} has the value {count}, which is unlabelled in the maps of AGMM and TEL; here it is "
            f"{unlabelled}: add unlabelled={count} if all maps are like this one."
        )


def _strokes(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The connected part (8 neighbours) that each labelled pixel belongs to, numbered over all classes."""
    numbers, first = np.zeros(labels.shape, dtype=np.int64), 1
    for value in np.unique(values).tolist():
        parts, count = ndimage.label(labels == value, structure=np.ones((3, 3)))
        numbers[parts > 0] = parts[parts > 0] + first
        first += count
    return numbers[numbers > 0]


def _png_files(folder: Path, setting: Setting, found: Found) -> Iterator[tuple[Path, int]]:
    """The PNG files of a folder whose images are known, with the image's place; the others become problems."""
    if not folder.is_dir():
        raise DataError(f"The folder {folder} does not exist.")
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise DataError(f"The folder {folder} has no PNG file.")
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            place = setting.images.find(name)
        except DataError as error:
            found.problems.append(_in_file(path, error))
            continue
        yield path, place


def _same_size(path: Path, values: np.ndarray, record: ImageRecord) -> None:
    height, width = values.shape
    if (height, width) != (record.height, record.width):
        raise DataError(
            f"{path} is {width} x {height} pixels (width x height), its image {record.file_name} is "
            f"{record.width} x {record.height}."
        )


def _in_file(path: Path, error: DataError) -> str:
    """The sentence of an error, led by the file unless it names it already."""
    sentence = str(error).removesuffix(".")
    return f"{sentence}." if str(path) in sentence else f"{path}: {sentence}."
