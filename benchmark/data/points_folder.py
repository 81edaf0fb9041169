"""Your own images with clicked points and no mask anywhere: a folder, and a CSV or a points file.

Points are clicked on what a person sees. So an image of a CSV has the size that viewers, labelling tools and OpenCV show,
EXIF orientation applied. The records of a points file (.npz) have sizes, which decide as everywhere else (`read_rgb`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from benchmark.data.coco import CocoPanoptic
from benchmark.data.errors import DataError
from benchmark.data.files import content_hash, read_json
from benchmark.data.images import FolderImages, ImageRecord, ImageSource, open_image, rgb_pixels
from benchmark.data.points_csv import PointsTable
from benchmark.data.points_file import PointsFile
from methods.base.types import Categories

CSV = ".csv"
ALL = "all"
"""Value of ``dataset.points.count``: every point of the file."""
_QUARTER_TURNS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def displayed_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as it is shown; only its head is read. DataError if that is not possible."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise DataError(f"The image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise DataError(f"The image {path} cannot be decoded, it may be truncated or no image: {error}.") from error


def read_displayed(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of an image file as it is shown, EXIF orientation applied; DataError as `open_image`."""
    return rgb_pixels(ImageOps.exif_transpose(open_image(path, "image")))


class DisplayedImages(FolderImages):
    """The images of a folder as they are shown, for records with displayed sizes: an `ImageSource`."""

    def read_image(self, record: ImageRecord) -> np.ndarray:
        pixels = read_displayed(self.folder / record.file_name)
        if pixels.shape[:2] != (record.height, record.width):
            height, width = pixels.shape[:2]
            raise DataError(
                f"The image {self.folder / record.file_name} is {width} x {height} pixels (width x height), "
                f"it was {record.width} x {record.height} when its points were read."
            )
        return pixels


class PointsFolder:
    """Images with points: an `ImageSource` that knows its categories and its points, and has no annotation to give.

    Args:
        images: where pixels come from.
        points: the labels; their records are those of the images.
    """

    def __init__(self, images: ImageSource, points: PointsFile):
        self._images = images
        self.points = points
        self.name, self.records, self.categories = images.name, points.records, points.categories

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the classes and of the images' names and sizes."""
        records = [(record.file_name, record.height, record.width) for record in self.records]
        return content_hash("points_folder", self.categories.to_coco(), records)

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return self._images.read_image(record)


def read_categories(path: Path) -> Categories:
    """The categories of a JSON: a list of COCO category dicts, or an object that has one as ``categories`` (any COCO
    annotation file). DataError if there is none, or it is unusable."""
    content = read_json(path, "categories file")
    found = content.get("categories") if isinstance(content, dict) else content
    try:
        return Categories.from_coco(found)
    except (TypeError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        needed = "each needs id, name and isthing (0 or 1)"
        raise DataError(f"The categories of {path} are unusable ({reason}); {needed}.") from error


def table_to_points(table: PointsTable, folder: Path, categories: Categories, name: str) -> PointsFile:
    """The clicks of a CSV as point labels; images get the ids 1, 2, ... in the order of the table.

    Raises:
        DataError: the first line that cannot be used, or an image that is missing or broken.
    """
    table.check()
    records, targets, points = [], [], []
    for index, file_name in enumerate(table.images):
        size = displayed_size(folder / file_name)
        labels = table.labels_of(index, size, categories)
        records.append(ImageRecord(index + 1, file_name, *size))
        first = len(targets)
        targets += [
            (index, segment, categories[label].id)
            for segment, label in zip(labels.ids.tolist(), labels.classes.tolist(), strict=True)
        ]
        points += [(first + target, x, y) for target, (x, y) in zip(labels.target.tolist(), labels.xy.tolist(), strict=True)]
    of_targets, of_points = (np.array(rows, dtype=np.int64).reshape(-1, 3).T for rows in (targets, points))
    return PointsFile(
        dataset=name, strategy="clicked", count=int(np.bincount(of_points[0]).max()), seed=0, source_fingerprint="",
        categories=categories, records=records, target_image=of_targets[0], target_segment=of_targets[1],
        target_category=of_targets[2], point_target=of_points[0], point_x=of_points[1], point_y=of_points[2],
        path=table.path,
    )


def points_folder_from_config(config: Mapping[str, Any], split: str) -> PointsFolder | CocoPanoptic:
    """The source of a ``points_folder`` config.

    Of ``train``: ``images`` (a folder), ``points.file`` (CSV or .npz) and, for a CSV without the column ``isthing``,
    ``categories`` (a JSON). Of ``val``: images with masks where ``val.json`` names some, else a split without images.

    Raises:
        DataError: files are missing or wrong, or the validation images have other classes.
    """
    train = _train(config)
    if split == "train":
        return train
    val = config["val"]
    if not val["json"]:
        return PointsFolder(FolderImages(config["images"], [], config["name"]), _no_points(train.points))
    source = CocoPanoptic(val["json"], val["masks"] or Path(val["json"]).with_suffix(""), val["images"], config["name"])
    if source.categories != train.categories:
        raise DataError(
            f"The categories of {val['json']} are not those of {train.points}; set dataset.categories={val['json']}, "
            "so that both have its ids and names."
        )
    return source


def points_folder_images(config: Mapping[str, Any], split: str, records: Sequence[ImageRecord]) -> FolderImages:
    """The images of a ``points_folder`` config, for the records of its points."""
    kind = DisplayedImages if _is_csv(_required(config, "points")) else FolderImages
    return kind(_required(config, "images"), records, config["name"])


def _required(config: Mapping[str, Any], key: str) -> Path:
    given = config["points"]["file"] if key == "points" else config[key]
    if not given:
        what = "FILE, a CSV with the columns image,x,y,class,instance or a points file" if key == "points" else "DIR"
        raise DataError(f"Data set '{config['name']}' has no {key}: set dataset.{key}={what}.")
    return Path(given).expanduser()


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == CSV


def _train(config: Mapping[str, Any]) -> PointsFolder:
    folder, path = _required(config, "images"), _required(config, "points")
    categories = Path(config["categories"]).expanduser() if config["categories"] else None
    changed = tuple(_changed(file) for file in (folder, path, categories) if file is not None)
    points = _points(folder, path, categories, config["name"], changed)
    return PointsFolder(points_folder_images(config, "train", points.records), points)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=8)
def _points(folder: Path, path: Path, categories: Path | None, name: str, _changed: tuple[int, ...]) -> PointsFile:
    """The points with their images' sizes; these are read from the files' heads, once a process."""
    if not folder.is_dir():
        raise DataError(f"The images folder {folder} of data set '{name}' does not exist: correct dataset.images=DIR.")
    if _is_csv(path):
        table = PointsTable.read(path)
        known = read_categories(categories) if categories is not None else table.categories()
        return table_to_points(table, folder, known, name)
    points = PointsFile.load(path)
    points.check()
    absent = [record.file_name for record in points.records if not (folder / record.file_name).is_file()]
    if absent:
        raise DataError(f"{path} lists {len(absent)} images that {folder} does not have, the first is {absent[0]}.")
    return points


def _no_points(points: PointsFile) -> PointsFile:
    none = np.zeros(0, dtype=np.int64)
    return PointsFile(points.dataset, "clicked", 1, 0, "", points.categories, [], *[none] * 6)
