"""From a data set config to its source: the one place that knows every kind of data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.data import coco, label_maps, points_folder, scenes
from benchmark.data.images import AnnotatedSource, Annotation, FolderImages, ImageRecord, ImageSource
from benchmark.data.points_folder import PointsFolder

__all__ = [
    "SOURCES", "SPLITS", "AnnotatedSource", "Annotation", "FolderImages", "ImageRecord", "ImageSource", "PointsFolder",
    "SourceKind", "Split", "build_images", "build_source",
]

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, slots=True)
class SourceKind:
    """How a kind of data set is opened: ``annotated(config, split)``; without masks, ``images(config, split, records)``."""

    annotated: Callable[[Mapping[str, Any], str], AnnotatedSource | PointsFolder]
    images: Callable[[Mapping[str, Any], str, Sequence[ImageRecord]], ImageSource]


SOURCES: dict[str, SourceKind] = {
    "scenes": SourceKind(scenes.scenes_from_config, scenes.scene_images_from_config),
    "coco_panoptic": SourceKind(coco.coco_from_config, coco.coco_images_from_config),
    "label_maps": SourceKind(label_maps.label_maps_from_config, label_maps.label_map_images_from_config),
    "points_folder": SourceKind(points_folder.points_folder_from_config, points_folder.points_folder_images),
}


def build_source(dataset_config: Mapping[str, Any], split: Split) -> AnnotatedSource | PointsFolder:
    """A split of a data set with its masks, for drawing points, evaluation and the ``full_masks`` bound; a `PointsFolder`
    where there are none.

    Args:
        dataset_config: the ``dataset`` config group; ``kind`` names one of `SOURCES`.
        split: "train" or "val".

    Raises:
        ValueError: unknown kind or split.
        DataError: files are missing or wrong.
    """
    return _kind(dataset_config, split).annotated(dataset_config, split)


def build_images(dataset_config: Mapping[str, Any], split: Split, records: Sequence[ImageRecord]) -> ImageSource:
    """The images of a split without any way to its masks, for runs that are supervised by points.

    Args:
        dataset_config: the ``dataset`` config group.
        split: "train" or "val".
        records: the images, from the points file.

    Raises:
        ValueError: unknown kind or split.
        DataError: the images folder is missing, or the records belong to another data set.
    """
    return _kind(dataset_config, split).images(dataset_config, split, records)


def _kind(dataset_config: Mapping[str, Any], split: str) -> SourceKind:
    if split not in SPLITS:
        raise ValueError(f"Unknown split '{split}'; known are {', '.join(SPLITS)}.")
    kind = dataset_config["kind"]
    if kind not in SOURCES:
        raise ValueError(f"Unknown data set kind '{kind}' in dataset.kind; known are {', '.join(SOURCES)}.")
    return SOURCES[kind]
