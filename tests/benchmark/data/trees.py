"""Small data sets in the layouts that people download: real palette PNG files, real MATLAB files, real 16-bit PNG files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from benchmark.data import preparations

SIZE = (20, 26)
"""Height and width of every image."""

VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2008_000002"]
SBD_TRAIN, SBD_VAL = ["2007_000032", "2008_000007", "2008_000008"], ["2007_000033", "2009_000001"]
TRAIN_AUG = ["2007_000032", "2007_000039", "2008_000007", "2008_000008", "2009_000001"]
"""What VOC_TRAIN, SBD_TRAIN and SBD_VAL make without VOC_VAL."""


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def palette_png(path: Path, values: np.ndarray) -> None:
    """As VOC has them: mode P with VOC's first colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [90] * 756)
    image.save(path)


def voc_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes and objects: a person beside a person, a horse, each with a void contour where it meets the background."""
    classes, objects = np.zeros(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
    boxes = [(15, (3, 9), (2, 8)), (15, (3, 9), (8, 14)), (13, (11, 18), (4, 20))]
    for number, (category, rows, cols) in enumerate(boxes, 1):
        for shape, inner in ((255, 0), (None, 1)):
            window = np.s_[rows[0] + inner : rows[1] - inner, cols[0] + inner : cols[1] - inner + seed % 2]
            classes[window] = category if shape is None else 255
            objects[window] = number if shape is None else 255
    return classes, objects


def sbd_maps() -> tuple[np.ndarray, list[int]]:
    """Objects and their classes: a cat (8) and a bird (3), no void."""
    objects = np.zeros(SIZE, dtype=np.uint8)
    objects[2:10, 3:12], objects[10:16, 14:22] = 1, 2
    return objects, [8, 3]


def sbd_mat(path: Path, objects: np.ndarray, categories: list[int]) -> None:
    """GTinst as SBD has it: a struct of Segmentation, Boundaries (a cell array) and Categories (a column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((len(categories), 1), dtype=object)
    for i in range(len(categories)):
        boundaries[i, 0] = np.zeros(objects.shape, dtype=np.uint8)
    column = np.array(categories, dtype=np.uint8).reshape(-1, 1)
    savemat(path, {"GTinst": {"Segmentation": objects, "Boundaries": boundaries, "Categories": column}}, do_compression=True)


def voc_tree(root: Path) -> Path:
    """VOCdevkit/VOC2012 below ``root``; the folder that holds VOCdevkit is returned."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for seed, name in enumerate(VOC_TRAIN + VOC_VAL):
        classes, objects = voc_maps(seed)
        palette_png(folder / "SegmentationClass" / f"{name}.png", classes)
        palette_png(folder / "SegmentationObject" / f"{name}.png", objects)
    for seed, name in enumerate(sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})):
        photograph(folder / "JPEGImages" / f"{name}.jpg", seed)
    return root


def sbd_tree(root: Path) -> Path:
    folder = root / "benchmark_RELEASE" / "dataset"
    folder.mkdir(parents=True)
    for split, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            objects, categories = sbd_maps()
            sbd_mat(folder / "inst" / f"{name}.mat", objects, categories)
            (folder / "cls").mkdir(exist_ok=True)
            classes = np.array([0, *categories], dtype=np.uint8)[objects]
            savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": classes, "CategoriesPresent": categories}})
    return folder.parent


def publish_as(monkeypatch, **numbers) -> None:
    """Take a small tree for the published data set: it has the published numbers then."""
    for name, value in numbers.items():
        monkeypatch.setattr(preparations, name, value)


def small_voc_is_whole(monkeypatch) -> None:
    publish_as(monkeypatch, VOC_LISTED={"train": 2, "val": 2}, SBD_LISTED={"train": 3, "val": 2}, TRAIN_AUG=5)


def cityscapes_maps() -> tuple[np.ndarray, np.ndarray]:
    """Labels and instance ids: road, sky, two cars, a group of persons, the ego vehicle (1, not a class)."""
    labels = np.full(SIZE, 7, dtype=np.uint8)
    labels[:6] = 23
    instances = labels.astype(np.uint16)
    cars = [(26, 26000, np.s_[8:12, 2:8]), (26, 26001, np.s_[8:12, 8:14])]
    for label, instance, window in [*cars, (24, 24, np.s_[7:10, 16:22]), (1, 1, np.s_[18:, :])]:
        labels[window], instances[window] = label, instance
    return labels, instances


def cityscapes_tree(root: Path, per_split: int = 2) -> Path:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        for number in range(per_split):
            stem = f"{city}/{city}_{number:06d}_000019"
            photograph(root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png", number)
            labels, instances = cityscapes_maps()
            folder = root / "gtFine" / split / city
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(root / "gtFine" / split / f"{stem}_gtFine_labelIds.png")
            Image.fromarray(instances).save(root / "gtFine" / split / f"{stem}_gtFine_instanceIds.png")
    return root


def coco_tree(root: Path, per_split: int = 3) -> Path:
    """COCO 2017 panoptic's layout with three classes; written without the project's writer."""
    categories = [{"id": 1, "name": "person", "isthing": 1}, {"id": 3, "name": "car", "isthing": 1},
                  {"id": 200, "name": "rug-merged", "isthing": 0}]  # fmt: skip
    for split in ("train", "val"):
        content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
        for number in range(1, per_split + 1):
            name, ids = f"{number:012d}", np.full(SIZE, 70000)
            ids[4:10, 3:9], ids[4:10, 9:15], ids[0] = 300, 7, 0
            photograph(root / f"{split}2017" / f"{name}.jpg", number)
            folder = root / "annotations" / f"panoptic_{split}2017"
            folder.mkdir(parents=True, exist_ok=True)
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(colours).save(folder / f"{name}.png")
            segments = [{"id": i, "category_id": c, "area": int((ids == i).sum()), "bbox": box, "iscrowd": 0}
                        for i, c, box in ((300, 1, [3, 4, 6, 6]), (7, 3, [9, 4, 6, 6]), (70000, 200, [0, 1, 26, 19]))]
            content["images"].append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
            content["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))
    return root


def small_coco_is_whole(monkeypatch) -> None:
    publish_as(monkeypatch, COCO_IMAGES={"train": 3, "val": 3}, COCO_CLASSES=(2, 1))
