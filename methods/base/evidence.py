"""What the labels of an image were decided from, as maps to look at: distances, costs, confidences.

Labels are never made from these objects; they exist for pictures. The maths here is what several methods share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base.types import PointLabels
from methods.ops.assignment import point_distances
from methods.ops.edges import neighbour_values
from methods.ops.instance_split import ClassifiedImage, InstanceSplit
from methods.ops.rasterize import resample

PATHS = {
    "geodesic": "Length of the cheapest path over semantics and edges from a target of the pixel's class, which takes it.",
    "transport": "Length of the path over semantics and edges from the target that transport within the class gave the "
    "pixel.",
}
"""Assignment along paths -> what its map is."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One map of an image that its labels were decided from.

    Attributes:
        name: short, for captions, each once in an image: ``"traversing distance"``.
        about: what a value is, in a sentence.
        bright: what a high value means: ``"far"``.
        values: (h, w) float32 of any resolution, without gradient; it covers the valid part of the image. Not finite where
            there is none.
        unit: of the values, "" without one.
        missing: what a value that is not finite means.
    """

    name: str
    about: str
    bright: str
    values: Tensor
    unit: str = ""
    missing: str = "no value"


def least(maps: Tensor) -> Tensor:
    """(h, w) minimum over maps (n, h, w), one for each target; inf everywhere if there is none."""
    return maps.amin(dim=0) if len(maps) else maps.new_full(maps.shape[1:], torch.inf)


def largest(maps: Tensor) -> Tensor:
    """(h, w) maximum over maps (n, h, w), one for each target; inf everywhere if there is none."""
    return maps.amax(dim=0) if len(maps) else maps.new_full(maps.shape[1:], torch.inf)


def distance_to_points(points: PointLabels, size: tuple[int, int], pixel_classes: Tensor | None = None) -> Tensor:
    """Euclidean distance of every pixel to the nearest labelled pixel.

    Args:
        points: of the image.
        size: (height, width).
        pixel_classes: (height, width) int64 class of each pixel (-1 = void); then only labelled pixels of its class count.
            None: all do.

    Returns:
        (height, width) float32 in pixels, inf where no labelled pixel counts.
    """
    nearest = torch.full(size, torch.inf, device=points.xy.device)
    squared = point_distances(points.xy, points.target, points.num_targets, size)
    for each, label in zip(squared, points.classes, strict=True):
        counted = each if pixel_classes is None else each.masked_fill(pixel_classes != label, torch.inf)
        nearest = torch.minimum(nearest, counted)
    return nearest.sqrt()


def step_cost(costs: Tensor) -> Tensor:
    """Mean cost of the steps from each cell to its neighbours, which shortest paths add up: high on boundaries.

    Args:
        costs: (h, w, 8) float cost of leaving a cell towards each neighbour, in the order of
            `methods.ops.geodesic.NEIGHBOURS`; steps that leave the grid do not count.

    Returns:
        (h, w) float32; 0 for a cell without a neighbour.
    """
    inside = neighbour_values(torch.ones_like(costs[None, ..., 0]))[:, 0].permute(1, 2, 0)
    return ((costs * inside).sum(dim=-1) / inside.sum(dim=-1).clamp(min=1)).float()


def valid_part(values: Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    """The valid part of a padded map at about its own resolution.

    Args:
        values: (C, a, b) float map that covers the padded input.
        size: (height, width) of the valid part in input pixels.
        input_size: (H, W) of the padded input.

    Returns:
        (C, h, w), h and w at least 1; ``values`` themselves without padding.
    """
    a, b = values.shape[-2:]
    grid = max(1, round(size[0] * a / input_size[0])), max(1, round(size[1] * b / input_size[1]))
    return resample(values.float(), size, input_size, grid)


def distance_to_owner(distances: Tensor, segment_ids: Tensor) -> Tensor:
    """The distance of each cell to the target that it was given.

    Args:
        distances: (n, h, w) float distance of the cells of a grid to each target.
        segment_ids: (H, W) int64 of the image that the grid covers; 0 = void, ``i + 1`` = target ``i``.

    Returns:
        (h, w) float32, inf for cells whose centre is void.
    """
    grid, size = distances.shape[-2:], segment_ids.shape
    rows, cols = (
        torch.div((2 * torch.arange(n, device=segment_ids.device) + 1) * side, 2 * n, rounding_mode="floor")
        for n, side in zip(grid, size, strict=True)
    )
    ids = segment_ids[rows][:, cols]
    void = distances.new_full((1, *grid), torch.inf)
    return torch.cat([void, distances]).gather(0, ids[None])[0]


def split_evidence(split: InstanceSplit, images: Sequence[ClassifiedImage]) -> list[Evidence]:
    """The distance that an assignment step gave each pixel of a class map to its target by, one map for each image.

    Args:
        split: the step.
        images: as it is given them.
    """
    if split.assignment == "nearest":
        return [euclidean(image.points, image.size, image.classes) for image in images]
    found = []
    for distances, segment_ids in zip(split.path_distances(images), split.segments(images), strict=True):
        owned = distance_to_owner(distances, segment_ids)
        found.append(Evidence("path distance", PATHS[split.assignment], "far", owned, missing="void"))
    return found


def euclidean(points: PointLabels, size: tuple[int, int], pixel_classes: Tensor | None = None) -> Evidence:
    """`distance_to_points` as evidence."""
    distances = distance_to_points(points, size, pixel_classes)
    about = "Euclidean distance, in pixels of the network's input, to the nearest point{}, whose target takes the pixel."
    if pixel_classes is None:
        return Evidence("distance to the nearest point", about.format(""), "far", distances, "px", "no point in the image")
    about = about.format(" of the pixel's class")
    return Evidence("distance within the class", about, "far", distances, "px", "void")
