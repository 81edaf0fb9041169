"""Unit numbers: how many pixels each supplier has to give (Point2Mask section 3.3 and Eq. 4).

An *owner map* gives each pixel to one supplier, and -1 where there is none; the numbers are the sizes of its regions among
the consumers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.ops.assignment import DistanceScale, distance_likelihood
from methods.ops.full_size import cheapest_supplier
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import point_cells
from methods.point2mask.cost import supply_costs


def nearest_owners(distances: Tensor, size: tuple[int, int], scale: DistanceScale = DistanceScale()) -> Tensor:
    """The supplier at the smallest cost of each pixel (Point2Mask Eq. 4); the lowest index on ties.

    Args:
        distances: (n, h, w) float32 of the grid; inf where a supplier has no source.
        size: (height, width) of the image.
        scale: what stands for inf.

    Returns:
        (height, width) int64 in ``0 .. n - 1``, -1 if n is 0.
    """
    if not len(distances):
        return torch.full(size, -1, device=distances.device)
    return cheapest_supplier(supply_costs(distances, scale), None, size)


def likeliest_owners(distances: Tensor, weights: Tensor, scale: DistanceScale = DistanceScale()) -> Tensor:
    """The supplier with the largest product of nearness and class (Point2Mask released code), else as `nearest_owners`.

    Args:
        distances: (n, h, w) float32 of the grid.
        weights: (n, height, width) float, how well the class of each supplier fits a pixel.
        scale: how distances become likelihoods.
    """
    size = tuple(weights.shape[-2:])
    if not len(distances):
        return torch.full(size, -1, device=distances.device)
    return (distance_likelihood(distances, size, scale) * weights).max(dim=0).indices


def owned_counts(owners: Tensor, consumers: Tensor, count: int) -> Tensor:
    """Consumers in the region of each supplier.

    Args:
        owners: (h, w) int64 in ``-1 .. count - 1``.
        consumers: (h, w) bool, the pixels that want a supplier.
        count: number of suppliers n.

    Returns:
        (n,) float64, not negative; with a supplier for each, the sum is the number of consumers.
    """
    return _region_sums(owners, consumers, count)[:, 0]


def equal_counts(consumers: Tensor, count: int) -> Tensor:
    """Equal Division: the consumers (h, w) bool divided by ``count`` suppliers, (n,) float64."""
    return (consumers.sum().double() / max(1, count)).expand(count)


def centroids(owners: Tensor, consumers: Tensor, count: int) -> Tensor:
    """Centre of mass of each supplier's region, in whole pixels (rounded down, as in the released code).

    Args:
        owners, consumers, count: as in `owned_counts`.

    Returns:
        (n, 2) int64 row and column; -1 for an empty region.
    """
    sums = _region_sums(owners, consumers, count)
    areas = sums[:, :1]
    return torch.where(areas > 0, sums[:, 1:] / areas.clamp(min=1), -1).long()


def _region_sums(owners: Tensor, consumers: Tensor, count: int) -> Tensor:
    """(n, 3) float64: consumers in the region of each supplier, sum of their rows, sum of their columns."""
    if owners.device.type != "cpu":
        return region_sums_plain(owners, consumers, count)
    return torch.from_numpy(_region_sums_compiled(owners.numpy(), consumers.numpy(), count))


def region_sums_plain(owners: Tensor, consumers: Tensor, count: int) -> Tensor:
    """`_region_sums` without a compiled loop, on any device."""
    members = torch.where(consumers, owners + 1, 0).flatten()
    places = torch.meshgrid(*(torch.arange(side, device=owners.device) for side in owners.shape), indexing="ij")
    # sums of whole numbers: exact in double precision, in any order
    weights = (torch.ones_like(owners), *places)
    return torch.stack([torch.bincount(members, w.flatten().double(), minlength=count + 1)[1:] for w in weights], dim=1)


@njit(nogil=True, cache=True)
def _region_sums_compiled(owners: np.ndarray, consumers: np.ndarray, count: int) -> np.ndarray:
    sums = np.zeros((count, 3), dtype=np.float64)
    for row in range(owners.shape[0]):
        for col in range(owners.shape[1]):
            owner = owners[row, col]
            if consumers[row, col] and owner >= 0:
                sums[owner, 0] += 1
                sums[owner, 1] += row
                sums[owner, 2] += col
    return sums


def centroid_sources(
    owners: Tensor, consumers: Tensor, points: list[Tensor], grid: tuple[int, int], gate: bool = False
) -> list[Tensor]:
    """Where the distances of the next owner map start: the centroid of each region instead of its labelled pixels.

    An empty region keeps its labelled pixels.

    Args:
        owners, consumers: as in `owned_counts`.
        points: for each of n suppliers, (k, 2) int64 column and row of its labelled pixels; may be empty.
        grid: (height, width) of the distance grid.
        gate: a region also keeps its labelled pixels if its centroid, or every one of them, lies outside of it (released
            code); False takes every centroid (paper).

    Returns:
        n source sets (k, 2) int64 of rows and columns of the grid, on the CPU.
    """
    size = tuple(owners.shape)
    centres = centroids(owners, consumers, len(points)).cpu()
    # without a supplier at -1: pixels that are no consumers belong to no region
    region = torch.where(consumers, owners, -1).cpu()
    sources = []
    for index, (centre, xy) in enumerate(zip(centres, points, strict=True)):
        xy = xy.cpu()
        accepted = bool(centre[0] >= 0)
        if accepted and gate:
            holds_point = bool((region[xy[:, 1], xy[:, 0]] == index).any())
            accepted = holds_point and bool(region[centre[0], centre[1]] == index)
        sources.append(point_cells(centre.flip(0)[None] if accepted else xy, size, grid))
    return sources


@dataclass(frozen=True, slots=True)
class Counting:
    """How unit numbers are found.

    Attributes:
        units: ``"equal"``, ``"nearest"`` (regions of `nearest_owners` from the labelled pixels) or ``"centroid"`` (regions
            from the centroids of the regions before).
        iterations: moves of the sources to the centroids.
        gate: see `centroid_sources`.
        rule: ``"distance"`` or ``"likelihood"``: the owner maps of ``units="centroid"``.
    """

    units: Literal["equal", "nearest", "centroid"] = "centroid"
    iterations: int = 1
    gate: bool = False
    rule: Literal["distance", "likelihood"] = "distance"


@dataclass(frozen=True, slots=True)
class Market:
    """Suppliers and consumers of one image.

    Attributes:
        points: for each of n suppliers, (k, 2) int64 column and row of its labelled pixels; may be empty.
        consumers: (h, w) bool, the pixels that want a supplier.
        weights: (n, h, w) float, how well the class of each supplier fits a pixel; None where the rule is ``"distance"``.
    """

    points: list[Tensor]
    consumers: Tensor
    weights: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the image."""
        return tuple(self.consumers.shape)  # type: ignore[return-value]

    def owners(self, distances: Tensor, scale: DistanceScale) -> Tensor:
        """The owner map (h, w) of the distances (n, gh, gw) by the rule."""
        if self.weights is None:
            return nearest_owners(distances, self.size, scale)
        return likeliest_owners(distances, self.weights, scale)


