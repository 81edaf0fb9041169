"""Folders of label maps: one PNG of class values per image, as VOC and Cityscapes have them, dense or sparse.

A dense map has the classes ``0 .. K - 1`` and 255 where nothing is known. A sparse one (points, scribbles, clicks; the
convention of the AGMM released code) has the same classes at labelled pixels and **K** everywhere else: 21 on VOC, 19 on
Cityscapes. 0 is a class (background, road) and 255 does not occur: there it means padding made by cropping. Files that mix
these up train something else without a sound, so that a map is looked at before it is used (`check_label_map`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.files import content_hash, replacing
from benchmark.data.images import Annotation, FolderImages, ImageRecord, describe_segments, open_image
from methods.base.types import Categories, Category

VOID = 255
"""Pixels of a dense map without a class; in a sparse map, padding."""


def voc_palette(count: int = 256) -> list[int]:
    """The colours of VOC's PNG files as a flat list of RGB values: bit i of a value's three low bits goes to bit 7 - i."""
    colours = []
    for value in range(count):
        for channel in range(3):
            bits = (value >> (3 * i + channel) & 1 for i in range(3))
            colours.append(sum(bit << (7 - i) for i, bit in enumerate(bits)))
    return colours


def read_label_map(path: Path | str) -> np.ndarray:
    """(H, W) uint8 values of a label PNG, grayscale or with a palette; DataError if it is missing, broken or in colours."""
    image = open_image(Path(path), "label map")
    if image.mode not in ("L", "P"):
        raise DataError(f"The label map {path} has mode {image.mode}, class values need grayscale (L) or a palette (P).")
    return np.asarray(image).copy()


def write_label_map(path: Path | str, labels: np.ndarray) -> None:
    """Write (H, W) integer values in 0 .. 255 as a PNG with VOC's palette, atomically; `read_label_map` gives them back.

    ValueError if a value does not fit.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not labels.size or not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(f"A label map is (H, W) with values in 0..255, not {labels.shape}, {labels.dtype}.")
    image = Image.fromarray(labels.astype(np.uint8), mode="L")
    image.putpalette(voc_palette())  # turns it into mode P, values unchanged
    with replacing(Path(path)) as file:
        image.save(file, format="PNG")


def sparse_label_map(xy: np.ndarray, classes: np.ndarray, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """(H, W) uint8 sparse map: the class of each labelled pixel, ``num_classes`` elsewhere.

    Args:
        xy: (p, 2) int columns and rows. classes: (p,) int in ``0 .. num_classes - 1``.
        size: (H, W).
        num_classes: K, at most 254.
    """
    labels = np.full(size, num_classes, dtype=np.uint8)
    labels[xy[:, 1], xy[:, 0]] = classes
    return labels


def sparse_pixels(labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, 2) int64 columns and rows of the labelled pixels of a sparse map, row by row, and their (p,) int64 classes."""
    rows, cols = np.nonzero(labels < num_classes)
    return np.stack([cols, rows], axis=1).astype(np.int64), labels[rows, cols].astype(np.int64)


def check_label_map(labels: np.ndarray, num_classes: int, sparse: bool, what: str) -> None:
    """DataError in one sentence if a label map's histogram is not that of its convention.

    Of a sparse map K fills most pixels: where 0 or 255 does, the file has another convention, and where classes do, it is
    dense.

    Args:
        labels: (H, W) values. num_classes: K.
        sparse: which convention it should have.
        what: the file, for the message.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    known, unlabelled, void = counts[:num_classes].sum(), counts[num_classes], counts[VOID]
    strange = np.flatnonzero(counts[num_classes + 1 : VOID]) + num_classes + 1
    if strange.size:
        raise DataError(
            f"{what} has the value {strange[0]}; classes are 0..{num_classes - 1}, {num_classes} is unlabelled: is "
            f"{num_classes} the right number of classes?"
        )
    if not sparse:
        if unlabelled:
            raise DataError(
                f"{what} has {unlabelled} pixels of the value {num_classes}, which means unlabelled in sparse maps; "
                "this one should be dense, with 255 where nothing is known."
            )
        return
    if void:
        raise DataError(
            f"{what} has {void} pixels of 255, which in sparse maps means padding made by cropping; unlabelled pixels "
            f"are {num_classes} here: replace 255 by {num_classes}."
        )
    if 2 * counts[0] > labels.size:
        raise DataError(
            f"{what} is {100 * counts[0] / labels.size:.0f} % zeros, but 0 is a class; if it means unlabelled there, "
            f"replace 0 by {num_classes} (and, where 1 is the first class, lower the other values by 1)."
        )
    if 2 * known > labels.size:
        raise DataError(
            f"{what} has a class at {100 * known / labels.size:.0f} % of its pixels, which is a dense map; sparse maps have "
            f"{num_classes} nearly everywhere."
        )


class LabelMaps:
    """Images with label maps: an `AnnotatedSource` whose segments are classes, value v having category id v + 1.

    Args:
        name: of the data set.
        categories: one per value; see `categories_of`.
        records: the images.
        images: the folder that the records' file names are relative to.
        labels: path of each image's label map.
        sparse: the maps have the sparse convention; what is unlabelled is void.
    """

    def __init__(
        self, name: str, categories: Categories, records: Sequence[ImageRecord], images: Path, labels: Mapping[str, Path],
        sparse: bool,
    ):
        self.name, self.categories, self.records, self.sparse = name, categories, list(records), sparse
        self._labels = dict(labels)
        self._images = FolderImages(images, self.records, name)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the classes and of the label files' names and sizes in bytes; their content is not read for it."""
        files = [(record.id, _size_of(self._labels[str(record.id)])) for record in self.records]
        return content_hash("label_maps", self.categories.to_coco(), self.sparse, files)

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return self._images.read_image(record)

    def read_annotation(self, record: ImageRecord) -> Annotation:
        path = self._labels[str(record.id)]
        labels = read_label_map(path)
        if labels.shape != (record.height, record.width):
            raise DataError(
                f"The label map {path} is {labels.shape[1]} x {labels.shape[0]} pixels (width x height), its image "
                f"{record.file_name} is {record.width} x {record.height}."
            )
        count = len(self.categories)
        check_label_map(labels, count, self.sparse, f"The label map {path}")
        ids = np.where(labels < count, labels.astype(np.int64) + 1, 0)
        return Annotation(ids, describe_segments(ids, {i: i for i in range(1, count + 1)}))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"The label map {path} does not exist; see dataset.train.labels and dataset.val.labels.") from None


