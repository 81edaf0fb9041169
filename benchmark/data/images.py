"""What a data set is to the rest of the project: records, images and, for those who may look, annotations.

The two protocols are the line between supervisions. An `ImageSource` gives images only; it is all that a run on points
ever holds. An `AnnotatedSource` also gives masks; points are drawn from it beforehand, and evaluation and the
``full_masks`` bound read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from benchmark.data.errors import DataError
from methods.base.types import Categories


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a data set: its identity, its file below the images folder, and its size in pixels."""

    id: int | str
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """Panoptic ground truth of one image.

    Attributes:
        ids: (H, W) int64 segment ids, 0 = void.
        segments: COCO ``segments_info``: dicts with ``id``, ``category_id``, ``area`` (pixels), ``bbox`` (x, y, width,
            height; optional) and ``iscrowd``. Every id other than 0 that occurs is listed, and every listed id occurs.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]


@runtime_checkable
class ImageSource(Protocol):
    """Images of one split; there is no way to a mask from here."""

    name: str
    records: list[ImageRecord]

    def read_image(self, record: ImageRecord) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the record's size; DataError if the file is missing, broken or of another size."""
        ...


@runtime_checkable
class AnnotatedSource(ImageSource, Protocol):
    """Images with their ground truth."""

    categories: Categories

    def read_annotation(self, record: ImageRecord) -> Annotation:
        """The ground truth of one image; DataError if it is missing, broken or contradicts itself."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash of the ground truth; what was derived from it is out of date once the hash differs."""
        ...


class FolderImages:
    """The images of a folder, for the records of a points file: an `ImageSource`.

    Args:
        folder: what the records' file names are relative to. DataError if it is no folder.
        records: the images, in order.
        name: name of the data set.
    """

    def __init__(self, folder: Path | str, records: Sequence[ImageRecord], name: str):
        self.folder = Path(folder)
        self.records = list(records)
        self.name = name
        if not self.folder.is_dir():
            raise DataError(f"The images folder {self.folder} of data set '{name}' does not exist.")

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return read_rgb(self.folder / record.file_name, record.height, record.width)


def read_rgb(path: Path, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB pixels of an image file of any mode (grayscale, palette, CMYK, with alpha, 16 bit).

    The recorded size decides whether an EXIF orientation is applied: annotations belong to the recorded size, and data
    sets differ in whether they were made on the stored or on the displayed pixels. DataError if the file is missing,
    truncated or no image, or if neither orientation has the recorded size.
    """
    image = open_image(path, "image")
    stored = image.size
    if stored != (width, height):
        image = ImageOps.exif_transpose(image)
    if image.size != (width, height):
        raise DataError(
            f"The image {path} is {stored[0]} x {stored[1]} pixels (width x height), its record says {width} x {height}."
        )
    return rgb_pixels(image)


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a decoded image of any mode."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bit values at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def open_image(path: Path, what: str) -> Image.Image:
    """A decoded image file; DataError naming ``what`` and the file if it is missing, truncated or no image."""
    with decoding(path, what), Image.open(path) as image:
        image.load()
        return image


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turns what Pillow raises on a file into a DataError that names ``what`` and the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"The {what} {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise DataError(f"The {what} {path} cannot be decoded, it may be truncated or no image: {error}.") from error


def describe_segments(
    ids: np.ndarray, category_of: Mapping[int, int], crowd: Collection[int] = ()
) -> list[dict[str, Any]]:
    """COCO ``segments_info`` of the segments that occur in an id map, in the order of ``category_of``.

    Args:
        ids: (H, W) int, 0 = void.
        category_of: category id of each segment id; ids without a pixel are left out, as the format demands.
        crowd: the segment ids that are crowd regions.

    Raises:
        ValueError: an id of the map has no category.
    """
    values, inverse = np.unique(ids, return_inverse=True)
    unlisted = sorted(set(values.tolist()) - {0} - set(category_of))
    if unlisted:
        raise ValueError(f"The id map has segments without a category: {unlisted}.")
    windows = dict(zip(values.tolist(), ndimage.find_objects(inverse.reshape(ids.shape) + 1), strict=True))
    areas = dict(zip(values.tolist(), np.bincount(inverse.ravel()).tolist(), strict=True))
    segments = []
    for segment_id, category_id in category_of.items():
        if segment_id == 0 or segment_id not in areas:
            continue
        rows, cols = windows[segment_id]
        bbox = [cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start]
        segments.append({"id": segment_id, "category_id": category_id, "area": areas[segment_id], "bbox": bbox,
                         "iscrowd": int(segment_id in crowd)})
    return segments
