"""Random panoptic maps with void, crowd and imperfect predictions, and hotcoco's panoptic evaluation of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco.panoptic import PanopticEval
from PIL import Image

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 7, "name": "dog", "isthing": 1},
    {"id": 90, "name": "grass", "isthing": 0},
    {"id": 200, "name": "sky", "isthing": 0},
]


def encode(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids -> (H, W, 3) uint8, id = R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def segments_of(ids: np.ndarray, category_of: dict[int, int], crowd: set[int] = frozenset()) -> list[dict[str, Any]]:
    """COCO segments_info of the ids that occur in a map."""
    return [
        {"id": int(i), "category_id": category_of[int(i)], "area": int((ids == i).sum()), "bbox": [0, 0, 1, 1],
         "iscrowd": int(i in crowd)}
        for i in np.unique(ids) if i
    ]  # fmt: skip


def random_map(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Overlapping rectangles with large and small ids on void."""
    ids = np.zeros(size, dtype=np.int64)
    for i in rng.choice(2**24 - 1, count, replace=False) + 1:
        y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        height, width = rng.integers(3, size[0]), rng.integers(3, size[1])
        ids[y : y + height, x : x + width] = i
    return ids


def random_sample(rng: np.random.Generator, size: tuple[int, int] = (14, 18)) -> dict[str, Any]:
    """A target with void and crowd (also two crowds of one category, and areas that differ from the count) and a
    prediction that is the target moved, with some segments relabelled, cut in two or erased."""
    target = random_map(rng, size, int(rng.integers(1, 8)))
    names = [c["id"] for c in CATEGORIES]
    category_of = {int(i): int(rng.choice(names)) for i in np.unique(target)}
    crowd = {i for i in category_of if rng.random() < 0.25}
    target_segments = segments_of(target, category_of, crowd)
    rng.shuffle(target_segments)
    if rng.random() < 0.2:
        for segment in target_segments:
            segment["area"] += int(rng.integers(0, 4))
    prediction = np.roll(target, rng.integers(-2, 3, size=2), axis=(0, 1))
    if rng.random() < 0.5:
        prediction = np.where(random_map(rng, size, 2) > 0, random_map(rng, size, 3), prediction)
    cut = rng.random() < 0.3
    prediction = np.where((prediction > 0) & cut & (np.arange(size[1]) >= size[1] // 2), prediction ^ 1, prediction)
    predicted_category = {
        int(i): category_of.get(int(i), category_of.get(int(i) ^ 1, 3)) if rng.random() < 0.8 else int(rng.choice(names))
        for i in np.unique(prediction)
    }
    return {
        "prediction_ids": prediction,
        "prediction_segments": segments_of(prediction, predicted_category),
        "target_ids": target,
        "target_segments": target_segments,
    }


def oracle(folder: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """hotcoco's panoptic evaluation (panopticapi's numbers) of samples, through COCO files in ``folder``."""
    for kind in ("target", "prediction"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        annotations, images = [], []
        for index, sample in enumerate(samples):
            ids = sample[f"{kind}_ids"]
            Image.fromarray(encode(ids)).save(folder / kind / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
            annotations.append(
                {"image_id": index, "file_name": f"{index}.png", "segments_info": sample[f"{kind}_segments"]}
            )
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / f"{kind}.json").write_text(json.dumps(content))
    evaluation = PanopticEval(
        str(folder / "target.json"), str(folder / "prediction.json"),
        gt_folder=str(folder / "target"), pred_folder=str(folder / "prediction"),
    )  # fmt: skip
    evaluation.evaluate()
    return evaluation.results()
