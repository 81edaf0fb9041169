"""How good exported labels are where masks are known: read back from their files and compared with these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmark.data.coco import CocoPanoptic
from benchmark.data.errors import DataError
from benchmark.data.files import read_json
from benchmark.data.panoptic_png import read_panoptic_png
from benchmark.export.folder import ExportFolder
from benchmark.label_quality import LabelQuality
from benchmark.metrics import PanopticQuality

GROUPS = ("pq", "sq", "rq", "pq_th", "pq_st")
IDENTITY = ("instance_iou", "box_iou", "thing_accuracy", "ambiguous_accuracy", "stuff_accuracy")


def open_truth(path: Path, folder: ExportFolder) -> CocoPanoptic:
    """Ground truth in COCO panoptic format: ``NAME.json`` with its PNG files in ``NAME/``.

    DataError if it cannot be read, or has other categories than the labels.
    """
    truth = CocoPanoptic(path, path.with_suffix(""), path.parent, path.stem)
    if truth.categories != folder.categories:
        raise DataError(f"The categories of {path} are not those of the run, so its labels cannot be measured with it.")
    return truth


def measure(
    folder: ExportFolder, names: Mapping[str, Any], truth: CocoPanoptic, drawn_from: str, show: Callable[[int], None]
) -> dict[str, Any]:
    """Panoptic quality of the labels and, where their points were drawn from this truth, quality by identity.

    Args:
        folder: of the labels.
        names: file names of the images that have labels.
        truth: masks; images are matched by file name.
        drawn_from: fingerprint of the ground truth that the points were drawn from.
        show: called with the number of images done.

    Returns:
        ``images`` and the values of `PanopticResult` and `LabelQualityResult` that are known, in [0, 1].
    """
    panoptic, identity = PanopticQuality(folder.categories.to_coco()), LabelQuality(folder.categories.to_coco())
    known = drawn_from == truth.fingerprint
    images = 0
    for record in truth.records:
        if record.file_name not in names:
            continue
        piece = read_json(folder.piece_file(record.file_name), "piece")
        ids, annotation = read_panoptic_png(folder.maps(record.file_name)["panoptic"]), truth.read_annotation(record)
        panoptic.update(ids, piece["segments"], annotation.ids, annotation.segments)
        if known:
            targets = [(segment, category) for segment, category in piece["targets"]]
            identity.update(record.id, ids, targets, annotation.ids, annotation.segments)
        images += 1
        show(images)
    if not images:
        raise DataError(f"{truth.json_path} has none of the labelled images; images are matched by file name.")
    result = panoptic.compute()
    values = {"images": images, **{key: getattr(result, key) for key in GROUPS}}
    if known:
        found = identity.compute()
        values |= {"instances": found.instances, **{key: getattr(found, key) for key in IDENTITY}}
    return values
