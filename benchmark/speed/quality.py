"""Section ``pq``: panoptic quality from PNG files, against hotcoco and the rule written with NumPy over all pixels."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.build import build_model
from benchmark.configs import compose_run
from benchmark.data.panoptic_png import read_panoptic_png, write_panoptic_png
from benchmark.data.scenes import CATEGORIES
from benchmark.metrics import PanopticQuality
from benchmark.speed.harness import Agreement, Settings, compare, interleaved, pinned
from benchmark.speed.inputs import colours, panoptic_pair
from benchmark.speed.plain import panoptic_sums, plain_ids
from benchmark.speed.rows import COMPARISONS, OURS, Table, comparison_row, error_row
from benchmark.speed.targets import EVALUATION, QUALITY_HOTCOCO, QUALITY_PANOPTICAPI
from methods.base.model import Model

SIZE = (375, 500)
IMAGES = 24
EVALUATED = 8
CATEGORY_DICTS = CATEGORIES.to_coco()
EVALUATION_WORDS = (("scale=demo",), ("scale=mini", "head=panoptic_segformer_tiny"))
"""Networks whose prediction the metric is compared with, with their heads."""

Sums = dict[str, dict[str, float]]


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """The metric on files, and its part in evaluation."""
    with tempfile.TemporaryDirectory() as folder, pinned(1):
        yield _on_files(Path(folder), settings)
    yield _in_evaluation(settings)


class Files:
    """Targets and predictions as COCO panoptic files in a folder, and the three ways to score them."""

    def __init__(self, folder: Path, images: int = IMAGES, size: tuple[int, int] = SIZE):
        self.folder = folder
        self.pairs = [panoptic_pair(size, seed) for seed in range(images)]
        for kind, which in (("target", 0), ("prediction", 1)):
            (folder / kind).mkdir()
            annotations, listed = [], []
            for number, pair in enumerate(self.pairs):
                name = f"{number}.png"
                write_panoptic_png(folder / kind / name, pair[which]["ids"])
                listed.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
                annotations.append({"image_id": number, "file_name": name, "segments_info": pair[which]["segments_info"]})
            content = {"images": listed, "annotations": annotations, "categories": CATEGORY_DICTS}
            (folder / f"{kind}.json").write_text(json.dumps(content))

    def ours(self) -> Sums:
        """The metric of this project."""
        return _scored(self._images(read_panoptic_png))

    def plain(self) -> Sums:
        """`benchmark.speed.plain.panoptic_sums`."""
        return panoptic_sums(self._images(plain_ids), CATEGORY_DICTS)

    def hotcoco(self) -> Sums:
        """hotcoco, which reads the JSON files as well: some kilobytes here."""
        from hotcoco.panoptic import PanopticEval

        target, prediction = self.folder / "target", self.folder / "prediction"
        evaluation = PanopticEval(
            f"{target}.json", f"{prediction}.json", gt_folder=str(target), pred_folder=str(prediction)
        )
        evaluation.evaluate()
        per_class = evaluation.results()["per_class"]
        return {c["name"]: {key: per_class[c["id"]][key] for key in ("iou", "tp", "fp", "fn")} for c in CATEGORY_DICTS}

    def in_memory(self) -> Iterator[tuple]:
        """Arguments of an update for each image, without reading files."""
        for target, prediction in self.pairs:
            yield prediction["ids"], prediction["segments_info"], target["ids"], target["segments_info"]

    def _images(self, read: Callable[[Path], np.ndarray]) -> Iterator[tuple]:
        for number, (target, prediction) in enumerate(self.pairs):
            ids = [read(self.folder / kind / f"{number}.png") for kind in ("prediction", "target")]
            yield ids[0], prediction["segments_info"], ids[1], target["segments_info"]


def _scored(images: Iterator[tuple]) -> Sums:
    metric = PanopticQuality(CATEGORY_DICTS)
    for image in images:
        metric.update(*image)
    return metric.state()


def same_sums(ours: Sums, other: Sums) -> Agreement:
    """Equal counts in every category, and sums of IoU that differ by rounding only."""
    counts = sum(abs(ours[name][key] - other[name][key]) for name in other for key in ("tp", "fp", "fn"))
    iou = max(abs(ours[name]["iou"] - other[name]["iou"]) for name in other)
    return Agreement(counts == 0 and iou < 1e-9, {"different counts": float(counts), "difference of IoU sums": iou})


def _on_files(folder: Path, settings: Settings) -> Table:
    files = Files(folder)
    table = Table(
        f"{IMAGES} images of {SIZE[1]} x {SIZE[0]}", COMPARISONS,
        "Two PNG files an image are read and scored, one thread each (hotcoco with RAYON_NUM_THREADS=1). panopticapi's "
        "algorithm: `numpy.unique` over all pixels of both maps and of their pairs.",
    )
    settings.tell("panoptic quality, files")
    case, budget, device = "reading and scoring", settings.budget(6), settings.device
    if find_spec("hotcoco") is None:
        table.rows.append(error_row(case, "hotcoco is not installed; pip install '.[test]'", "hotcoco"))
    else:
        table.rows.append(
            compare(case, "hotcoco", files.ours, files.hotcoco, same_sums, budget, device, QUALITY_HOTCOCO)
        )
    algorithm = "panopticapi's algorithm"
    table.rows.append(compare(case, algorithm, files.ours, files.plain, same_sums, budget, device, QUALITY_PANOPTICAPI))
    table.rows.append(compare(
        "scoring maps in memory", algorithm, lambda: _scored(files.in_memory()),
        lambda: panoptic_sums(files.in_memory(), CATEGORY_DICTS), same_sums, budget, device, QUALITY_PANOPTICAPI,
    ))  # fmt: skip
    return table


def _in_evaluation(settings: Settings) -> Table:
    table = Table(
        "Evaluation of an image", COMPARISONS,
        "The update of the metric with the maps of an image, against the prediction of that image by a network with random "
        f"weights on {settings.device.type}.",
    )
    for words in EVALUATION_WORDS:
        config = compose_run([*words, "model.backbone.pretrained=false"])
        side = config["input"]["short"]
        settings.tell(f"evaluation, {' '.join(words)}")
        torch.manual_seed(0)
        model = build_model(config, CATEGORIES).to(settings.device).eval()
        table.rows.append(_prediction_row(f"{side} x {side}, {' '.join(words)}", model, side, settings))
    return table


def _prediction_row(case: str, model: Model, side: int, settings: Settings) -> dict[str, Any]:
    pairs = [panoptic_pair((side, side), seed) for seed in range(EVALUATED)]
    images = [colours((side, side), seed).to(settings.device) for seed in range(EVALUATED)]
    metric = PanopticQuality(CATEGORY_DICTS)

    def update() -> None:
        for target, prediction in pairs:
            metric.update(prediction["ids"], prediction["segments_info"], target["ids"], target["segments_info"])

    def predict() -> None:
        for image in images:
            model.predict([image])[0].segment_ids.cpu()

    update(), predict()
    seconds = interleaved({OURS: update, "predict": predict}, settings.budget(6), settings.device)
    per_image = {name: [value / EVALUATED for value in values] for name, values in seconds.items()}
    return comparison_row(case, "predict", per_image, {}, EVALUATION)
