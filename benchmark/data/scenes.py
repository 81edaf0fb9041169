"""Synthetic scenes with exact ground truth, drawn on the fly: textured objects that touch and overlap on textured stuff.

What makes them a test of point supervision is kept from photographs: instances of one class cluster, touch and hide each
other, their colours are similar but not equal, classes share colours and differ in shape and texture, sizes vary. Faint dark
outlines are the only boundary between touching objects of one class.
"""

from __future__ import annotations

import colorsys
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from benchmark.data.errors import DataError
from benchmark.data.files import content_hash
from benchmark.data.images import Annotation, ImageRecord, describe_segments
from benchmark.data.points import stable_seed
from benchmark.data.shapes import SHAPES, STUFF, draw_stuff, paint, signed_distance
from methods.base.types import Categories, Category

VERSION = 1
"""Part of the fingerprint; raise it whenever a recipe would draw other pixels than before. Masks are the same on all
processors; of the values of images one in a million may be one level of 255 apart."""

CATEGORIES = Categories(
    # sparse ids, as in COCO, so that a category id is never mistaken for a label
    [Category(11 + i, shape.name, True) for i, shape in enumerate(SHAPES)]
    + [Category(21 + i, stuff.name, False) for i, stuff in enumerate(STUFF)]
)
CACHED_PIXELS = 1024 * 128**2
"""Scenes of up to this many pixels are remembered by each source, at 7 bytes a pixel at most."""
_Drawn = TypeVar("_Drawn")


