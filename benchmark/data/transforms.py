"""Geometric transforms that move an image, its points and its masks together.

Random choices (`Transform.draw`) are apart from their application (`Geometry`), so that everything that belongs to one image
moves in exactly the same way. There is no photometric augmentation in any of the papers.

Coordinates follow pixel centres: the image is resized bilinearly, masks by the nearest centre, and a point takes the cell
that its centre falls into. All index arithmetic is exact, in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from methods.base.types import PointLabels


@dataclass(frozen=True, slots=True)
class Geometry:
    """One drawn transform of one image: resize, then flip.

    Attributes:
        original_size: (height, width) of the image file.
        size: (height, width) after the resize.
        flipped: whether left and right are swapped.
    """

    original_size: tuple[int, int]
    size: tuple[int, int]
    flipped: bool

    def image(self, pixels: np.ndarray) -> Tensor:
        """(3, h, w) float32 RGB in [0, 1] of (H, W, 3) uint8 RGB, resized bilinearly between pixel centres."""
        image = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1) / 255
        if self.size != self.original_size:
            image = functional.interpolate(image[None], size=self.size, mode="bilinear", align_corners=False)[0]
        return image.flip(-1).contiguous() if self.flipped else image.contiguous()

    def points(self, labels: PointLabels) -> PointLabels:
        """The labels at their new places; points that meet in one cell are all kept."""
        return replace(labels, xy=self.coordinates(labels.xy))

    def coordinates(self, xy: Tensor) -> Tensor:
        """(p, 2) int64 new pixel indices x, y of (p, 2) int64 old ones: floor((x + 1/2) new / old), then the flip."""
        old = torch.tensor(self.original_size[::-1], device=xy.device)
        new = torch.tensor(self.size[::-1], device=xy.device)
        moved = (2 * xy + 1) * new // (2 * old)
        if self.flipped:
            moved[:, 0] = self.size[1] - 1 - moved[:, 0]
        return moved

    def ids(self, ids: np.ndarray, points: PointLabels) -> Tensor:
        """(h, w) int64 target ids after the transform, every labelled pixel belonging to its own target.

        Shrinking can lose the pixel that a point stands on, and with it a small target; so each point's cell is set. Where
        points of two targets meet in one cell, the lower target has it.

        Args:
            ids: (H, W) int, 0 = void, ``i + 1`` = target ``i`` of ``points``.
            points: the labels of the image, already transformed by `points`.
        """
        rows, cols = (
            (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(self.original_size, self.size, strict=True)
        )
        if self.flipped:
            cols = cols[::-1]
        moved = torch.from_numpy(ids[rows[:, None], cols[None, :]].astype(np.int64))
        for target in reversed(range(points.num_targets)):
            x, y = points.xy[points.target == target].unbind(dim=1)
            moved[y, x] = target + 1
        return moved


@dataclass(frozen=True, slots=True)
class Transform:
    """Resize to a short side, then flip at random (PSPS and Point2Mask, VOC and COCO).

    Attributes:
        short: length of the shorter side in pixels.
        long: limit of the longer side, which makes the shorter side smaller where necessary.
        short_range: if given, training draws the shorter side from these lengths instead.
        flip: probability of a left-right flip.
    """

    short: int
    long: int
    short_range: tuple[int, ...] | None = None
    flip: float = 0.5

    def __post_init__(self) -> None:
        if min(self.short, self.long, *(self.short_range or ())) < 1:
            lengths = f"short {self.short}, long {self.long}, short_range {self.short_range}"
            raise ValueError(f"The side lengths of an input must be positive, they are {lengths}.")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"The flip probability must be in [0, 1], it is {self.flip}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Transform:
        """From the ``input`` config: ``short``, ``long``, and optionally ``short_range`` (list or null) and ``flip``."""
        options = dict(config)
        short_range = options.pop("short_range", None)
        return cls(**options, short_range=tuple(short_range) if short_range else None)

    def for_evaluation(self) -> Transform:
        """The same size limits without any random choice: the fixed short side, never flipped."""
        return replace(self, short_range=None, flip=0.0)

    def draw(self, original_size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Make the random choices for one image of ``original_size`` (height, width)."""
        flipped = bool(rng.random() < self.flip)
        short = int(rng.choice(self.short_range)) if self.short_range else self.short
        return Geometry(original_size, resized(original_size, short, self.long), flipped)


def resized(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) scaled by ``min(long / longer side, short / shorter side)``, rounded half up, at least one pixel."""
    factor = min(long / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))
