"""Reader and writer of the COCO panoptic format: one JSON, one PNG of segment ids per image, and the images.

The rules are those of the COCO panoptic API: ids are stored as colours (`benchmark.data.segment_ids`), 0 is void, every id
of a PNG is listed in the JSON's ``segments_info`` and every listed id occurs. Category ids may be sparse.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmark.data.errors import DataError
from benchmark.data.files import read_json, replacing
from benchmark.data.images import Annotation, FolderImages, ImageRecord, describe_segments
from benchmark.data.panoptic_png import read_panoptic_png, write_panoptic_png
from benchmark.data.segment_ids import MAX_ID, VOID, decode_ids, encode_ids
from methods.base.types import Categories

__all__ = [
    "CocoPanoptic", "coco_from_config", "coco_images_from_config", "decode_ids", "encode_ids", "read_annotation",
    "write_panoptic",
]

_FIELDS = {
    "images": {"id": (int, str), "file_name": (str,), "height": (int,), "width": (int,)},
    "annotations": {"image_id": (int, str), "file_name": (str,), "segments_info": (list,)},
    "categories": {"id": (int,), "name": (str,), "isthing": (int,)},
}
_SEGMENT_FIELDS = {"id": (int,), "category_id": (int,), "area": (int, float)}


class CocoPanoptic:
    """One split of a data set in COCO panoptic format: an `AnnotatedSource`.

    Args:
        json_path: the panoptic JSON.
        masks_folder: the PNG files of segment ids.
        images_folder: the images.
        name: name of the data set.

    The JSON is read and checked as a whole; images and PNG files are checked when they are read.

    Raises:
        DataError: a file or folder is missing, or the JSON is empty, malformed or contradicts itself.
    """

    def __init__(self, json_path: Path | str, masks_folder: Path | str, images_folder: Path | str, name: str):
        self.name = name
        self.json_path = Path(json_path)
        self.masks_folder = Path(masks_folder)
        content = _checked_content(self.json_path)
        try:
            self.categories = Categories.from_coco(content["categories"])
        except ValueError as error:
            raise DataError(f"The categories of {self.json_path} are unusable: {error}") from error
        self.records = [ImageRecord(i["id"], i["file_name"], i["height"], i["width"]) for i in content["images"]]
        self._annotations = _annotations_by_image(content, self.records, self.categories, self.json_path)
        if not self.masks_folder.is_dir():
            raise DataError(f"The folder of panoptic PNG files {self.masks_folder} of data set '{name}' does not exist.")
        self._images = FolderImages(images_folder, self.records, name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the panoptic JSON file."""
        with open(self.json_path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return self._images.read_image(record)

    def listed(self, record: ImageRecord) -> dict[str, Any]:
        """What the JSON says about an image, without a look at its PNG: ``file_name`` of the PNG and ``segments_info``."""
        return self._annotations[record.id]

    def read_annotation(self, record: ImageRecord) -> Annotation:
        annotation = self.listed(record)
        return read_annotation(
            self.masks_folder / annotation["file_name"], record, annotation["segments_info"], self.json_path
        )


def read_annotation(path: Path, record: ImageRecord, segments: Sequence[Mapping[str, Any]], json_path: Path) -> Annotation:
    """One image's ground truth from its panoptic PNG and what the JSON lists.

    Args:
        path: the PNG.
        record: its image.
        segments: the ``segments_info``.
        json_path: where they are listed, for messages.

    Raises:
        DataError: the PNG is missing, broken, of another size, or has other ids than those listed.
    """
    ids = read_panoptic_png(path)
    if ids.shape != (record.height, record.width):
        raise DataError(
            f"The panoptic PNG {path} is {ids.shape[1]} x {ids.shape[0]} pixels (width x height), "
            f"its image in {json_path} is {record.width} x {record.height}."
        )
    found = set(np.unique(ids).tolist()) - {VOID}
    listed = {segment["id"] for segment in segments}
    if found - listed:
        raise DataError(f"The panoptic PNG {path} has ids that {json_path} does not list: {_some(found - listed)}.")
    if listed - found:
        raise DataError(f"{json_path} lists segments without a pixel in {path}: {_some(listed - found)}.")
    return Annotation(ids, [dict(segment) for segment in segments])


def _some(values: Iterable[Any]) -> str:
    ordered = sorted(values)
    return ", ".join(map(str, ordered[:5])) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def _checked_content(path: Path) -> dict[str, Any]:
    """The JSON with its lists and fields present and of the right type."""
    content = read_json(path, "panoptic JSON")
    if not isinstance(content, dict):
        raise DataError(f"The panoptic JSON {path} must hold an object with the lists {', '.join(_FIELDS)}.")
    for group, fields in _FIELDS.items():
        if not isinstance(content.get(group), list):
            raise DataError(f"The panoptic JSON {path} has no list '{group}'.")
        for index, item in enumerate(content[group]):
            _check_fields(item, fields, f"{group}[{index}]", path)
    if not content["images"]:
        raise DataError(f"The panoptic JSON {path} lists no image.")
    for index, image in enumerate(content["images"]):
        if image["height"] < 1 or image["width"] < 1:
            raise DataError(f"images[{index}] of {path} has the size {image['width']} x {image['height']}.")
    return content


def _check_fields(item: Any, fields: Mapping[str, tuple[type, ...]], where: str, path: Path) -> None:
    if not isinstance(item, dict):
        raise DataError(f"{where} of {path} must be an object.")
    for name, types in fields.items():
        if not isinstance(item.get(name), types):
            expected = " or ".join(t.__name__ for t in types)
            raise DataError(f"{where} of {path} needs '{name}' ({expected}), it has {item.get(name)!r}.")


def _annotations_by_image(
    content: Mapping[str, Any], records: Sequence[ImageRecord], categories: Categories, path: Path
) -> dict[int | str, dict[str, Any]]:
    """Each image's annotation; DataError unless images and annotations are in one-to-one relation and segments are sound."""
    image_ids = [record.id for record in records]
    annotated = [annotation["image_id"] for annotation in content["annotations"]]
    for what, ids in (("image id", image_ids), ("annotation of image", annotated)):
        if len(set(ids)) < len(ids):
            repeated = Counter(ids).most_common(1)[0][0]
            raise DataError(f"The {what} {repeated} occurs more than once in {path}.")
    unknown, missing = set(annotated) - set(image_ids), set(image_ids) - set(annotated)
    if unknown:
        raise DataError(f"{path} annotates image {min(unknown, key=str)}, which it does not list under 'images'.")
    if missing:
        raise DataError(f"{path} lists image {min(missing, key=str)} without an annotation.")
    known = {category.id for category in categories}
    for annotation in content["annotations"]:
        _check_segments(annotation, known, path)
    return dict(zip(annotated, content["annotations"], strict=True))


def _check_segments(annotation: Mapping[str, Any], known_categories: set[int], path: Path) -> None:
    where, seen = f"The annotation of image {annotation['image_id']}", set()
    for segment in annotation["segments_info"]:
        _check_fields(segment, _SEGMENT_FIELDS, f"A segment of image {annotation['image_id']}", path)
        if not VOID < segment["id"] <= MAX_ID:
            raise DataError(f"{where} in {path} has the segment id {segment['id']}, ids go from 1 to {MAX_ID}.")
        if segment["id"] in seen:
            raise DataError(f"{where} in {path} lists the segment id {segment['id']} more than once.")
        if segment["category_id"] not in known_categories:
            raise DataError(
                f"{where} in {path} has a segment of the category id {segment['category_id']}, "
                "which 'categories' does not list."
            )
        segment.setdefault("iscrowd", 0)
        seen.add(segment["id"])


def coco_from_config(config: Mapping[str, Any], split: str) -> CocoPanoptic:
    """The annotated source of a ``coco_panoptic`` config: ``root`` and the patterns ``json``, ``masks``, ``images``."""
    paths = (_path(config, key, split) for key in ("json", "masks", "images"))
    return CocoPanoptic(*paths, name=config["name"])


def coco_images_from_config(config: Mapping[str, Any], split: str, records: Sequence[ImageRecord]) -> FolderImages:
    """The images of a ``coco_panoptic`` config: of its paths, only the images folder is looked at."""
    return FolderImages(_path(config, "images", split), records, config["name"])


PREPARED = "'python -m benchmark.data prepare' makes such a folder of VOC 2012 with SBD, COCO 2017 or Cityscapes."


def _path(config: Mapping[str, Any], key: str, split: str) -> Path:
    name, root = config["name"], config["root"]
    if not root:
        raise DataError(
            f"Data set '{name}' has no folder: set dataset.root=FOLDER to the one that holds "
            f"{config['json'].replace('{split}', split)} and {config['images'].replace('{split}', split)}/; {PREPARED}"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"The folder {folder} of data set '{name}' does not exist: correct dataset.root=FOLDER.")
    return folder / config[key].replace("{split}", split)


def write_panoptic(
    json_path: Path, masks_folder: Path, categories: Categories, items: Iterable[tuple[ImageRecord, Annotation]]
) -> None:
    """Write maps in COCO panoptic format; every file appears complete or not at all, the JSON last.

    Args:
        json_path: the JSON to write.
        masks_folder: gets one PNG per image, of the image file's name.
        categories: the categories that the segments refer to.
        items: image records with their ids and segments. Areas and boxes are counted anew and segments without a pixel are
            left out; of a given segment only ``id``, ``category_id`` and ``iscrowd`` (default 0) count.

    Raises:
        DataError: two images would get the same PNG.
        ValueError: an id map has an id that is not listed or exceeds 24 bit.
    """
    images, annotations, written = [], [], set()
    for record, annotation in items:
        png = str(PurePosixPath(record.file_name).with_suffix(".png"))
        if png in written:
            raise DataError(
                f"Two images would be written to {masks_folder / png}: file names must differ in more than their ending."
            )
        written.add(png)
        category_of = {s["id"]: s["category_id"] for s in annotation.segments}
        crowd = {s["id"] for s in annotation.segments if s.get("iscrowd")}
        segments = describe_segments(annotation.ids, category_of, crowd)
        write_panoptic_png(masks_folder / png, annotation.ids)
        images.append({"id": record.id, "file_name": record.file_name, "height": record.height, "width": record.width})
        annotations.append({"image_id": record.id, "file_name": png, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": categories.to_coco()}
    with replacing(json_path) as file:
        file.write(json.dumps(content).encode())
