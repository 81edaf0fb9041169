"""Galleries: for the same images, what each method made of the points, from the ``pictures`` folders of runs.

Images on which the methods differ most come first, and each method's worst image is marked. Photographs are drawn only where
a run stored them (data that may be passed on) and the report is asked for them; else the points lie on outlines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.segment_ids import decode_ids
from reports import render
from reports.maps import StoredMap, map_terms, read_map
from reports.records import Record
from reports.render import Picture
from reports.strips import Gallery, GalleryImage, Strip, Tile, mark_worst, thing_iou
from reports.tables import ResultTable

MAPS = ("labels", "prediction", "ground_truth")
MOST_IMAGES, LEAST_IMAGES = 8, 2
MOST_TILES = 240
"""Rows times images: a grid of many rows shows fewer images, so that its page stays one that opens."""

SHOWN_SIDE = 320
"""Small maps are enlarged by a whole factor until their longer side is about this many pixels."""

SAFE_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(slots=True)
class _Source:
    """The picture index of one row's run: entries by (split, key); its points name the categories and tell stuff.

    ``decisive`` collects the maps that its labels were decided from, as they are drawn.
    """

    name: str
    row: int
    folder: Path
    entries: dict[tuple[str, str], Mapping[str, Any]]
    names: dict[int, str] = field(default_factory=dict)
    stuff: set[int] = field(default_factory=set)
    decisive: list[StoredMap] = field(default_factory=list)


def load_gallery(table: ResultTable, photographs: bool = True) -> Gallery:
    """Draw the gallery of a table: the first run that is done and has pictures stands for its row.

    Args:
        table: of the grid.
        photographs: draw points on photographs where runs stored them; else no photograph is read.
    """
    sources: list[_Source] = []
    problems: list[str] = []
    for place, row in enumerate(table.rows):
        for record in row.finished:
            source = _read_index(table.name(row), place, record, problems)
            if source:
                sources.append(source)
                break
    shown = sorted(
        dict.fromkeys(place for source in sources for place in source.entries),
        key=lambda place: -sum(place in source.entries for source in sources),
    )[: max(LEAST_IMAGES, min(MOST_IMAGES, MOST_TILES // max(1, len(sources))))]
    names = {category: name for source in sources for category, name in source.names.items()}
    stuff = set().union(*(source.stuff for source in sources))
    images = [_image(place, sources, names, stuff, problems, photographs) for place in shown]
    images.sort(key=lambda image: -image.spread)  # stable: images that as many rows have stay in order
    terms = map_terms([(source.name, each) for source in sources for each in source.decisive])
    return Gallery(tuple(mark_worst(images)), tuple(dict.fromkeys(problems)), terms)


def _read_index(name: str, row: int, record: Record, problems: list[str]) -> _Source | None:
    path = record.folder / "pictures" / "index.json"
    try:
        source = _Source(name, row, path.parent, {})
        for entry in json.loads(path.read_text(encoding="utf-8")):
            for name in (entry["key"], *(each["file"] for each in entry.get("maps", ()))):
                if not SAFE_KEY.fullmatch(name):
                    raise ValueError(f"the key {name!r} is not a file name")
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


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What one run stored of an image of ``size`` (height, width), all enlarged by ``factor``.

    ``decisive`` has the maps that its labels were decided from: what they show, and their pictures.
    """

    name: str
    row: int
    size: tuple[int, int]
    factor: int
    points: Sequence[Mapping[str, Any]]
    maps: dict[str, NDArray[np.int64] | None]
    pictures: dict[str, Picture | None]
    decisive: list[tuple[str, Picture | None]]
    photograph: Picture | None
    categories: set[int]
    ious: dict[str, float | None]


def _image(
    place: tuple[str, str], sources: Sequence[_Source], names: Mapping[int, str], stuff: set[int], problems: list[str],
    photographs: bool,
) -> GalleryImage:
    split, key = place
    having = [source for source in sources if place in source.entries]
    drawn = []
    for source in having:
        try:
            drawn.append(_drawn(source, source.entries[place], stuff, photographs))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            run = source.folder.parent.name
            problems.append(f"The pictures of {key} in {run} can't be drawn ({type(error).__name__}: {error}).")
    strips = [Strip("Points and ground truth", (*_points_tiles(drawn), *_truth_tiles(drawn)))] if drawn else []
    strips += _kind_strip(drawn, "labels", "Pseudo labels")
    if tiles := tuple(Tile(one.name, drawing, one.row, detail=told) for one in drawn for told, drawing in one.decisive):
        strips.append(Strip("Distance and cost maps", tiles))
    strips += _kind_strip(drawn, "prediction", "Predictions")
    categories = set().union(*(one.categories for one in drawn))
    legend = {names.get(c, f"category {c}"): render.category_color(c, stuff=c in stuff) for c in sorted(categories)}
    return GalleryImage(key, str(having[0].entries[place].get("image_id", key)), split, tuple(strips), legend)


