"""Galleries: for the same images, what each method made of the points, from the ``pictures`` folders of runs.

Photographs are drawn only where a run stored them (data that may be passed on); else the points lie on outlines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.runs import State
from reports import render
from reports.records import Record
from reports.render import Picture
from reports.tables import ResultTable

PANELS = ("image and points", "pseudo label", "prediction", "ground truth")
MAPS = ("labels", "prediction", "ground_truth")
MOST_IMAGES = 8
SHOWN_SIDE = 320
"""Small maps are enlarged by a whole factor until their longer side is about this many pixels."""

SAFE_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """The pictures of one method: `PANELS` in order, None where a run stored nothing."""

    name: str
    panels: tuple[Picture | None, ...]


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image with a row per method, and the colours (category name -> RGB) that occur in it."""

    key: str
    image_id: str
    split: str
    rows: tuple[GalleryRow, ...]
    legend: dict[str, tuple[int, int, int]]

    def sheet(self) -> Picture:
        """All rows in one picture."""
        return render.contact_sheet(PANELS, [(row.name, row.panels) for row in self.rows])


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a grid's gallery, and why pictures are missing, in sentences."""

    images: tuple[GalleryImage, ...]
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Source:
    """The picture index of one row's run: entries by (split, key); its points name the categories and tell stuff."""

    name: str
    folder: Path
    entries: dict[tuple[str, str], Mapping[str, Any]]
    names: dict[int, str] = field(default_factory=dict)
    stuff: set[int] = field(default_factory=set)


def load_gallery(table: ResultTable) -> Gallery:
    """Draw the gallery of a table: the first run that is done and has pictures stands for its row."""
    sources: list[_Source] = []
    problems: list[str] = []
    for row in table.rows:
        for record in (r for r in row.records if r.state == State.DONE):
            source = _read_index(table.name(row), record, problems)
            if source:
                sources.append(source)
                break
    shown = sorted(
        dict.fromkeys(place for source in sources for place in source.entries),
        key=lambda place: -sum(place in source.entries for source in sources),
    )[:MOST_IMAGES]
    names = {category: name for source in sources for category, name in source.names.items()}
    stuff = set().union(*(source.stuff for source in sources))
    images = [_image(place, sources, names, stuff, problems) for place in shown]
    return Gallery(tuple(images), tuple(dict.fromkeys(problems)))


def _read_index(name: str, record: Record, problems: list[str]) -> _Source | None:
    path = record.folder / "pictures" / "index.json"
    try:
        source = _Source(name, path.parent, {})
        for entry in json.loads(path.read_text(encoding="utf-8")):
            if not SAFE_KEY.fullmatch(entry["key"]):
                raise ValueError(f"the key {entry['key']!r} is not a file name")
            source.entries[str(entry["split"]), entry["key"]] = entry
            _name_categories(entry, source)
    except FileNotFoundError:
        return None  # a run without gallery is nothing unusual
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"The pictures of {record.run_id} can't be read ({type(error).__name__}: {error}).")
        return None
    return source


def _name_categories(entry: Mapping[str, Any], source: _Source) -> None:
    for point in entry["points"]:
        source.names[point["category"]] = str(point["label"])
        if not point["is_thing"]:
            source.stuff.add(point["category"])


def _image(
    place: tuple[str, str], sources: Sequence[_Source], names: Mapping[int, str], stuff: set[int], problems: list[str]
) -> GalleryImage:
    split, key = place
    having = [source for source in sources if place in source.entries]
    rows, categories = [], set()
    for source in having:
        entry = source.entries[place]
        try:
            panels = _panels(entry, source.folder, stuff)
            categories |= {int(s["category_id"]) for which in MAPS for s in entry["segments"].get(which) or ()}
            rows.append(GalleryRow(source.name, panels))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            run = source.folder.parent.name
            problems.append(f"The pictures of {key} in {run} can't be drawn ({type(error).__name__}: {error}).")
    legend = {names.get(c, f"category {c}"): render.category_color(c, stuff=c in stuff) for c in sorted(categories)}
    return GalleryImage(key, str(having[0].entries[place].get("image_id", key)), split, tuple(rows), legend)


def _panels(entry: Mapping[str, Any], folder: Path, stuff: set[int]) -> tuple[Picture | None, ...]:
    height, width = int(entry["height"]), int(entry["width"])
    factor = max(1, round(SHOWN_SIDE / max(height, width)))
    points = entry["points"]
    maps = {which: _id_map(folder, entry["key"], which, (height, width), factor) for which in MAPS}
    segments = {which: entry["segments"].get(which) or () for which in MAPS}
    drawn = {w: None if ids is None else render.draw_segments(ids, segments[w], stuff) for w, ids in maps.items()}
    if drawn["labels"] is not None:
        drawn["labels"] = render.draw_points(drawn["labels"], points, factor)
    photograph = _read(folder / f"{entry['key']}_image.png", (height, width))
    if photograph is not None:
        ground = render.enlarged(photograph, factor)
    else:
        known = next((maps[w] for w in ("ground_truth", "labels") if maps[w] is not None), None)
        ground = render.draw_outlines(np.zeros((height * factor, width * factor), np.int64) if known is None else known)
    return render.draw_points(ground, points, factor), *(drawn[which] for which in MAPS)


def _id_map(folder: Path, key: str, which: str, size: tuple[int, int], factor: int) -> NDArray[np.int64] | None:
    rgb = _read(folder / f"{key}_{which}.png", size)
    return None if rgb is None else render.enlarged(render.decode_ids(rgb), factor)


def _read(path: Path, size: tuple[int, int]) -> Picture | None:
    """An RGB file of (height, width) ``size``, None if it doesn't exist. ValueError if it has another size."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    if rgb.shape[:2] != size:
        raise ValueError(f"{path.name} is {rgb.shape[:2]} and not {size} (height, width)")
    return rgb
