"""Pictures of segment id maps, maps of numbers and points: arrays in, arrays out.

A category has the same colour everywhere, in every report; instances of a category differ in lightness; stuff is pale.
Numbers are dark where they are low and bright where they are high, in a map that is read without colour vision as well.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

NEUTRAL = (236, 236, 238)
OUTLINE = (40, 40, 44)
LIGHTNESS = (0.52, 0.66, 0.40, 0.74, 0.46, 0.60)
NUMBERS = colormaps["viridis"]
"""Sequential and perceptually uniform, its lightness rises evenly."""
SHADES = 64
GOLDEN = 0.6180339887498949
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MARGIN = 8
LINE = 22
LEAST_TILE = 240
"""Width and height that a contact sheet keeps for a tile, in pixels."""
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


def draw_values(values: NDArray[np.floating], size: tuple[int, int]) -> Picture:
    """Colour a map of numbers between its ends, resized bilinearly, in `SHADES` steps: more cannot be told apart and
    take several times the space in a page.

    Args:
        values: (h, w), NaN where there is none: such cells are neutral. Equal values are as low as can be.
        size: (height, width) of the picture.
    """
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    shares = np.where(known, (values - low) / ((high - low) or 1.0), 0.0)
    total, weight = (_resized(part, size, Image.Resampling.BILINEAR) for part in (shares, known))
    steps = np.round((SHADES - 1) * total / np.maximum(weight, np.finfo(np.float32).tiny))
    colors = NUMBERS(steps / (SHADES - 1), bytes=True)[..., :3].copy()
    colors[_resized(known, size, Image.Resampling.NEAREST) == 0] = NEUTRAL
    return colors


def _resized(values: NDArray[Any], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size[::-1], how))


def with_outlines(picture: Picture, ids: NDArray[np.int64]) -> Picture:
    """A picture with the outlines of an id map of its size, black where it is bright and white where it is dark."""
    edges = outlines(ids)
    bright = picture.astype(np.float32) @ LUMINANCE > 127
    drawn = picture.copy()
    drawn[edges & bright], drawn[edges & ~bright] = 0, 255
    return drawn


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
        strips: (title, tiles), a tile being (caption, picture of any size). A caption is broken into lines as wide as the
            widest picture, and where it has line breaks.
    """
    font = ImageFont.load_default(size=14)
    sizes = [picture.shape[:2] for _, strip in strips for _, picture in strip if picture is not None]
    height, width = (max((size[axis] for size in sizes), default=LEAST_TILE) for axis in (0, 1))
    width = max(width, LEAST_TILE)
    columns = min(SHEET_COLUMNS, max([1, *(len(strip) for _, strip in strips)]))
    lines = []
    for title, strip in strips:
        tiles = [(_broken(caption, font, width), picture) for caption, picture in strip]
        lines += [(title if first == 0 else "", tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    tops = [LINE * (bool(title) + max(len(caption) for caption, _ in line)) for title, line in lines]
    sheet = Image.new(
        "RGB", (MARGIN + columns * (width + MARGIN), MARGIN + sum(top + height + MARGIN for top in tops)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    down = MARGIN
    for (title, line), top in zip(lines, tops, strict=True):
        draw.text((MARGIN, down), title, fill=(90, 90, 96), font=font)
        for column, (caption, picture) in enumerate(line):
            left = MARGIN + column * (width + MARGIN)
            for number, text in enumerate(caption):
                draw.text((left, down + LINE * (bool(title) + number)), text, fill="black", font=font)
            if picture is not None:
                sheet.paste(Image.fromarray(picture), (left, down + top))
        down += top + height + MARGIN
    return np.asarray(sheet)


def _broken(text: str, font: Any, width: int) -> list[str]:
    """The lines of a text of at most ``width`` pixels each, broken between words.

    A word that is wider itself, such as an override, is broken after its signs ``=``, ``,`` and ``.``, and stays too wide
    where it has none.
    """
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            wide = font.getlength(word) > width
            for number, piece in enumerate(re.split(r"(?<=[=,.])(?=.)", word) if wide else [word]):
                longer = line + (" " if line and number == 0 else "") + piece
                if line and font.getlength(longer) > width:
                    lines.append(line)
                    line = piece
                else:
                    line = longer
        lines.append(line)
    return lines


def png_bytes(picture: Picture, few_colors: bool = False) -> bytes:
    """PNG file of a picture; with a palette if it has at most 256 colours.

    Args:
        few_colors: reduce more colours to 256 of them, for a file of half the size.
    """
    packed = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors, places = np.unique(packed, return_inverse=True)
    image = Image.fromarray(picture)
    if len(colors) <= 256:
        image = Image.fromarray(places.reshape(packed.shape).astype(np.uint8))
        image.putpalette(np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8).tobytes())
    elif few_colors:
        image = image.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """``data:`` address of a PNG, so that a page needs no file beside it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
