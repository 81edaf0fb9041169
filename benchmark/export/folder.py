"""The folder that labels are written to, whole file by whole file.

    panoptic.json      panoptic/NAME.png        COCO panoptic: segments with score, area and box; the PNG has their ids
    instances.json                              COCO instances: things as run-length code
    SegmentationClass/NAME.png                  VOC: class values with a palette, 255 = void; classes.txt lists them
    SegmentationObject/NAME.png                 VOC: object numbers
    overlays/NAME.jpg                           to look at
    labels.json                                 which run made all this
    skipped.txt                                 images that have no labels, and why

An image is done when its piece, ``.pieces/NAME.json``, is there, which is written last of its files. The two JSON files of a
whole data set are put together from the pieces at the end; while labels are being made, there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from benchmark.data.class_lists import ids_by_value
from benchmark.data.errors import DataError
from benchmark.data.files import content_hash, read_json, replacing
from benchmark.data.label_maps import VOID, write_label_map
from benchmark.data.panoptic_png import write_panoptic_png
from benchmark.export.segments import class_values, described, object_values, run_lengths
from methods.base.types import Categories

FORMAT = 1
LEFTOVER = f".*.{'[0-9a-f]' * 32}.tmp"
"""Names of files that `replacing` had not finished when its process was killed."""
OVERLAY_QUALITY = 85
"""Of JPEG files."""


class OutputError(Exception):
    """A file that cannot be written: one sentence that names it; nothing after it could be written either."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of one image.

    Attributes:
        ids: (H, W) int64, 0 = void.
        segments: ``id``, ``category_id`` and ``score`` of each segment.
        targets: (identity in the points file, category id) of target ``i``, whose segment id is ``i + 1``; also of those
            without a pixel. Empty without points.
        overlay: (h, w, 3) uint8 picture, or None.
    """

    ids: np.ndarray
    segments: Sequence[Mapping[str, Any]]
    targets: Sequence[tuple[int, int]] = ()
    overlay: np.ndarray | None = None


class ExportFolder:
    """Labels of many images; every method raises `OutputError` where a file cannot be written.

    Args:
        root: the folder.
        categories: of the labels.
        panoptic: whether the labels have instances; without, only class maps are written.
        overlays: whether there are pictures.
        origin: what made the labels (``verb``, ``run``, ``weights``), plain values.
    """

    def __init__(self, root: Path, categories: Categories, panoptic: bool, overlays: bool, origin: Mapping[str, Any]):
        self.root, self.categories, self.panoptic, self.overlays = root, categories, panoptic, overlays
        self.origin = {"format": FORMAT, **origin, "categories": categories.to_coco()}
        values = ids_by_value(categories)
        self.value_of = {category: value for value, category in enumerate(values)} if len(values) <= VOID else None
        self._things = {category.id for category in categories if category.is_thing}

    @property
    def panoptic_json(self) -> Path:
        return self.root / "panoptic.json"

    @property
    def instances_json(self) -> Path:
        return self.root / "instances.json"

    @property
    def masks(self) -> Path:
        """The folder of panoptic PNG files."""
        return self.root / "panoptic"

    @property
    def skipped_file(self) -> Path:
        return self.root / "skipped.txt"

    def piece_file(self, name: str) -> Path:
        """What is known of an image's labels but for the maps."""
        return self.root / ".pieces" / f"{name}.json"

    def maps(self, name: str) -> dict[str, Path]:
        """The files of an image by their folder, which are there when its piece is."""
        folders = ["panoptic", "SegmentationObject"] if self.panoptic else []
        if self.value_of is None:  # more classes than an 8 bit map has values
            folders = folders[:1]
        else:
            folders.append("SegmentationClass")
        found = {folder: self.root / folder / PurePosixPath(name).with_suffix(".png") for folder in folders}
        if self.overlays:
            found["overlays"] = self.root / "overlays" / PurePosixPath(name).with_suffix(".jpg")
        return found

    def open(self) -> None:
        """Make the folder, or go on in it: what a killed command left half written is deleted.

        DataError if it has labels of another run, or other files of these names.
        """
        path = self.root / "labels.json"
        if path.exists() and (found := read_json(path, "list of labels")) != self.origin:
            made = " ".join(str(found.get(key)) for key in ("verb", "run")) if isinstance(found, dict) else "something else"
            raise DataError(f"{self.root} has the labels of {made}, or of other weights; name another folder with out=DIR.")
        if not path.exists() and (self.panoptic_json.exists() or self.masks.exists()):
            raise DataError(f"{self.root} has files that this command did not write; name another folder with out=DIR.")
        with writing(path):
            self.root.mkdir(parents=True, exist_ok=True)
            for leftover in self.root.rglob(LEFTOVER):
                leftover.unlink()
            with replacing(path) as file:
                file.write(json.dumps(self.origin, indent=1, ensure_ascii=False).encode())
            if self.value_of is not None:
                with replacing(self.root / "classes.txt") as file:
                    names = {category.id: category.name for category in self.categories}
                    file.writelines(f"{value} {names[category]}\n".encode() for category, value in self.value_of.items())

    def begin(self) -> None:
        """Take the files of the whole data set away before one of its images changes."""
        for path in (self.panoptic_json, self.instances_json):
            with writing(path):
                path.unlink(missing_ok=True)

    def is_done(self, name: str, signature: Sequence[Any]) -> bool:
        """Whether an image has all its files, made from this input."""
        try:
            piece = read_json(self.piece_file(name), "piece")
        except DataError:
            return False
        return piece.get("signature") == content_hash(signature) and all(path.exists() for path in self.maps(name).values())

    def write(self, name: str, signature: Sequence[Any], labelled: Labelled) -> None:
        """Write the files of an image, its piece last."""
        ids, paths = labelled.ids, self.maps(name)
        piece: dict[str, Any] = {
            "signature": content_hash(signature), "file_name": name, "height": ids.shape[0], "width": ids.shape[1],
        }  # fmt: skip
        with writing(self.root / name):
            self.piece_file(name).unlink(missing_ok=True)
            if self.panoptic:
                piece |= self._describe(labelled)
                write_panoptic_png(paths["panoptic"], ids)
            if self.value_of is not None:
                write_label_map(paths["SegmentationClass"], class_values(ids, labelled.segments, self.value_of))
                if self.panoptic:
                    objects = object_values(ids, piece["segments"], self._things)
                    write_label_map(paths["SegmentationObject"], objects)
            if self.overlays and labelled.overlay is not None:
                with replacing(paths["overlays"]) as file:
                    Image.fromarray(labelled.overlay).save(file, format="JPEG", quality=OVERLAY_QUALITY)
            with replacing(self.piece_file(name)) as file:
                file.write(json.dumps(piece).encode())

    def _describe(self, labelled: Labelled) -> dict[str, Any]:
        segments = described(labelled.ids, labelled.segments)
        things = [segment["id"] for segment in segments if segment["category_id"] in self._things]
        counts = dict(zip(map(str, things), run_lengths(labelled.ids, things), strict=True))
        return {"segments": segments, "counts": counts, "targets": [list(target) for target in labelled.targets]}

    def assemble(self, images: Callable[[], Iterator[tuple[int, str]]]) -> None:
        """Put the JSON files of the whole data set together, one piece in memory at a time.

        Args:
            images: gives the COCO id and the name of each image that is done, in order, as often as it is called.
        """
        if not self.panoptic:
            return
        lists: dict[str, Callable[[], Iterable[Any]]] = {
            "images": lambda: (_image(piece, number) for number, piece in self._pieces(images())),
            "annotations": lambda: (_panoptic_annotation(piece, number) for number, piece in self._pieces(images())),
            "categories": self.categories.to_coco,
        }
        info = {"description": f"labels made by {self.origin['run']}", **self.origin}
        del info["categories"]
        _write_lists(self.panoptic_json, info, lists)
        lists["annotations"] = lambda: self._instances(images())
        lists["categories"] = lambda: [category for category in self.categories.to_coco() if category["isthing"]]
        _write_lists(self.instances_json, info, lists)

    def _pieces(self, images: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, name in images:
            yield number, read_json(self.piece_file(name), "piece")

    def _instances(self, images: Iterable[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        annotation_id = 0
        for number, piece in self._pieces(images):
            size = [piece["height"], piece["width"]]
            for segment in piece["segments"]:
                counts = piece["counts"].get(str(segment["id"]))
                if counts is None:  # stuff
                    continue
                annotation_id += 1
                mask = {"size": size, "counts": counts}
                yield {**segment, "id": annotation_id, "image_id": number, "segmentation": mask}

    def write_skipped(self, reasons: Mapping[str, str]) -> None:
        """Keep the list of images without labels, one ``name: reason`` a line; no file if there is none."""
        with writing(self.skipped_file):
            self.skipped_file.unlink(missing_ok=True)
            if reasons:
                with replacing(self.skipped_file) as file:
                    file.writelines(f"{name}: {reason}\n".encode() for name, reason in reasons.items())


def _image(piece: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {"id": number, **{key: piece[key] for key in ("file_name", "height", "width")}}


def _panoptic_annotation(piece: Mapping[str, Any], number: int) -> dict[str, Any]:
    png = str(PurePosixPath(piece["file_name"]).with_suffix(".png"))
    return {"image_id": number, "file_name": png, "segments_info": piece["segments"]}


def _write_lists(path: Path, info: Mapping[str, Any], lists: Mapping[str, Callable[[], Iterable[Any]]]) -> None:
    """A JSON object of ``info`` and of lists whose items are written one by one."""
    with writing(path), replacing(path) as file:
        file.write(b'{"info": ' + json.dumps(info).encode())
        for key, items in lists.items():
            file.write(f',\n"{key}": ['.encode())
            for place, item in enumerate(items()):
                file.write((b",\n" if place else b"\n") + json.dumps(item).encode())
            file.write(b"]")
        file.write(b"}\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file could not be written: OutputError for every OSError inside."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise OutputError(
            f"{where} cannot be written ({error.strerror or error}); make room or choose another folder with out=DIR, then "
            "repeat the command: it goes on where this one ended."
        ) from error