def _kind_strip(drawn: Sequence[_Drawn], which: str, title: str) -> list[Strip]:
    """The strip of labels or predictions, if any run stored them."""
    if all(one.pictures[which] is None for one in drawn):
        return []
    return [Strip(title, tuple(Tile(one.name, one.pictures[which], one.row, one.ious[which]) for one in drawn))]


def _drawn(source: _Source, entry: Mapping[str, Any], stuff: set[int], photographs: bool) -> _Drawn:
    size = int(entry["height"]), int(entry["width"])
    factor = max(1, round(SHOWN_SIDE / max(size)))
    points = entry["points"]
    maps = {which: _id_map(source.folder, entry["key"], which, size, factor) for which in MAPS}
    segments = {which: entry["segments"].get(which) or () for which in MAPS}
    categories = {int(s["category_id"]) for which in MAPS for s in segments[which]}
    segments["labels"] = _targets(points)
    ious = {which: _fit(maps, segments, which, factor, stuff) for which in ("labels", "prediction")}
    pictures = {w: None if ids is None else render.draw_segments(ids, segments[w], stuff) for w, ids in maps.items()}
    if pictures["labels"] is not None:
        pictures["labels"] = render.draw_points(pictures["labels"], points, factor)
    photograph = _read(source.folder / f"{entry['key']}_image.png", size) if photographs else None
    enlarged = None if photograph is None else render.enlarged(photograph, factor)
    shown = size[0] * factor, size[1] * factor
    stored = [read_map(source.folder, raw) for raw in entry.get("maps", ())]
    decisive = [(each.told, each.drawn(shown, points, factor, maps["labels"])) for each in stored]
    source.decisive += stored
    return _Drawn(source.name, source.row, shown, factor, points, maps, pictures, decisive, enlarged, categories, ious)


def _fit(
    maps: Mapping[str, NDArray[np.int64] | None], segments: Mapping[str, Sequence[Mapping[str, Any]]], which: str,
    factor: int, stuff: set[int],
) -> float | None:
    """`thing_iou` of a stored map at its own size; None without it or its ground truth."""
    truth, ids = maps["ground_truth"], maps[which]
    if truth is None or ids is None:
        return None
    kinds = [{int(s["id"]): int(s["category_id"]) for s in segments[name]} for name in ("ground_truth", which)]
    things = {segment: category for segment, category in kinds[0].items() if category not in stuff}
    return thing_iou(truth[::factor, ::factor], things, ids[::factor, ::factor], kinds[1])


def _targets(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The segments of pseudo labels: of every target, so that one without pixels doesn't shift the colours of the others."""
    category_of = {point["target"]: point["category"] for point in points}
    return [{"id": target + 1, "category_id": category_of[target]} for target in sorted(category_of)]


def _points_tiles(drawn: Sequence[_Drawn]) -> list[Tile]:
    """A tile for each set of points, on the photograph if a run stored it, else on outlines."""
    photograph = next((one.photograph for one in drawn if one.photograph is not None), None)
    known = next((ids for w in ("ground_truth", "labels") for one in drawn if (ids := one.maps[w]) is not None), None)
    tiles: dict[str, Tile] = {}
    for one in drawn:
        places = json.dumps([(point["x"], point["y"]) for point in one.points])
        if places in tiles:
            continue
        ground = photograph
        if ground is None:
            ground = render.draw_outlines(np.zeros(one.size, np.int64) if known is None else known)
        caption = _points_caption(one.points)
        if any(tile.caption == caption for tile in tiles.values()):
            caption += f" ({one.name})"
        tiles[places] = Tile(caption, render.draw_points(ground, one.points, one.factor))
    return list(tiles.values())


def _points_caption(points: Sequence[Mapping[str, Any]]) -> str:
    most = max(Counter(point["target"] for point in points).values(), default=0)
    return "1 point per target" if most == 1 else f"{most} points per target"


def _truth_tiles(drawn: Sequence[_Drawn]) -> list[Tile]:
    """The ground truth, once; runs that saw another one (other data) have tiles of their own."""
    tiles: dict[bytes, Tile] = {}
    for one in drawn:
        truth = one.pictures["ground_truth"]
        if truth is not None:
            caption = "ground truth" + (f" ({one.name})" if tiles else "")
            tiles.setdefault(truth.tobytes(), Tile(caption, truth))
    return list(tiles.values())


def _id_map(folder: Path, key: str, which: str, size: tuple[int, int], factor: int) -> NDArray[np.int64] | None:
    rgb = _read(folder / f"{key}_{which}.png", size)
    return None if rgb is None else render.enlarged(decode_ids(rgb), factor)


def _read(path: Path, size: tuple[int, int]) -> Picture | None:
    """An RGB file of (height, width) ``size``, None if it doesn't exist. ValueError if it has another size."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    if rgb.shape[:2] != size:
        raise ValueError(f"{path.name} is {rgb.shape[:2]} and not {size} (height, width)")
    return rgb
