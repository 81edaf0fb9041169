"""The pictures of a gallery: tiles in strips, an image's strips, and which tile is the worst of its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics import VOID, overlaps
from reports import render
from reports.render import Picture


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture with its caption; None where the run stored none.

    Attributes:
        row: place in the table of the row that it belongs to, None for points and ground truth.
        iou: how well it fits the things of the ground truth (`thing_iou`), None where that is not known.
        worst: this is the image of the gallery that fits worst in its row.
        detail: what is to be seen, where tiles of a strip show different things.
    """

    caption: str
    picture: Picture | None
    row: int | None = None
    iou: float | None = None
    worst: bool = False
    detail: str = ""

    @property
    def told(self) -> str:
        """Caption and note, and the detail on a line of its own."""
        return "\n".join(filter(None, [", ".join(filter(None, [self.caption, self.note])), self.detail]))

    @property
    def note(self) -> str:
        """"IoU 43, the worst here of this row"."""
        if self.iou is None:
            return ""
        return f"IoU {100 * self.iou:.0f}" + (", the worst here of this row" if self.worst else "")


@dataclass(frozen=True, slots=True)
class Strip:
    """Tiles to be compared with each other."""

    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image: its points and ground truth once, then labels of the methods that stored some, the maps that they were
    decided from, and predictions.

    ``legend`` has the colours (category name -> RGB) that occur.
    """

    key: str
    image_id: str
    split: str
    strips: tuple[Strip, ...]
    legend: dict[str, tuple[int, int, int]]

    @property
    def spread(self) -> float:
        """How much the rows differ: the largest distance of IoUs within a strip, 0 with fewer than two."""
        known = [[tile.iou for tile in strip.tiles if tile.iou is not None] for strip in self.strips]
        return max((max(values) - min(values) for values in known if values), default=0.0)

    def sheet(self) -> Picture:
        """All strips in one picture."""
        return render.contact_sheet([(s.title, [(tile.told, tile.picture) for tile in s.tiles]) for s in self.strips])


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a grid's gallery, why pictures are missing, in sentences, and (name, meaning) of the maps in it."""

    images: tuple[GalleryImage, ...]
    problems: tuple[str, ...]
    terms: tuple[tuple[str, str], ...] = ()


def mark_worst(images: Sequence[GalleryImage]) -> list[GalleryImage]:
    """The images with each row's worst tile of a strip marked, where the row has several."""
    worst: dict[tuple[str, int], list[float]] = {}
    for strip, tile in ((s, t) for image in images for s in image.strips for t in s.tiles if t.iou is not None):
        worst.setdefault((strip.title, tile.row), []).append(tile.iou)
    least = {key: min(values) for key, values in worst.items() if len(values) > 1 and min(values) < max(values)}

    def marked(strip: Strip) -> Strip:
        tiles = (replace(t, worst=t.iou is not None and least.get((strip.title, t.row)) == t.iou) for t in strip.tiles)
        return replace(strip, tiles=tuple(tiles))

    return [replace(image, strips=tuple(marked(strip) for strip in image.strips)) for image in images]


def thing_iou(
    truth: NDArray[np.int64], things: Mapping[int, int], ids: NDArray[np.int64], categories: Mapping[int, int]
) -> float | None:
    """Mean over things of the ground truth of the best IoU with a segment of their category, in [0, 1]; None without things.

    Args:
        truth, ids: (H, W) id maps of equal shape; void pixels (0) of the ground truth count nowhere.
        things: id -> category of the things of ``truth``.
        categories: id -> category of the segments of ``ids``.
    """
    pixels = {pair: count for pair, count in overlaps(truth, ids).items() if pair[0] != VOID}
    areas: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for pair, count in pixels.items():
        for area, segment in zip(areas, pair, strict=True):
            area[segment] += count
    best = dict.fromkeys((thing for thing in things if areas[0][thing]), 0.0)
    for (thing, segment), shared in pixels.items():
        if thing in best and segment != VOID and categories.get(segment) == things[thing]:
            best[thing] = max(best[thing], shared / (areas[0][thing] + areas[1][segment] - shared))
    return sum(best.values()) / len(best) if best else None
