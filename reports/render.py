"""Pictures of segment id maps and points: arrays in, arrays out.

A category has the same colour everywhere, in every report; instances of a category differ in lightness; stuff is pale.
"""

from __future__ import annotations

import base64
import colorsys
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

NEUTRAL = (236, 236, 238)
OUTLINE = (40, 40, 44)
LIGHTNESS = (0.52, 0.66, 0.40, 0.74, 0.46, 0.60)
GOLDEN = 0.6180339887498949
MARGIN = 8
LINE = 22
SHEET_COLUMNS = 6
MANY_POINTS = 25
"""From more points on, marks are smaller."""


def category_color(category_id: int, instance: int = 0, stuff: bool = False) -> tuple[int, int, int]:
    """RGB in 0..255 of a category; ``instance`` counts the segments of the category in an image."""
    hue = category_id * GOLDEN % 1.0
    lightness, saturation = (0.84, 0.28) if stuff else (LIGHTNESS[instance % len(LIGHTNESS)], 0.62)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def enlarged(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """(H, W, ...) -> (H factor, W factor, ...) by repeating pixels."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def outlines(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(H, W) bool, True on pixels whose right or lower neighbour has another id."""
    edges = np.zeros(ids.shape, dtype=bool)
    edges[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edges[:-1] |= ids[1:] != ids[:-1]
    return edges


def draw_segments(ids: NDArray[np.int64], segments: Sequence[Mapping[str, Any]], stuff: Collection[int] = ()) -> Picture:
    """Colour a segment id map.

    Args:
        ids: (H, W) segment ids, 0 = void; void and ids that are not listed stay neutral.
        segments: ``id`` and ``category_id`` of each segment; their order numbers the instances of a category.
        stuff: category ids drawn pale.
    """
    picture = np.full((*ids.shape, 3), NEUTRAL, dtype=np.uint8)
    instances: Counter[int] = Counter()
    for segment in segments:
        category = segment["category_id"]
        if segment["id"]:
            picture[ids == segment["id"]] = category_color(category, instances[category], category in stuff)
        instances[category] += 1
    picture[outlines(ids)] = OUTLINE
    return picture


def draw_outlines(ids: NDArray[np.int64]) -> Picture:
    """Outlines of an id map on the neutral background."""
    picture = np.full((*ids.shape, 3), NEUTRAL, dtype=np.uint8)
    picture[outlines(ids)] = (160, 160, 166)
    return picture


def draw_points(picture: Picture, points: Sequence[Mapping[str, Any]], factor: int = 1) -> Picture:
    """Mark points: white discs for things, white squares for stuff, with a dark rim.

    Args:
        picture: (H, W, 3), already enlarged by ``factor``.
        points: ``x``, ``y`` in pixels of the map before enlarging, ``is_thing``.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    least, share = (2, 80) if len(points) > MANY_POINTS else (3, 55)
    radius = max(least, round(min(picture.shape[:2]) / share))
    for point in points:
        x, y = ((point[key] + 0.5) * factor - 0.5 for key in ("x", "y"))
        shape = draw.ellipse if point.get("is_thing", True) else draw.rectangle
        shape((x - radius, y - radius, x + radius, y + radius), fill="white", outline=(0, 0, 0), width=max(1, radius // 2))
    return np.asarray(image)


def contact_sheet(strips: Sequence[tuple[str, Sequence[tuple[str, Picture | None]]]]) -> Picture:
    """One picture of all strips of tiles, `SHEET_COLUMNS` a line; a missing picture is left blank below its caption.

    Args:
        strips: (title, tiles), a tile being (caption, picture of any size).
    """
    font = ImageFont.load_default(size=14)
    tiles = [tile for _, strip in strips for tile in strip]
    sizes = [picture.shape[:2] for _, picture in tiles if picture is not None]
    height = max((size[0] for size in sizes), default=64)
    width = max([size[1] for size in sizes] + [math.ceil(font.getlength(caption)) for caption, _ in tiles], default=64)
    columns = min(SHEET_COLUMNS, max([1, *(len(strip) for _, strip in strips)]))
    lines = [(title if first == 0 else "", strip[first : first + columns])
             for title, strip in strips for first in range(0, len(strip), columns)]  # fmt: skip
    tall = sum(LINE * (1 + bool(title)) + height + MARGIN for title, _ in lines)
    sheet = Image.new("RGB", (MARGIN + columns * (width + MARGIN), tall + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for title, line in lines:
        if title:
            draw.text((MARGIN, top), title, fill=(90, 90, 96), font=font)
            top += LINE
        for column, (caption, picture) in enumerate(line):
            left = MARGIN + column * (width + MARGIN)
            draw.text((left, top), caption, fill="black", font=font)
            if picture is not None:
                sheet.paste(Image.fromarray(picture), (left, top + LINE))
        top += LINE + height + MARGIN
    return np.asarray(sheet)


def png_bytes(picture: Picture) -> bytes:
    """PNG file of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """``data:`` address of a PNG, so that a page needs no file beside it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