def unit_numbers(
    markets: Sequence[Market],
    edge_costs: Sequence[Tensor],
    distances: Sequence[Tensor],
    counting: Counting,
    scale: DistanceScale = DistanceScale(),
) -> tuple[list[Tensor], list[Tensor]]:
    """Unit numbers of a batch, and the distances that they were counted with.

    Args:
        markets: of B images.
        edge_costs: B tensors (gh, gw, 8), the steps of each grid.
        distances: B tensors (n, gh, gw) float32 from the labelled pixels; inf where a supplier has none.
        counting: the scheme.
        scale: constants of the distances.

    Returns:
        B tensors (n,) float64 that sum to the number of consumers, and B tensors (n, gh, gw): the distances from the last
        centroids, or those given.
    """
    found = list(distances)
    if counting.units == "equal":
        return [equal_counts(market.consumers, len(market.points)) for market in markets], found
    if counting.units == "nearest":
        owners = [nearest_owners(d, market.size, scale) for market, d in zip(markets, found, strict=True)]
    else:
        owners = [market.owners(d, scale) for market, d in zip(markets, found, strict=True)]
        for _ in range(counting.iterations):
            sources = [
                centroid_sources(owner, market.consumers, market.points, tuple(costs.shape[:2]), counting.gate)
                for market, owner, costs in zip(markets, owners, edge_costs, strict=True)
            ]
            found = batched_geodesic_distances(edge_costs, sources)
            owners = [market.owners(d, scale) for market, d in zip(markets, found, strict=True)]
    pairs = zip(markets, owners, strict=True)
    return [owned_counts(owner, market.consumers, len(market.points)) for market, owner in pairs], found