@dataclass(frozen=True)
class SceneRecipe:
    """What scenes look like.

    Attributes:
        size: height and width in pixels; everything scales with it.
        objects: smallest and largest number of objects of a scene that has any.
        touching: probability of an object to touch or overlap an earlier one of its own class.
        small_share: probability of an object to be small.
        radius, small_radius: smallest and largest radius of usual and of small objects, as shares of the side.
        texture: strength of the textures of things and stuff, 1 = strong stripes. The colour prior of the methods joins
            pixels that look alike; strong textures leave it nothing to join.
        outline: width of the dark rim of objects as a share of the side, the contrast between touching objects.
        colour_jitter: standard deviation of an object's hue (a full turn = 1) about its class's; classes are 0.1 apart.
        noise: standard deviation of the pixel noise, white = 1.
        stuff_only: probability of a scene without objects.
    """

    size: int = 128
    objects: tuple[int, int] = (2, 4)
    touching: float = 0.7
    small_share: float = 0.0
    radius: tuple[float, float] = (0.22, 0.38)
    small_radius: tuple[float, float] = (0.09, 0.14)
    texture: float = 0.35
    outline: float = 0.016
    colour_jitter: float = 0.02
    noise: float = 0.01
    stuff_only: float = 0.04

    def __post_init__(self) -> None:
        for name in ("objects", "radius", "small_radius"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.size < 16:
            raise ValueError(f"Scenes need a size of at least 16 pixels, it is {self.size}.")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ValueError(f"The range of objects must be two growing numbers from 1 on, it is {list(self.objects)}.")
        for name in ("touching", "small_share", "stuff_only"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"The probability {name} must be in [0, 1], it is {getattr(self, name)}.")
        for name in ("radius", "small_radius"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 0.5:
                raise ValueError(f"{name} must be two growing shares of the side, at most 0.5, it is [{low}, {high}].")
        if min(self.colour_jitter, self.noise, self.texture) < 0 or self.outline <= 0:
            raise ValueError("colour_jitter, noise and texture must not be negative, and outline must be positive.")


@dataclass(frozen=True)
class Thing:
    """An object to be painted: index into `SHAPES`, centre and radius in pixels, rotation in radians, RGB in [0, 1]."""

    shape: int
    x: float
    y: float
    radius: float
    angle: float
    hue: float
    colour: np.ndarray


def draw_scene(recipe: SceneRecipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Draw one scene.

    Returns:
        (H, W, 3) uint8 RGB; (H, W) int64 segment ids without void; the category id of each segment id. Every segment has a
        pixel: what is hidden by later objects has no segment.
    """
    image, ids = draw_stuff(recipe.size, recipe.texture, rng)
    category_of = {i + 1: CATEGORIES[len(SHAPES) + i].id for i in range(len(STUFF))}
    # fewer visible pixels than this would make a target nobody could click or learn
    sliver = max(4, round(16 * (recipe.size / 128) ** 2))
    for thing in _layout(recipe, rng):
        window, distance, local = signed_distance(SHAPES[thing.shape], thing, recipe.size)
        painted = np.where(distance < 0, len(category_of) + 1, ids[window])
        if not painted.size or _leaves_sliver(ids, window, painted, sliver):  # outside the image, or too little to see
            continue
        ids[window] = painted
        category_of[len(category_of) + 1] = CATEGORIES[thing.shape].id
        paint(image[window], SHAPES[thing.shape], thing, distance, local, recipe)
    image *= _lighting(recipe.size, rng)
    image += recipe.noise * rng.standard_normal(image.shape, dtype=np.float32)
    visible = set(np.unique(ids).tolist())
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8), ids, {i: c for i, c in category_of.items() if i in visible}


def _leaves_sliver(ids: np.ndarray, window: tuple[slice, slice], painted: np.ndarray, smallest: int) -> bool:
    """Whether painting would leave the new segment or one below it with some, but fewer than ``smallest``, pixels.

    An object below that is hidden as a whole is fine: it is dropped.
    """
    count = painted.max() + 1
    before = np.bincount(ids.ravel(), minlength=count)
    after = before - np.bincount(ids[window].ravel(), minlength=count) + np.bincount(painted.ravel(), minlength=count)
    changed = (before != after) & (after < smallest) & (after > 0)
    return bool(changed.any()) or after[-1] == before[-1]


def _layout(recipe: SceneRecipe, rng: np.random.Generator) -> list[Thing]:
    """Objects in painter's order; some stand by an earlier one of their class, the others keep clear where there is room."""
    if rng.random() < recipe.stuff_only:
        return []
    things: list[Thing] = []
    for _ in range(rng.integers(recipe.objects[0], recipe.objects[1], endpoint=True)):
        if things and rng.random() < recipe.touching:
            things.append(_neighbour(things[rng.integers(len(things))], recipe, rng))
        else:
            things.append(_newcomer(things, recipe, rng))
    return things


def _newcomer(things: Sequence[Thing], recipe: SceneRecipe, rng: np.random.Generator) -> Thing:
    shape = int(rng.integers(len(SHAPES)))
    small = rng.random() < recipe.small_share
    low, high = recipe.small_radius if small else recipe.radius
    radius = recipe.size * low * (high / low) ** rng.random()
    for _ in range(10):
        x, y = rng.uniform(0.08, 0.92, size=2) * recipe.size
        if all(math.hypot(x - other.x, y - other.y) > 1.2 * (radius + other.radius) for other in things):
            break
    hue = SHAPES[shape].hue + recipe.colour_jitter * rng.standard_normal()
    return _coloured(shape, x, y, radius, hue, rng)


def _neighbour(anchor: Thing, recipe: SceneRecipe, rng: np.random.Generator) -> Thing:
    radius = anchor.radius * rng.uniform(0.6, 1.4)
    for _ in range(10):
        gap, direction = (anchor.radius + radius) * rng.uniform(0.7, 0.95), rng.uniform(0, 2 * math.pi)
        x, y = anchor.x + gap * math.cos(direction), anchor.y + gap * math.sin(direction)
        if min(x, y) > 0.05 * recipe.size and max(x, y) < 0.95 * recipe.size:
            break
    hue = anchor.hue + 0.5 * recipe.colour_jitter * rng.standard_normal()
    return _coloured(anchor.shape, x, y, radius, hue, rng)


def _coloured(shape: int, x: float, y: float, radius: float, hue: float, rng: np.random.Generator) -> Thing:
    saturation, value, angle = rng.uniform(0.5, 0.8), rng.uniform(0.65, 0.95), rng.uniform(0, 2 * math.pi)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)
    return Thing(shape, x, y, radius, angle, hue, colour)


def _lighting(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 1) float32 factor, a linear gradient in a random direction around a random brightness."""
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    direction, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    gradient = math.cos(direction) * axis[None, :] + math.sin(direction) * axis[:, None]
    return (rng.uniform(0.9, 1.1) + strength * gradient)[..., None].astype(np.float32)


class _Drawer:
    """Draws the scenes of a split and remembers the latest; ``keep`` says what of a drawn scene is kept."""

    def __init__(self, recipe: SceneRecipe, seed: int, split: str, keep: Callable[..., _Drawn]):
        self._recipe, self._seed, self._split, self._keep = recipe, seed, split, keep
        self._cache: OrderedDict[str, _Drawn] = OrderedDict()
        self._capacity = max(1, CACHED_PIXELS // recipe.size**2)

    def __call__(self, record: ImageRecord) -> _Drawn:
        if record.file_name in self._cache:
            self._cache.move_to_end(record.file_name)
            return self._cache[record.file_name]
        index = int(record.file_name.removesuffix(".png").rpartition("_")[2])
        rng = np.random.default_rng(stable_seed("scene", self._seed, self._split, index))
        drawn = self._keep(*draw_scene(self._recipe, rng))
        self._cache[record.file_name] = drawn
        if len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return drawn


def _image_only(image: np.ndarray, ids: np.ndarray, category_of: Mapping[int, int]) -> np.ndarray:
    return image


def _image_and_annotation(
    image: np.ndarray, ids: np.ndarray, category_of: Mapping[int, int]
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    return image, ids.astype(np.int32), describe_segments(ids, category_of)


def scene_records(count: int, split: str, size: int) -> list[ImageRecord]:
    """The records of a split of scenes; an id names its split, so that no draw is shared between splits."""
    names = [f"{split}_{index:06d}" for index in range(count)]
    return [ImageRecord(name, f"{name}.png", size, size) for name in names]


class Scenes:
    """A split of synthetic scenes with ground truth: an `AnnotatedSource`.

    Args:
        count: number of scenes, at least 1.
        seed: of the drawing; scene ``i`` depends on ``(seed, split, i)`` and the recipe only, not on ``count``.
        split: name of the split.
        name: name of the data set.
        recipe: fields of `SceneRecipe`.
    """

    categories = CATEGORIES

    def __init__(self, count: int, seed: int, split: str, name: str = "scenes", **recipe: Any):
        if count < 1:
            raise ValueError(f"A split needs at least one scene, count is {count}.")
        self.name = name
        self.recipe = SceneRecipe(**recipe)
        self.records = scene_records(count, split, self.recipe.size)
        self.fingerprint = content_hash("scenes", VERSION, asdict(self.recipe), count, seed, split)
        self._draw = _Drawer(self.recipe, seed, split, _image_and_annotation)

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return self._draw(record)[0].copy()

    def read_annotation(self, record: ImageRecord) -> Annotation:
        _, ids, segments = self._draw(record)
        return Annotation(ids.astype(np.int64), [dict(segment) for segment in segments])


class SceneImages:
    """The images of `Scenes` with the same arguments, and nothing else of them: an `ImageSource`.

    Args:
        records: the scenes of a points file; DataError if they are not scenes of this split and size.
    """

    def __init__(self, records: Sequence[ImageRecord], seed: int, split: str, name: str = "scenes", **recipe: Any):
        self.name = name
        self.records = list(records)
        self.recipe = SceneRecipe(**recipe)
        for record in self.records:
            prefix, _, number = str(record.id).rpartition("_")
            expected = (f"{record.id}.png", self.recipe.size, self.recipe.size)
            if prefix != split or not number.isdecimal() or (record.file_name, record.height, record.width) != expected:
                raise DataError(
                    f"Image {record.file_name} ({record.width} x {record.height}) is no scene of split '{split}' and size "
                    f"{self.recipe.size}: the points file belongs to another data set, draw the points again."
                )
        self._draw = _Drawer(self.recipe, seed, split, _image_only)

    def read_image(self, record: ImageRecord) -> np.ndarray:
        return self._draw(record).copy()


def scenes_from_config(config: Mapping[str, Any], split: str) -> Scenes:
    """The annotated source of a ``scenes`` config: the fields of `SceneRecipe`, and ``count`` and ``seed`` per split."""
    return Scenes(config[split]["count"], config[split]["seed"], split, config["name"], **_recipe(config))


def scene_images_from_config(config: Mapping[str, Any], split: str, records: Sequence[ImageRecord]) -> SceneImages:
    """The images of a ``scenes`` config, for the records of a points file."""
    return SceneImages(records, config[split]["seed"], split, config["name"], **_recipe(config))


def _recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: config[field.name] for field in fields(SceneRecipe)}
