"""Pictures of labels on their image: coloured segments, their outlines, and the points they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from methods.base.types import Categories, PointLabels
from reports.render import draw_points, draw_segments, outlines

LONGEST = 1280
"""Larger pictures are made smaller, to this length of their longer side in pixels."""
STRENGTH = 0.55
"""Share of the colour."""


def overlay(
    pixels: np.ndarray, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], points: PointLabels, categories: Categories
) -> np.ndarray:
    """(h, w, 3) uint8 picture of an image with its labels; void shows the image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        ids: (H, W) int, 0 = void.
        segments: ``id`` and ``category_id`` of each segment.
        points: in pixels of the image.
        categories: of the labels.
    """
    height, width = ids.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    rows, cols = (np.arange(new) * old // new for new, old in zip(size, ids.shape, strict=True))
    small = ids[rows[:, None], cols[None]]
    image = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)).astype(np.float32)
    stuff = [category.id for category in categories if not category.is_thing]
    colours = draw_segments(small, segments, stuff)
    share = np.where(outlines(small), 1.0, STRENGTH)[..., None]
    share[(small == 0) & ~outlines(small)] = 0
    picture = (colours * share + image * (1 - share)).round().astype(np.uint8)
    marks = [
        {"x": min(int(x * scale), size[1] - 1), "y": min(int(y * scale), size[0] - 1), "is_thing": thing}
        for (x, y), thing in zip(points.xy.tolist(), points.is_thing[points.target].tolist(), strict=True)
    ]
    return draw_points(picture, marks)
