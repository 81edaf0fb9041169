"""Random scale and crop, the training transform of semantic networks; evaluation takes images as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.data.photometric import Photometric
from benchmark.data.transforms import Geometry, Transform, resized
from methods.base.types import PointLabels

CROP_KEYS = ("crop", "scale_range", "photometric")


@dataclass(frozen=True, slots=True)
class CropGeometry:
    """One drawn transform of one image: resize, flip, crop, colours.

    Attributes:
        geometry: resize and flip.
        top, left: first pixel of the crop.
        side: of the crop; where the image is smaller, the crop is as well, and a batch is padded.
        colours: changes of the colours, or None.
    """

    geometry: Geometry
    top: int
    left: int
    side: int
    colours: Photometric | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        height, width = self.geometry.size
        return min(self.side, height - self.top), min(self.side, width - self.left)

    def image(self, pixels: np.ndarray) -> Tensor:
        """(3, h, w) float32 RGB in [0, 1] of (H, W, 3) uint8 RGB."""
        height, width = self.size
        image = self.geometry.image(pixels)[:, self.top : self.top + height, self.left : self.left + width].contiguous()
        return image if self.colours is None else self.colours(image)

    def points(self, labels: PointLabels) -> PointLabels:
        """The labelled pixels that the crop keeps, at their new places, and all targets of the image: one whose pixels are
        cut off stays, because its class is still known to be in the image."""
        xy = self.geometry.coordinates(labels.xy) - labels.xy.new_tensor([self.left, self.top])
        inside = ((xy >= 0) & (xy < xy.new_tensor(self.size[::-1]))).all(dim=1)
        return replace(labels, xy=xy[inside], target=labels.target[inside])


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Scale by a random factor, flip at random, cut out a random square (AGMM released code).

    Attributes:
        crop: side of the square in pixels.
        scale_range: the longer side becomes a whole number of pixels between these multiples of it.
        flip: probability of a left-right flip.
        photometric: also change colours, see `Photometric`.

    Raises:
        ValueError: a side or factor that is not positive, a range that falls, a probability outside [0, 1].
    """

    crop: int
    scale_range: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale_range
        if self.crop < 1 or not 0 < low <= high:
            raise ValueError(f"A crop of {self.crop} px at scales from {low} to {high} is not possible; see input.crop.")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"The flip probability must be in [0, 1], it is {self.flip}.")

    def for_evaluation(self) -> WholeImage:
        """Images as they are stored."""
        return WholeImage()

    def draw(self, original_size: tuple[int, int], rng: np.random.Generator) -> CropGeometry:
        """Make the random choices for one image of ``original_size`` (height, width)."""
        flipped = bool(rng.random() < self.flip)
        longest = max(original_size)
        low, high = (max(1, int(longest * factor)) for factor in self.scale_range)
        long = int(rng.integers(low, high, endpoint=True))
        size = resized(original_size, long, long)  # the longer side decides
        top, left = (int(rng.integers(max(0, side - self.crop), endpoint=True)) for side in size)
        colours = Photometric.draw(rng) if self.photometric else None
        return CropGeometry(Geometry(original_size, size, flipped), top, left, self.crop, colours)


@dataclass(frozen=True, slots=True)
class WholeImage:
    """No transform at all."""

    def for_evaluation(self) -> WholeImage:
        return self

    def draw(self, original_size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """The identity."""
        return Geometry(original_size, original_size, False)


def transform_of(config: Mapping[str, Any]) -> Transform | RandomCrop:
    """The transform of an ``input`` config: random crops if it gives their side (``crop``), else whole images."""
    if config.get("crop") is None:
        return Transform.from_config({key: value for key, value in config.items() if key not in CROP_KEYS})
    return RandomCrop(config["crop"], tuple(config["scale_range"]), config["flip"], config["photometric"])
