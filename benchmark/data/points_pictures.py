"""Points drawn into their images, for a person to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmark.data.errors import DataError
from benchmark.data.files import replacing
from benchmark.data.images import ImageSource
from benchmark.data.points_file import PointsFile
from methods.base.types import Categories, PointLabels
from reports.render import MANY_POINTS, category_color

LEAST_SIDE = 480
"""Smaller images are enlarged by a whole factor to about this, so that marks do not cover them."""

LINE = 20


def write_pictures(points: PointsFile, images: ImageSource, folder: Path, count: int) -> tuple[list[Path], list[str]]:
    """Write PNG pictures of up to ``count`` images with points, evenly spread over the file.

    Args:
        points: to draw.
        images: their images.
        folder: gets ``<file name>.png``, folders in the name becoming underscores.
        count: of pictures.

    Returns:
        The files that were written, and a sentence for each image that cannot be drawn.
    """
    labelled = np.unique(points.target_image[points.point_target])
    chosen = labelled[np.linspace(0, len(labelled) - 1, min(count, len(labelled))).round().astype(int)]
    written, problems = [], []
    for place in chosen.tolist():
        record = points.records[place]
        try:
            picture = draw(images.read_image(record), points.labels_of(place), points.categories)
        except DataError as error:
            problems.append(str(error))
            continue
        path = folder / f"{Path(record.file_name).with_suffix('').as_posix().replace('/', '_')}.png"
        with replacing(path) as file:
            Image.fromarray(picture).save(file, format="PNG")
        written.append(path)
    return written, problems


def draw(image: np.ndarray, labels: PointLabels, categories: Categories) -> np.ndarray:
    """An image with its points in the colours of their classes, discs on things and squares on stuff, and the classes' names
    below it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: the points.
        categories: of the labels.

    Returns:
        (H', W', 3) uint8, the image enlarged by a whole factor and a legend.
    """
    factor = max(1, LEAST_SIDE // min(image.shape[:2]))
    enlarged = image.repeat(factor, axis=0).repeat(factor, axis=1)
    present = sorted({int(label) for label in labels.point_classes})
    lines = _legend_lines([categories[label].name for label in present], enlarged.shape[1])
    canvas = Image.new("RGB", (enlarged.shape[1], enlarged.shape[0] + LINE * len(lines)), "white")
    canvas.paste(Image.fromarray(enlarged), (0, 0))
    pen = ImageDraw.Draw(canvas)
    radius = max(3, min(enlarged.shape[:2]) // (120 if len(labels.xy) > MANY_POINTS else 70))
    for (x, y), target in zip(labels.xy.tolist(), labels.target.tolist(), strict=True):
        category, thing = categories[int(labels.classes[target])], bool(labels.is_thing[target])
        centre = ((x + 0.5) * factor, (y + 0.5) * factor)
        colour = category_color(category.id, target, not thing)
        _mark(pen, centre, radius, colour, thing)
    colour_of = {categories[label].name: categories[label] for label in present}
    for row, names in enumerate(lines):
        left = 4
        for name in names:
            middle = enlarged.shape[0] + LINE * row + LINE // 2
            category = colour_of[name]
            _mark(pen, (left + 5, middle), 4, category_color(category.id, 0, not category.is_thing), category.is_thing)
            pen.text((left + 14, middle - 8), name, fill="black", font=ImageFont.load_default(size=13))
            left += _width(name)
    return np.asarray(canvas)


def _mark(
    pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: int, colour: tuple[int, int, int], thing: bool
) -> None:
    x, y = centre
    shape = pen.ellipse if thing else pen.rectangle
    shape((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2), fill="white", outline="black")
    shape((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _width(name: str) -> int:
    return 28 + round(ImageFont.load_default(size=13).getlength(name))


def _legend_lines(names: list[str], width: int) -> list[list[str]]:
    """Names broken into lines of a width in pixels."""
    lines: list[list[str]] = []
    left = width
    for name in names:
        if left + _width(name) > width:
            lines.append([])
            left = 4
        lines[-1].append(name)
        left += _width(name)
    return lines
