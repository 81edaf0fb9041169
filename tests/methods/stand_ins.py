"""Small batches, points and encoder features for tests of labelers, and what constructors take."""

import inspect
from dataclasses import asdict, is_dataclass

import torch

from methods.base.types import (
    Categories,
    Category,
    Features,
    MaskBatch,
    MaskSample,
    PointBatch,
    PointLabels,
    PointSample,
    PseudoLabels,
    collate,
)


def categories(num_things: int = 2, num_stuff: int = 2) -> Categories:
    """Things ``thing0, ...`` then stuff ``stuff0, ...``."""
    names = [(f"thing{i}", True) for i in range(num_things)] + [(f"stuff{i}", False) for i in range(num_stuff)]
    return Categories(Category(i + 1, name, is_thing) for i, (name, is_thing) in enumerate(names))


def point_labels(places: list[tuple[int, int, int]], classes: list[int], num_things: int = 2) -> PointLabels:
    """Points from (x, y, target) triples; classes below ``num_things`` are things."""
    rows = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
    labels = torch.tensor(classes, dtype=torch.int64)
    return PointLabels(rows[:, :2], rows[:, 2], labels, labels < num_things, torch.arange(1, len(classes) + 1))


def point_batch(images: list[torch.Tensor], points: list[PointLabels]) -> PointBatch:
    """A collated batch of images with points."""
    pairs = enumerate(zip(images, points, strict=True))
    return collate([PointSample(image, p, i, tuple(image.shape[-2:])) for i, (image, p) in pairs])


def mask_batch(images: list[torch.Tensor], points: list[PointLabels], ids: list[torch.Tensor], ignore=None) -> MaskBatch:
    """A collated batch with ground truth: ``ids`` (h, w) hold 0 or target index + 1."""
    samples = []
    for i, (image, p, segment_ids) in enumerate(zip(images, points, ids, strict=True)):
        size = tuple(image.shape[-2:])
        unknown = None if ignore is None else ignore[i]
        target = PseudoLabels.from_segment_ids(segment_ids, p.classes, p.is_thing, size, ignore=unknown)
        samples.append(MaskSample(image, p, i, size, target))
    return collate(samples)


def features_for(batch: PointBatch, channels: int = 16, requires_grad: bool = False) -> Features:
    """Random encoder features of a batch, at 1/8, 1/16 and 1/32."""
    count, (height, width) = len(batch.images), batch.input_size
    sizes = [(-(-height // s), -(-width // s)) for s in (8, 16, 32)]
    maps = [torch.randn(count, channels, *size, requires_grad=requires_grad) for size in sizes]
    positions = [torch.randn(count, channels, *size) for size in sizes]
    levels = torch.randn(3, channels, requires_grad=requires_grad)
    padding = [
        torch.nn.functional.interpolate(batch.padding[:, None].float(), size=size, mode="nearest")[:, 0].bool()
        for size in sizes
    ]
    return Features(maps, positions, levels, padding, None, batch.input_size)


def defaults_of(function) -> dict:
    """The options of a constructor with their defaults as a config file holds them: groups as mappings, tuples as lists."""

    def plain(value):
        if is_dataclass(value):
            return {key: plain(each) for key, each in asdict(value).items()}
        return list(value) if isinstance(value, tuple) else value

    parameters = inspect.signature(function).parameters.values()
    return {p.name: plain(p.default) for p in parameters if p.default is not p.empty}
