"""Maps of numbers (distances, costs, confidences) as 8-bit grayscale, for pictures: 0 is "not finite", 1 to 255 are linear
between the smallest and the largest finite value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOT_FINITE = 0
STEPS = 254
"""Between the two ends of a map."""

MOST_CELLS = 128
"""Longer side of a stored map; a finer one is sampled at the centres of so many cells."""


@dataclass(frozen=True, slots=True)
class GrayMap:
    """A map as it is stored.

    Attributes:
        gray: (h, w) uint8.
        low, high: the values of 1 and of 255; None if no value is finite.
    """

    gray: NDArray[np.uint8]
    low: float | None
    high: float | None

    def values(self) -> NDArray[np.float32]:
        """(h, w) float32 between ``low`` and ``high``, each within half a step of what was stored; NaN: not finite."""
        if self.low is None or self.high is None:
            return np.full(self.gray.shape, np.nan, dtype=np.float32)
        values = self.low + (self.gray.astype(np.float32) - 1) / STEPS * (self.high - self.low)
        return np.where(self.gray == NOT_FINITE, np.nan, values).astype(np.float32)


def gray_map(values: NDArray[np.floating]) -> GrayMap:
    """Values (h, w) as they are stored, at most `MOST_CELLS` to a side; equal values are all ``low``."""
    rows, cols = (_centres(side, max(values.shape)) for side in values.shape)
    kept = values[np.ix_(rows, cols)].astype(np.float64)
    finite = np.isfinite(kept)
    if not finite.any():
        return GrayMap(np.zeros(kept.shape, dtype=np.uint8), None, None)
    low, high = float(kept[finite].min()), float(kept[finite].max())
    shares = (np.where(finite, kept, low) - low) / ((high - low) or 1.0)
    return GrayMap(np.where(finite, 1 + np.round(STEPS * shares), NOT_FINITE).astype(np.uint8), low, high)


def _centres(side: int, longest: int) -> NDArray[np.int64]:
    """The rows (columns) of a map of this side that are kept where its longer side is ``longest``."""
    count = side if longest <= MOST_CELLS else max(1, round(side * MOST_CELLS / longest))
    return (2 * np.arange(count) + 1) * side // (2 * count)
