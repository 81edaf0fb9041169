"""Cityscapes' fine annotations in panoptic terms, with the segment ids of its own panoptic files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data.class_lists import CITYSCAPES_LABELS, CITYSCAPES_STUFF, CITYSCAPES_THINGS
from benchmark.data.conversion import Labelled
from benchmark.data.errors import DataError
from benchmark.data.images import open_image
from benchmark.data.label_maps import read_label_map

INSTANCES_FROM = 1000
"""An instance's id is 1000 times its label plus its number; smaller ids are labels without instances."""


def read_cityscapes(label_map: Path, instance_map: Path) -> Labelled:
    """A ``labelIds`` and an ``instanceIds`` PNG: a segment per instance and per stuff class; the rest is void.

    A label with instances whose pixels have none (a group, such as many persons) is a crowd region, as in Cityscapes' own
    conversion.

    Raises:
        DataError: a file is missing, broken or of another kind, has unknown labels, or the two do not belong together.
    """
    labels, instances = read_label_map(label_map), read_instance_map(instance_map)
    if labels.shape != instances.shape:
        raise DataError(
            f"{label_map} and {instance_map} have different sizes: {labels.shape[1]} x {labels.shape[0]} and "
            f"{instances.shape[1]} x {instances.shape[0]}."
        )
    found = np.unique(instances).tolist()
    label_of = {i: i // INSTANCES_FROM if i >= INSTANCES_FROM else i for i in found}
    unknown = [i for i, label in label_of.items() if label not in CITYSCAPES_LABELS]
    if unknown:
        raise DataError(f"{instance_map} has the instance id {unknown[0]}, which belongs to no label of Cityscapes.")
    different = int((labels != np.where(instances >= INSTANCES_FROM, instances // INSTANCES_FROM, instances)).sum())
    if different:
        raise DataError(
            f"{label_map} and {instance_map} contradict each other at {different} pixels; are they one pair, "
            "and are these labelIds, not labelTrainIds?"
        )
    category_of = {i: label for i, label in label_of.items() if label in CITYSCAPES_STUFF or label in CITYSCAPES_THINGS}
    crowd = frozenset(i for i in category_of if i < INSTANCES_FROM and i in CITYSCAPES_THINGS)
    return Labelled(np.where(np.isin(instances, list(category_of)), instances, 0), category_of, crowd)


def read_instance_map(path: Path) -> np.ndarray:
    """(H, W) int64 instance ids of a 16-bit grayscale PNG; DataError if it is missing, broken or of another kind."""
    image = open_image(path, "instance map")
    if not image.mode.startswith("I"):
        raise DataError(f"The instance map {path} has mode {image.mode}, instance ids need 16 bits of grayscale.")
    return np.asarray(image).astype(np.int64)
