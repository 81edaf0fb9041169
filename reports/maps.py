"""The maps that pseudo labels were decided from (distances, costs, confidences), as tiles of a gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.scalar_maps import NOT_FINITE, GrayMap
from reports import render
from reports.render import Picture


@dataclass(frozen=True, slots=True)
class StoredMap:
    """A map that a run stored of an image: its file, what it is and between which values it lies.

    Attributes:
        name, about: short, and in a sentence.
        bright, missing: what a high value means, and a cell without one.
        unit: of the values, "" without one.
        gray: None if the file is not there.
    """

    name: str
    about: str
    bright: str
    missing: str
    unit: str
    gray: GrayMap | None

    @property
    def told(self) -> str:
        """"distance within the class: 0 to 167 px, bright is far; grey: void"."""
        if self.gray is None:
            return self.name
        if self.gray.low is None or self.gray.high is None:
            return f"{self.name}: {self.missing}"
        grey = f"; grey: {self.missing}" if (self.gray.gray == NOT_FINITE).any() else ""
        return f"{self.name}: {_ends(self.gray.low, self.gray.high, self.unit)}, bright is {self.bright}{grey}"

    def drawn(
        self, size: tuple[int, int], points: Sequence[Mapping[str, Any]], factor: int, labels: NDArray[np.int64] | None
    ) -> Picture | None:
        """The map at ``size`` (height, width) with the outlines of ``labels`` (of that size), and points as in
        `reports.render.draw_points`."""
        if self.gray is None:
            return None
        picture = render.draw_values(self.gray.values(), size)
        if labels is not None:
            picture = render.with_outlines(picture, labels)
        return render.draw_points(picture, points, factor)


def read_map(folder: Path, raw: Mapping[str, Any]) -> StoredMap:
    """An entry of ``maps`` in the picture index of a run.

    Raises:
        KeyError, TypeError, ValueError, OSError: it is not what `benchmark.pictures` writes.
    """
    if Path(raw["file"]).name != raw["file"]:
        raise ValueError(f"the map {raw['file']!r} is not a file of this folder")
    path = folder / raw["file"]
    gray = None
    if path.exists():
        with Image.open(path) as image:
            low, high = (None if raw[end] is None else float(raw[end]) for end in ("low", "high"))
            gray = GrayMap(np.asarray(image.convert("L")), low, high)
    return StoredMap(*(str(raw[key]) for key in ("name", "about", "bright", "missing", "unit")), gray)


def map_terms(maps: Sequence[tuple[str, StoredMap]]) -> tuple[tuple[str, str], ...]:
    """(name, what it is) of the maps of rows, (row, map); of a name that means several things, with the rows of each."""
    found: dict[str, dict[str, list[str]]] = {}
    for row, each in maps:
        found.setdefault(each.name, {}).setdefault(each.about, []).append(row)
    return tuple(
        (name if len(meanings) == 1 else f"{name} ({'; '.join(dict.fromkeys(rows))})", about)
        for name, meanings in found.items() for about, rows in meanings.items()
    )  # fmt: skip


def _ends(low: float, high: float, unit: str) -> str:
    """"0 to 3.22 px", to three digits of the difference; "3 px everywhere"."""
    with_unit = f" {unit}" if unit else ""
    if low == high:
        return f"{low:.3g}{with_unit} everywhere"
    decimals = 2 - math.floor(math.log10(high - low))
    return " to ".join(f"{round(end, decimals) + 0.0:.12g}" for end in (low, high)) + with_unit