def categories_of(config: Mapping[str, Any]) -> Categories:
    """Of a ``label_maps`` config: ``classes`` in the order of their values, those listed in ``stuff`` being stuff."""
    return Categories(Category(i + 1, str(c), c not in config["stuff"]) for i, c in enumerate(config["classes"]))


def label_maps_from_config(config: Mapping[str, Any], split: str) -> LabelMaps:
    """The source of a ``label_maps`` config.

    Of each split: ``list``, a text file whose lines begin with a name (a path counts by its stem), or null for all images;
    ``images`` and ``labels``, paths with {name}; ``sparse``. All are below ``root``.

    Raises:
        DataError: a folder or list is missing, or no image is found.
    """
    root, settings = _root(config), config[split]
    records = _records(root, settings["list"], settings["images"], config["name"])
    labels = {str(record.id): root / settings["labels"].replace("{name}", str(record.id)) for record in records}
    return LabelMaps(config["name"], categories_of(config), records, root, labels, bool(settings["sparse"]))


def label_map_images_from_config(config: Mapping[str, Any], split: str, records: Sequence[ImageRecord]) -> FolderImages:
    """The images of a ``label_maps`` config, for the records of a points file."""
    return FolderImages(_root(config), records, config["name"])


def _root(config: Mapping[str, Any]) -> Path:
    needed = f"{config['train']['images']} and label maps in {config['train']['labels']}"
    if not config["root"]:
        raise DataError(f"Data set '{config['name']}' has no folder: set dataset.root=FOLDER to the one with {needed}.")
    folder = Path(config["root"]).expanduser()
    if not folder.is_dir():
        raise DataError(f"The folder {folder} of data set '{config['name']}' does not exist: correct dataset.root=FOLDER.")
    return folder


@lru_cache(maxsize=8)
def _records(root: Path, list_file: str | None, pattern: str, name: str) -> tuple[ImageRecord, ...]:
    """The images of a list, or all that fit the pattern; their sizes are read from the files' heads, once a process."""
    names = _listed(root / list_file, name) if list_file else _found(root, pattern)
    if not names:
        raise DataError(f"Data set '{name}' has no image {pattern} below {root}: correct dataset.root or the patterns.")
    records = []
    for each in names:
        file_name = pattern.replace("{name}", each)
        try:
            with Image.open(root / file_name) as image:
                records.append(ImageRecord(each, file_name, image.height, image.width))
        except OSError as error:
            raise DataError(f"The image {root / file_name} of data set '{name}' cannot be read: {error}.") from None
    return tuple(records)


def _listed(path: Path, name: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"The list {path} of data set '{name}' does not exist; null takes all images.") from None
    words = (line.split()[0] for line in lines if line.strip())
    return [Path(word).stem if Path(word).suffix else word for word in words]


def _found(root: Path, pattern: str) -> list[str]:
    form = re.compile(re.escape(pattern).replace(re.escape("{name}"), "(.+)"))
    folder = root / pattern.partition("{name}")[0].rpartition("/")[0]
    paths = (path.relative_to(root).as_posix() for path in folder.rglob("*"))
    return sorted(match[1] for path in paths if (match := form.fullmatch(path)))
