"""The classes of the synthetic scenes: outlines as signed distances, textures, and how both are painted."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmark.data.scenes import SceneRecipe, Thing

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A scalar field over an object's own coordinates u, v (radius = 1 for outlines, texture period = 1 for textures)."""


@dataclass(frozen=True)
class Shape:
    """A thing class: ``outline(u, v)`` is negative inside, ``texture(u, v)`` in [-1, 1] modulates brightness."""

    name: str
    hue: float
    outline: Field
    texture: Field


@dataclass(frozen=True)
class Stuff:
    """A stuff class: mean HSV colour, and ``texture(x, y, rng)`` in about [-1, 1] over coordinates in units of the side."""

    name: str
    hsv: tuple[float, float, float]
    texture: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


STAR_STEP = 2.0**-22
"""Radii; the outline of a star is a multiple of it."""


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 1


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) - 1.2, np.abs(v) - 0.5)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    slope = math.sqrt(0.75)
    return np.maximum(np.maximum(slope * u - 0.5 * v, -slope * u - 0.5 * v), v) - 0.66


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # A wavy radius is no exact distance; 0.8 keeps outlines about as wide as those of the other shapes.
    # The last bits of an arctangent depend on the processor's vector instructions, and in float32 they decide whether a
    # pixel whose centre is on the outline is inside. So float64, rounded to steps that are far wider than its errors: masks,
    # and the points drawn on them, are the same on all machines.
    u, v = u.astype(np.float64), v.astype(np.float64)
    outline = 0.8 * (np.hypot(u, v) - 0.9 - 0.3 * np.cos(5 * np.arctan2(v, u)))
    return (np.rint(outline / STAR_STEP) * STAR_STEP).astype(np.float32)


SHAPES = (
    Shape("disc", 0.00, _disc, lambda u, v: np.cos(2 * math.pi * np.hypot(u, v))),
    Shape("bar", 0.10, _bar, lambda u, v: np.cos(2 * math.pi * u)),
    Shape("triangle", 0.90, _triangle, lambda u, v: np.sin(2 * math.pi * u) * np.sin(2 * math.pi * v)),
    Shape("star", 0.20, _star, lambda u, v: np.zeros_like(u)),
)
EXTENT = 1.4
"""No shape reaches farther from its centre than this many radii."""


def _clouds(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    a, b, c, d = rng.uniform(0, 2 * math.pi, size=4)
    return 0.6 * np.sin(7 * x + 3 * y + a + np.sin(5 * y + b)) * np.sin(11 * y - 4 * x + c) + 0.4 * np.sin(3 * y + d)


def _waves(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    a, b = rng.uniform(0, 2 * math.pi, size=2)
    return np.sin(60 * y + 2.5 * np.sin(9 * x + a) + b)


def _blades(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.uniform(-1, 1, size=(-(-x.shape[1] // 2),) * 2).astype(np.float32)
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[: y.shape[0], : x.shape[1]]


STUFF = (
    Stuff("sky", (0.57, 0.30, 0.85), _clouds),
    Stuff("water", (0.53, 0.50, 0.60), _waves),
    Stuff("grass", (0.32, 0.50, 0.55), _blades),
)


def draw_stuff(size: int, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A background of one to three stuff regions with wavy borders.

    Returns:
        (size, size, 3) float32 RGB and (size, size) int64 ids, ``1 + index into STUFF``.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    tilt, phase, period = rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * math.pi), rng.uniform(4, 10)
    # in float64 and rounded, as it decides ids: a sine in float32 is not the same on all processors
    wave = np.sin((period * x + phase).astype(np.float64)).astype(np.float32)
    height = y + tilt * (x - 0.5) + 0.05 * wave
    order = rng.permutation(len(STUFF))[: rng.choice(len(STUFF), p=[0.25, 0.45, 0.3]) + 1]
    borders = (np.arange(1, len(order)) + rng.uniform(-0.25, 0.25, size=len(order) - 1)) / len(order)
    ids = 1 + order[np.searchsorted(borders, height)]
    image = np.empty((size, size, 3), dtype=np.float32)
    for index in order:
        region = ids == index + 1
        stuff = STUFF[index]
        hue, saturation, value = np.array(stuff.hsv) + rng.normal(0, [0.02, 0.05, 0.05])
        colour = np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)
        texture = np.broadcast_to(stuff.texture(x, y, rng), region.shape)[region]
        image[region] = colour * (1 + 0.13 * strength * texture[:, None])
    return image, ids.astype(np.int64)


def signed_distance(
    shape: Shape, thing: Thing, size: int
) -> tuple[tuple[slice, slice], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """An object over the pixels around it.

    Returns:
        The window (rows, columns) clipped to the image, (h, w) float32 signed distance to the outline in pixels (negative
        inside), and the object's coordinates u, v in radii, (h, w) each.
    """
    reach = math.ceil(EXTENT * thing.radius) + 1
    # an object outside the image has an empty window
    rows, cols = (slice(*np.clip((int(c) - reach, int(c) + reach + 1), 0, size).tolist()) for c in (thing.y, thing.x))
    dx = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    cos, sin = np.float32(math.cos(thing.angle) / thing.radius), np.float32(math.sin(thing.angle) / thing.radius)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    return (rows, cols), shape.outline(u, v) * np.float32(thing.radius), (u, v)


def paint(
    image: np.ndarray, shape: Shape, thing: Thing, distance: np.ndarray, local: tuple[np.ndarray, np.ndarray],
    recipe: SceneRecipe,
) -> None:
    """Blend an object into a window of the image, in place.

    Brightness has three parts: the class's texture, a soft shading across the object, and a dark outline, the only contrast
    between touching objects of one colour. The edge is antialiased around distance 0, where the ground truth has its border.
    """
    period = 5 * recipe.size / 128 / thing.radius
    u, v = local
    width = recipe.outline * recipe.size
    brightness = 1 + 0.18 * recipe.texture * shape.texture(u / period, v / period) - 0.10 * v
    brightness *= 1 - 0.55 * np.exp(np.minimum(distance, 0) / width)
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    image += alpha * (thing.colour * brightness[..., None] - image)
