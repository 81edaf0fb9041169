"""The classes of data sets that people download, in the order of the values of their label maps."""

from __future__ import annotations

from collections.abc import Sequence

from methods.base.types import Categories, Category

BACKGROUND = "background"

VOC_CLASSES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of PASCAL VOC and SBD: values 0 to 20; 255 is void."""

VOC_BACKGROUND_ID = 21
"""Category id of VOC's background; things keep their value, 1 to 20, and come first."""

CITYSCAPES_STUFF = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky",
}  # fmt: skip
CITYSCAPES_THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Label ids of the 19 classes that count; in ascending order they are the train ids 0 to 18."""

CITYSCAPES_LABELS = range(34)
"""All label ids that occur in files; those of no class above are void."""


def voc_categories() -> Categories:
    """20 things of ids 1 to 20, then the background."""
    things = [Category(value, name, True) for value, name in enumerate(VOC_CLASSES) if value]
    return Categories([*things, Category(VOC_BACKGROUND_ID, BACKGROUND, False)])


def cityscapes_categories() -> Categories:
    """8 things and 11 stuff classes; the ids are Cityscapes' label ids."""
    things = [Category(i, name, True) for i, name in CITYSCAPES_THINGS.items()]
    return Categories(things + [Category(i, name, False) for i, name in CITYSCAPES_STUFF.items()])


CLASS_LISTS = {"voc2012": voc_categories, "cityscapes": cityscapes_categories}


def ids_by_value(categories: Categories, order: Sequence[str] | None = None) -> list[int]:
    """Category id of each value ``0 .. K - 1`` of a label map.

    Args:
        categories: of the data set.
        order: names of the classes in the order of their values; default: a class named "background" first, then by
            ascending category id, which is the order of VOC, of Cityscapes' train ids and of `benchmark.data.label_maps`.

    Raises:
        ValueError: ``order`` does not have each class once.
    """
    ids = {category.name: category.id for category in categories}
    if order is None:
        return sorted(ids.values(), key=lambda i: (i != ids.get(BACKGROUND), i))
    if sorted(order) != sorted(ids):
        raise ValueError(f"values= must list each class once: {', '.join(sorted(ids))}; it has {', '.join(order)}.")
    return [ids[name] for name in order]
