"""PASCAL VOC 2012 and SBD as they are downloaded: lists, and annotations in panoptic terms.

VOC annotates with two palette PNG files, one of classes and one of objects, with a void contour (255) around objects. SBD
annotates more of the same images with MATLAB files and without void. Where both have an image, VOC's files are taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from benchmark.data.class_lists import VOC_BACKGROUND_ID, VOC_CLASSES
from benchmark.data.conversion import Labelled
from benchmark.data.errors import DataError
from benchmark.data.label_maps import VOID, read_label_map

BACKGROUND_SEGMENT = 256
"""Segment id of the background; objects keep their number in the source, 1 to 254."""

CONTRADICTED = 0.01
"""Share of the pixels of an image above which a map of classes and one of objects do not belong together."""

_UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MemoryError, MatReadError,
    zlib.error,
)  # fmt: skip
"""What SciPy raises on damaged MATLAB files and on files of another kind."""


def read_names(path: Path, what: str) -> list[str]:
    """The first word of each line of a list of images.

    Raises:
        DataError: the list is missing, unreadable, empty, or names an image twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"The {what} {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The {what} {path} cannot be read: {error}.") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"The {what} {path} names no image.")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"The {what} {path} names {repeated} more than once.")
    return names


def train_aug(voc_train: Sequence[str], voc_val: Sequence[str], sbd: Sequence[str]) -> list[str]:
    """Names of VOC's training images and of SBD's, without VOC's validation images, sorted.

    Args:
        voc_train, voc_val: lists of VOC 2012's segmentation task.
        sbd: SBD's own training and validation images together.
    """
    return sorted({*voc_train, *sbd} - set(voc_val))


def read_voc(class_map: Path, object_map: Path) -> Labelled:
    """VOC's pair of PNG files: a segment per object, one for the background, void at contours.

    An object's class is that of most of its pixels.

    Raises:
        DataError: a file is missing, broken, in colours or of unknown values, or the two do not belong together.
    """
    classes, objects = read_label_map(class_map), read_label_map(object_map)
    if classes.shape != objects.shape:
        raise DataError(f"{class_map} and {object_map} have different sizes: {_size(classes)} and {_size(objects)}.")
    known = (classes < len(VOC_CLASSES)) | (classes == VOID)
    if not known.all():
        raise DataError(
            f"{class_map} has the value {classes[~known][0]}; classes are 0..{len(VOC_CLASSES) - 1} and {VOID} is void."
        )
    is_object = (objects > 0) & (objects < VOID)
    background = (classes == 0) & (objects == 0)
    ids = np.where(is_object, objects, np.where(background, BACKGROUND_SEGMENT, 0)).astype(np.int64)
    category_of = {BACKGROUND_SEGMENT: VOC_BACKGROUND_ID}
    contradicted = int(((objects == 0) & (classes > 0) & (classes < VOID)).sum())
    for number in np.unique(objects[is_object]).tolist():
        counts = np.bincount(classes[objects == number], minlength=256)
        category = int(counts[1:VOID].argmax()) + 1
        contradicted += int(counts.sum() - counts[category])
        if not counts[category]:  # an object of no class at all
            ids[objects == number] = 0
        category_of[number] = category
    if contradicted > CONTRADICTED * classes.size:
        raise DataError(f"{class_map} and {object_map} contradict each other at {contradicted} pixels; are they one pair?")
    return Labelled(ids, category_of)


def read_sbd(path: Path) -> Labelled:
    """An SBD instance file (``GTinst`` with ``Segmentation`` and ``Categories``): a segment per object and the background.

    Raises:
        DataError: the file is missing, broken, no instance file of SBD, or contradicts itself.
    """
    try:
        with open(path, "rb") as file:
            ground_truth = loadmat(file)["GTinst"][0, 0]
        objects = np.asarray(ground_truth["Segmentation"]).astype(np.int64)
        categories = np.asarray(ground_truth["Categories"]).astype(np.int64).ravel()
    except FileNotFoundError:
        raise DataError(f"The SBD instance file {path} does not exist.") from None
    except _UNREADABLE as error:
        reason = "it has no GTinst" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DataError(f"The SBD instance file {path} cannot be read, it may be truncated: {reason}.") from error
    if objects.ndim != 2 or not objects.size:
        raise DataError(f"The SBD instance file {path} has a Segmentation of shape {objects.shape}, not a map.")
    if objects.min() < 0 or objects.max() > len(categories) or objects.max() >= VOID:
        raise DataError(f"The SBD instance file {path} has an object {objects.max()}, but {len(categories)} Categories.")
    if categories.size and not 1 <= categories.min() <= categories.max() < len(VOC_CLASSES):
        raise DataError(
            f"The SBD instance file {path} has Categories from {categories.min()} to {categories.max()}; "
            f"they go from 1 to {len(VOC_CLASSES) - 1}."
        )
    category_of = {BACKGROUND_SEGMENT: VOC_BACKGROUND_ID, **{i: c for i, c in enumerate(categories.tolist(), 1)}}
    return Labelled(np.where(objects > 0, objects, BACKGROUND_SEGMENT), category_of)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
