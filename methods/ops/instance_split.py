"""The assignment step: from a class map to instances, given the labelled pixels. Semantic methods need one to be panoptic.

Ground-truth semantics go through the same step, which bounds what any semantic method can reach with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from methods.ops.assignment import assign, point_distances
from methods.ops.edges import Sobel, path_costs
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import grid_size, point_cells, resample
from methods.ops.unit_transport import Solver, transport_offsets

if TYPE_CHECKING:
    from methods.base.types import PointLabels

ASSIGNMENTS = ("nearest", "geodesic", "transport")


@dataclass(frozen=True, slots=True)
class ClassifiedImage:
    """One image whose pixels have a class each.

    Attributes:
        rgb: (3, H, W) float RGB in [0, 1], padded.
        classes: (h, w) int64 class of each pixel of the valid part, -1 = void.
        probs: (c, h, w) float probabilities of the classes that occur, which paths are followed through; one-hot for
            certain classes.
        points: of the image.
    """

    rgb: Tensor
    classes: Tensor
    probs: Tensor
    points: PointLabels

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the valid part."""
        return tuple(self.classes.shape)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class InstanceSplit:
    """How the pixels of a class are shared out among its targets.

    Attributes:
        assignment: ``"nearest"``, to the nearest labelled pixel (Euclidean); ``"geodesic"``, to the smallest traversing
            distance of PSPS over the probabilities and Sobel edges, without pixel embedding; ``"transport"``, by optimal
            transport within each class, with these distances as cost and as many units for each target as it has pixels
            by ``"nearest"``. (Units by the cost itself would be met by the smallest cost exactly.)
        lambda_edge: weight of the edges in the distance; the semantic term has weight 1.
        sobel: how the edge map is normalised.
        stride: pixels per cell of the distance grid; None chooses by the short side (`grid_stride`).
        solver: how transport is solved.

    Raises:
        ValueError: unknown ``assignment``.
    """

    assignment: Literal["nearest", "geodesic", "transport"] = "nearest"
    lambda_edge: float = 0.1
    sobel: Sobel = Sobel()
    stride: int | None = None
    solver: Solver = Solver()

    def __post_init__(self):
        if self.assignment not in ASSIGNMENTS:
            raise ValueError(f"There is no assignment '{self.assignment}'; it is one of {', '.join(ASSIGNMENTS)}.")

    def segments(self, images: Sequence[ClassifiedImage]) -> list[Tensor]:
        """For each image, (h, w) int64 segment ids: 0 = void, ``i + 1`` = target ``i``.

        A pixel only ever goes to a target of its class. A target without a labelled pixel gets none, and the pixels of a
        class without one are void; ties go to the lowest target.
        """
        if self.assignment == "nearest":
            return [nearest_segments(image) for image in images]
        grids = self.path_distances(images)
        if self.assignment == "transport":
            grids = self._transported(images, grids)
        return [
            assign(_at_pixels(distances, image.size), image.size, image.points.classes, image.classes)
            for image, distances in zip(images, grids, strict=True)
        ]

    def path_distances(self, images: Sequence[ClassifiedImage]) -> list[Tensor]:
        """For each image, (n, gh, gw) float32 path lengths from its targets on its grid; inf for a target without a labelled
        pixel."""
        costs, sources = [], []
        for image in images:
            grid, padded = grid_size(image.size, self.stride), tuple(image.rgb.shape[-2:])
            probs = resample(image.probs.detach(), image.size, image.size, grid)
            rgb = resample(image.rgb.float(), image.size, padded, grid)
            steps = path_costs(probs, rgb, self.lambda_edge, self.sobel)
            costs.append(steps)
            cells, target = point_cells(image.points.xy, image.size, grid).cpu(), image.points.target.cpu()
            sources.append([cells[target == index] for index in range(image.points.num_targets)])
        return batched_geodesic_distances(costs, sources)

    def _transported(self, images: Sequence[ClassifiedImage], grids: Sequence[Tensor]) -> list[Tensor]:
        """The same distances minus what each target's units are worth: their argmin within a class is the plan's argmax."""
        markets = [(i, *market) for i, image in enumerate(images) for market in class_markets(image)]
        costs = [grids[i][targets] for i, targets, _, _ in markets]
        supplies, consumers = [m[2] for m in markets], [m[3] for m in markets]
        moved = [grid.clone() for grid in grids]
        offsets = transport_offsets(costs, supplies, consumers, self.solver)
        for (i, targets, _, _), offset in zip(markets, offsets, strict=True):
            moved[i][targets] -= offset[:, None, None]
        return moved


def nearest_segments(image: ClassifiedImage) -> Tensor:
    """(h, w) int64 segment ids: the nearest labelled pixel of the class."""
    points = image.points
    distances = point_distances(points.xy, points.target, points.num_targets, image.size)
    return assign(distances, image.size, points.classes, image.classes)


def class_markets(image: ClassifiedImage) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The classes in which there is something to share out: those with two or more targets that have labelled pixels.

    Returns:
        For each, (k,) int64 its targets with labelled pixels, (k,) float64 their unit numbers, which are the sizes of their
        regions by `nearest_segments`, and (h, w) bool the pixels of the class; units and pixels are equally many.
    """
    points = image.points
    labelled = torch.bincount(points.target, minlength=points.num_targets) > 0
    units = torch.bincount(nearest_segments(image).flatten(), minlength=points.num_targets + 1)[1:].double()
    markets = []
    for label in torch.unique(points.classes[labelled]):
        targets = torch.nonzero(labelled & (points.classes == label))[:, 0]
        if len(targets) > 1:
            markets.append((targets, units[targets], image.classes == label))
    return markets


def _at_pixels(distances: Tensor, size: tuple[int, int]) -> Tensor:
    """Distances (n, gh, gw) at full resolution, bilinearly; inf stays inf."""
    missing = torch.isinf(distances).flatten(1).all(dim=1)[:, None, None]
    return resample(distances.masked_fill(missing, 0.0), size, size, size).masked_fill(missing, torch.inf)
