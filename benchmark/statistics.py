"""What a difference can bear: intervals over seeds and, apart from them, over images. Pure functions of numbers.

Two sources of chance are kept apart. *Seeds*: the same experiment trained again. *Images*: other images of the same kind,
with the trained networks as they are. An interval over seeds needs three of them (`LEAST_SEEDS`); with fewer there is none,
so that nothing pretends to a precision that was not measured. An interval over images is a bootstrap of sums per image.

Values have the unit of what is given (qualities are in [0, 1]).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
LEAST_SEEDS = 3
LEAST_IMAGES = 10
"""Below this number a bootstrap over images says little: resampling can't invent what was not seen."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a value lies with probability ``level`` (over repetitions), ``low <= high``."""

    low: float
    high: float
    level: float = LEVEL

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def sign(self) -> int:
        """1 if all of it is above zero, -1 if all is below, 0 if it holds zero."""
        return (self.low > 0) - (self.high < 0)


def seed_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's t interval of the mean of independent repetitions; None with fewer than `LEAST_SEEDS`."""
    return _t_interval(values, level, 1 / math.sqrt(len(values))) if len(values) >= LEAST_SEEDS else None


def prediction_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Where one further repetition would lie, ``mean ± t s sqrt(1 + 1/n)``; None with fewer than `LEAST_SEEDS`.

    A paper's number is a single run, so that this, and not the interval of our mean, is what it is compared with.
    """
    return _t_interval(values, level, math.sqrt(1 + 1 / len(values))) if len(values) >= LEAST_SEEDS else None


def _t_interval(values: Sequence[float], level: float, scale: float) -> Interval:
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread * scale
    return Interval(mean - half, mean + half, level)


def paired_differences(first: Mapping[Hashable, float], second: Mapping[Hashable, float], share: float = 1.0) -> list[float]:
    """``share * first - second`` of every key (seed) that both have, in the order of ``first``."""
    return [share * value - second[key] for key, value in first.items() if key in second]


@dataclass(frozen=True, slots=True)
class ImageSums:
    """What a share of a set of images is made of: numerator and denominator of each image, by its identity."""

    sums: Mapping[str, tuple[float, float]]

    def value(self) -> float | None:
        """The share over all images; None without anything to score."""
        whole = math.fsum(whole for _, whole in self.sums.values())
        return math.fsum(part for part, _ in self.sums.values()) / whole if whole else None


def pooled(runs: Sequence[ImageSums]) -> ImageSums:
    """The sums of several runs (seeds) added up image by image, of the images that all of them have."""
    shared = [image for image in runs[0].sums if all(image in run.sums for run in runs)] if runs else []
    return ImageSums({
        image: (math.fsum(run.sums[image][0] for run in runs), math.fsum(run.sums[image][1] for run in runs))
        for image in shared
    })  # fmt: skip


def image_interval(share: ImageSums, level: float = LEVEL) -> Interval | None:
    """Percentile bootstrap over images of a share; None with fewer than `LEAST_IMAGES` images with anything to score."""
    scored = [pair for pair in share.sums.values() if pair[1]]
    if len(scored) < LEAST_IMAGES:
        return None
    return _percentiles(_resampled(np.array(scored)), level)


def paired_image_interval(
    first: ImageSums, second: ImageSums, share: float = 1.0, level: float = LEVEL
) -> Interval | None:
    """Percentile bootstrap over images of ``share * first - second``, both drawn on the same images.

    None if fewer than `LEAST_IMAGES` images are scored in both.
    """
    both = [image for image, pair in first.sums.items() if pair[1] and second.sums.get(image, (0, 0))[1]]
    if len(both) < LEAST_IMAGES:
        return None
    one, other = (np.array([sums.sums[image] for image in both]) for sums in (first, second))
    return _percentiles(share * _resampled(one) - _resampled(other), level)


def _resampled(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(`RESAMPLES`,) shares of resampled images from (n, 2) numerators and denominators.

    The draws depend on n alone: what has the same images is resampled in the same way, so that differences are paired.
    """
    parts, wholes = (_draws(len(pairs)) @ pairs).T
    return parts / wholes


@lru_cache(maxsize=8)
def _draws(images: int) -> NDArray[np.float64]:
    """(`RESAMPLES`, images): how often each image is drawn."""
    return np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)


def _percentiles(values: ArrayLike, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
