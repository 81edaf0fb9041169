"""Inputs of realistic size and structure for every measurement, made from synthetic scenes; the same on every machine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmark.data.coco import write_panoptic
from benchmark.data.images import Annotation, ImageRecord, describe_segments
from benchmark.data.scenes import CATEGORIES, SceneRecipe, draw_scene
from methods.ops.edges import path_costs
from methods.ops.geodesic import geodesic_distances

EPSILON = 1e-3
"""Entropic regularisation of Point2Mask, in units of path costs as they are."""


@lru_cache(maxsize=64)
def scene(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """(h, w, 3) uint8 RGB, (h, w) int64 segment ids and the category of each: the middle of a square scene. Read only."""
    side = max(size)
    image, ids, category_of = draw_scene(SceneRecipe(size=side, stuff_only=0.0), np.random.default_rng([seed, side]))
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    window = slice(top, top + size[0]), slice(left, left + size[1])
    present = set(np.unique(ids[window]).tolist())
    return image[window], ids[window], {i: category for i, category in category_of.items() if i in present}


def colours(size: tuple[int, int], seed: int) -> Tensor:
    """(3, h, w) float32 RGB in [0, 1] of a scene, every value a whole number of 256ths."""
    return torch.from_numpy(scene(size, seed)[0].astype(np.float32)).permute(2, 0, 1).contiguous() / 256


def probabilities(size: tuple[int, int], classes: int, seed: int) -> Tensor:
    """(classes, h, w) float32 class probabilities of a scene as a network gives them: blurred at 1/4, and noisy."""
    _, ids, category_of = scene(size, seed)
    labels = np.zeros(size, dtype=np.int64)
    for segment, category in category_of.items():
        labels[ids == segment] = CATEGORIES.label_of(category) % classes
    hot = functional.one_hot(torch.from_numpy(labels), classes).permute(2, 0, 1).float()[None]
    coarse = functional.adaptive_avg_pool2d(hot, [max(1, side // 4) for side in size])
    smooth = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0]
    noise = torch.randn(classes, *size, generator=torch.Generator().manual_seed(seed))
    return (6 * smooth + 0.3 * noise).softmax(dim=0)


def grid_costs(size: tuple[int, int], seed: int) -> Tensor:
    """(h, w, 8) float32 cost of every step between neighbouring cells: semantics and edges of a scene, as the methods add
    them up."""
    return path_costs(probabilities(size, len(CATEGORIES), seed), colours(size, seed)).contiguous()


def random_cells(size: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """(count, 2) int64 rows and columns, all different."""
    flat = np.random.default_rng(seed).choice(size[0] * size[1], count, replace=False)
    return np.stack(np.divmod(flat, size[1]), axis=1)


def transport_problem(count: int, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cost (n, h w) float32, supply (n,) and demand (h w,) float64 of dividing the pixels of a scene among n points.

    The cost is the length of the cheapest path from each point, as it is, and a little noise; half of the supply is what
    lies nearest to a point, half is drawn.
    """
    rng = np.random.default_rng(seed)
    points = random_cells(size, count, seed)
    distances = geodesic_distances(grid_costs(size, seed), [point[None] for point in points]).flatten(1)
    cost = distances + 0.01 * torch.from_numpy(rng.random(tuple(distances.shape), dtype=np.float32))
    share = torch.from_numpy(rng.dirichlet(np.full(count, 5.0)))
    nearest = torch.bincount(cost.argmin(dim=0), minlength=count).double()
    pixels = cost.shape[1]
    return cost, 0.5 * nearest + 0.5 * pixels * share, torch.ones(pixels, dtype=torch.float64)


def write_photographs(root: Path, size: tuple[int, int], train: int, val: int = 2) -> None:
    """A data set folder in COCO panoptic format: JPEG files of scenes with their masks.

    Args:
        root: gets ``train/``, ``val/`` and their masks and JSON files.
        size: (height, width) of the files.
        train, val: how many.
    """
    for split, count, first in (("train", train, 0), ("val", val, train)):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        items = []
        for number in range(count):
            image, ids, category_of = scene(size, first + number)
            record = ImageRecord(number + 1, f"{number:06d}.jpg", *size)
            Image.fromarray(image).save(folder / record.file_name, quality=90)
            items.append((record, Annotation(ids, describe_segments(ids, category_of))))
        write_panoptic(root / f"panoptic_{split}.json", root / f"panoptic_{split}", CATEGORIES, items)


def panoptic_pair(size: tuple[int, int], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Target and prediction of a scene, each ``ids`` (h, w) and ``segments_info``.

    The prediction is the target, moved by a few pixels, with some segments of another category, one cut in two and a part
    without any; the target has a void border and sometimes a crowd region.
    """
    rng = np.random.default_rng(seed)
    _, ids, category_of = scene(size, seed)
    target = ids.copy()
    target[:3] = 0
    crowd = {i for i in category_of if rng.random() < 0.1}
    moved = np.roll(ids, rng.integers(-6, 7, size=2), axis=(0, 1))
    halves = int(max(category_of)) + 1
    largest = int(np.bincount(moved.ravel())[1:].argmax()) + 1
    moved[(moved == largest) & (np.arange(size[1]) >= size[1] // 2)] = halves
    moved[-size[0] // 8 :] = 0
    names = [category.id for category in CATEGORIES]
    guessed = {i: category if rng.random() < 0.8 else int(rng.choice(names)) for i, category in category_of.items()}
    guessed[halves] = guessed[largest]
    return (
        {"ids": target, "segments_info": describe_segments(target, category_of, crowd)},
        {"ids": moved, "segments_info": describe_segments(moved, guessed)},
    )
