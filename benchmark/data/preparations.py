"""The data sets that can be prepared: which files of what people download make which images.

Numbers are those of the published splits; lists are read from the archives or made from them, never written here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmark.data import voc
from benchmark.data.cityscapes import read_cityscapes
from benchmark.data.class_lists import cityscapes_categories, voc_categories
from benchmark.data.coco import CocoPanoptic
from benchmark.data.conversion import Check, Conversion, Done, Labelled, link, write_content, write_json
from benchmark.data.errors import DataError
from benchmark.data.files import read_json, replacing, storing
from benchmark.data.prepare import Files, Preparation, Split, found_folder
from methods.base.types import Categories

VOC_ARCHIVE = "the archive VOCtrainval_11-May-2012.tar of PASCAL VOC 2012"
SBD_ARCHIVE = "the archive benchmark.tgz of SBD (Semantic Boundaries Dataset)"
COCO_ARCHIVES = {
    "masks": "the archive panoptic_annotations_trainval2017.zip of COCO, which has panoptic_{split}2017.zip inside",
    "images": "the archive {split}2017.zip of COCO",
}
CITYSCAPES_ARCHIVES = {
    "leftImg8bit": "the archive leftImg8bit_trainvaltest.zip of Cityscapes",
    "gtFine": "the archive gtFine_trainvaltest.zip of Cityscapes",
}

VOC_LISTED = {"train": 1464, "val": 1449}
SBD_LISTED = {"train": 8498, "val": 2857}
TRAIN_AUG = 10582
COCO_IMAGES = {"train": 118287, "val": 5000}
COCO_CLASSES = (80, 53)
"""Things and stuff."""
CITYSCAPES_IMAGES = {"train": 2975, "val": 500}

Named = Mapping[str, list[str]]
"""Split -> names."""


def plan_voc(source: Path, sbd: Path | None, out: Path) -> Preparation:
    """VOC 2012 with SBD: train_aug (SBD's images and VOC's training images without VOC's validation images) and val.

    Args:
        source: VOCdevkit/VOC2012 or a folder above it.
        sbd: SBD's folder; without it the training images are VOC's alone.
        out: the folder to make.

    Raises:
        DataError: a folder or list is missing or unusable.
    """
    root = found_folder(source, "source", ("", "VOC2012", "VOCdevkit/VOC2012"), "ImageSets", VOC_ARCHIVE)
    lists = {s: voc.read_names(root / "ImageSets" / "Segmentation" / f"{s}.txt", "VOC list") for s in VOC_LISTED}
    if both := set(lists["train"]) & set(lists["val"]):
        raise DataError(f"{root / 'ImageSets'} has {min(both)} in both train.txt and val.txt; unpack {VOC_ARCHIVE} again.")
    inst, sbd_lists = _sbd(sbd)
    names = {
        "train": voc.train_aug(lists["train"], lists["val"], [name for listed in sbd_lists.values() for name in listed]),
        "val": sorted(lists["val"]),
    }
    differs = {
        "train": _other_counts("VOC 2012", lists, VOC_LISTED, "train") + _other_counts("SBD", sbd_lists, SBD_LISTED),
        "val": _other_counts("VOC 2012", lists, VOC_LISTED, "val"),
    }
    if inst is None:
        differs["train"].append(f"Without sbd=FOLDER ({SBD_ARCHIVE}) the training images are those of VOC alone.")
    if len(names["train"]) != TRAIN_AUG:
        differs["train"].append(f"Together these are {len(names['train'])} training images, train_aug has {TRAIN_AUG}.")
    by_voc = {*lists["train"], *lists["val"]}
    splits = []
    for split, expected in (("train", TRAIN_AUG), ("val", VOC_LISTED["val"])):
        files = Files()
        tasks = [_voc_task(name, root, None if name in by_voc else inst, out, split) for name in names[split]]
        kept = [task for task in tasks if files.have(task.inputs, _voc_archive)]
        what = "PASCAL VOC 2012 with SBD, train_aug" if split == "train" else "PASCAL VOC 2012, val"
        splits.append(Split(split, kept, expected, differs[split] + files.sentences(), what))
    return Preparation("voc", out, splits, partial(_publish, out, voc_categories()))


def _sbd(sbd: Path | None) -> tuple[Path | None, Named]:
    """The folder of instance files and the lists."""
    if sbd is None:
        return None, {}
    folder = found_folder(sbd, "sbd", ("", "dataset", "benchmark_RELEASE/dataset"), "inst", SBD_ARCHIVE)
    return folder / "inst", {s: voc.read_names(folder / f"{s}.txt", "SBD list") for s in SBD_LISTED}


def _voc_archive(path: Path) -> str:
    return SBD_ARCHIVE if path.suffix == ".mat" else VOC_ARCHIVE


def _voc_task(name: str, root: Path, inst: Path | None, out: Path, split: str) -> Conversion:
    read: Callable[..., Labelled]
    if inst is None:
        folders, read = ("SegmentationClass", "SegmentationObject"), voc.read_voc
        annotations = tuple(root / folder / f"{name}.png" for folder in folders)
    else:
        annotations, read = (inst / f"{name}.mat",), voc.read_sbd
    # a number where the name is one, because many tools expect it
    identity = int(name.replace("_", "")) if re.fullmatch(r"\d{4}_\d{6}", name) else name
    image = root / "JPEGImages" / f"{name}.jpg"
    return Conversion(name, identity, f"{name}.jpg", image, annotations, read, out / split, out / f"panoptic_{split}")


def plan_cityscapes(source: Path, out: Path) -> Preparation:
    """Cityscapes' fine annotations: train and val; the images are linked as folders.

    Raises:
        DataError: a folder is missing.
    """
    images_root, masks_root = (
        found_folder(source, "source", ("",), kind, archive) / kind for kind, archive in CITYSCAPES_ARCHIVES.items()
    )
    splits = []
    for split, expected in CITYSCAPES_IMAGES.items():
        images, masks = images_root / split, masks_root / split
        found = sorted(path.relative_to(images) for path in images.glob("*/*_leftImg8bit.png"))
        tasks = [_cityscapes_task(path, images, masks, out / f"panoptic_{split}") for path in found]
        files = Files()
        kept = [task for task in tasks if files.have(task.annotations, lambda _: CITYSCAPES_ARCHIVES["gtFine"])]
        differs = files.sentences()
        if len(found) != expected:
            differs.insert(0, f"{images} has {len(found)} images, published are {expected}; they are in "
                              f"{CITYSCAPES_ARCHIVES['leftImg8bit']}.")  # fmt: skip
        splits.append(Split(split, kept, expected, differs, f"Cityscapes, fine annotations, {split}"))

    def publish(split: Split, done: Done) -> None:
        link(images_root / split.name, out / split.name)
        _publish(out, cityscapes_categories(), split, done)

    return Preparation("cityscapes", out, splits, publish)


def _cityscapes_task(path: Path, images: Path, annotations: Path, masks: Path) -> Conversion:
    stem = path.as_posix().removesuffix("_leftImg8bit.png")
    name = Path(stem).name
    kinds = tuple(annotations / f"{stem}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds"))
    return Conversion(name, name, path.as_posix(), images / path, kinds, read_cityscapes, None, masks)


def plan_coco(source: Path, out: Path) -> Preparation:
    """COCO 2017 panoptic, which has the format already: everything is checked and linked.

    Where images are left out, the JSON is written without them.

    Raises:
        DataError: a folder is missing, or a JSON is malformed or contradicts itself.
    """
    root = found_folder(source, "source", ("",), "annotations", COCO_ARCHIVES["masks"].replace("{split}", "train"))
    found = {split: _coco_folders(root, split) for split in COCO_IMAGES}
    splits = []
    for split, expected in COCO_IMAGES.items():
        archives = {kind: text.replace("{split}", split) for kind, text in COCO_ARCHIVES.items()}
        paths = found[split]
        lacking = [f"{path} does not exist; it is in {archives['images' if kind == 'images' else 'masks']}."
                   for kind, path in paths.items() if not path.exists()]  # fmt: skip
        tasks, differs = ([], lacking) if lacking else _coco_tasks(paths, archives, expected)
        splits.append(Split(split, tasks, expected, differs, f"COCO 2017 panoptic, {split}"))

    def publish(split: Split, done: Done) -> None:
        paths = found[split.name]
        link(paths["images"], out / split.name)
        link(paths["masks"], out / f"panoptic_{split.name}")
        content, target = read_json(paths["json"], "panoptic JSON"), out / f"panoptic_{split.name}.json"
        if len(done.results) == len(content["images"]):
            return link(paths["json"], target)
        kept = {task.record.id for task in split.tasks if isinstance(task, Check) and task.name in done.results}
        content["images"] = [image for image in content["images"] if image["id"] in kept]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        write_content(target, content)

    return Preparation("coco", out, splits, publish)


def _coco_folders(root: Path, split: str) -> dict[str, Path]:
    """The JSON, the folder of PNG files and that of images; the usual place of one that is not there."""
    places = {
        "json": [root / "annotations" / f"panoptic_{split}2017.json"],
        "masks": [root / "annotations" / f"panoptic_{split}2017", root / f"panoptic_{split}2017"],
        "images": [root / f"{split}2017", root / "images" / f"{split}2017"],
    }
    return {kind: next((path for path in paths if path.exists()), paths[0]) for kind, paths in places.items()}


def _coco_tasks(paths: Mapping[str, Path], archives: Mapping[str, str], expected: int) -> tuple[list[Check], list[str]]:
    source = CocoPanoptic(paths["json"], paths["masks"], paths["images"], "coco")
    differs = []
    if len(source.records) != expected:
        differs.append(f"{paths['json']} lists {len(source.records)} images, published are {expected}.")
    classes = (source.categories.num_things, source.categories.num_stuff)
    if classes != COCO_CLASSES:
        differs.append(f"{paths['json']} has {classes[0]} things and {classes[1]} stuff classes, published are 80 and 53.")
    files, tasks = Files(), []
    for record in source.records:
        listed = source.listed(record)
        image, png = paths["images"] / record.file_name, paths["masks"] / listed["file_name"]
        if files.have((image, png), lambda path: archives["masks" if path.suffix == ".png" else "images"]):
            tasks.append(Check(record.file_name, record, image, png, listed["segments_info"], paths["json"]))
    return tasks, differs + files.sentences()


def _other_counts(what: str, lists: Named, published: Mapping[str, int], *splits: str) -> list[str]:
    """A sentence for each list (of these splits, default all) that has another length than published."""
    return [
        f"The list {split}.txt of {what} names {len(lists[split])} images, published are {published[split]}."
        for split in splits or lists
        if len(lists[split]) != published[split]
    ]


def _publish(out: Path, categories: Categories, split: Split, done: Done) -> None:
    """Write the list of names, then the JSON of the images that were converted."""
    tasks = [task for task in split.tasks if isinstance(task, Conversion) and task.name in done.results]
    with storing(out / f"{split.name}.txt"), replacing(out / f"{split.name}.txt") as file:
        file.write("".join(f"{task.name}\n" for task in tasks).encode())
    description = f"{split.description}: {len(tasks)} of {split.expected} images"
    write_json(out / f"panoptic_{split.name}.json", categories, tasks, done.results, description)
