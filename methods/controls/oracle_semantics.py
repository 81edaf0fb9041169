"""Ground-truth semantics: what an assignment step alone can reach from the points."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.dense_labels import dense_labels
from methods.base.labeler import PseudoLabeler
from methods.base.types import Categories, Features, MaskBatch, PointLabels, Progress, PseudoLabels
from methods.ops.assignment import assign, point_distances
from methods.ops.edges import Sobel, edge_crossing, semantic_change, sobel_edges
from methods.ops.geodesic import batched_geodesic_distances
from methods.ops.rasterize import grid_size, point_cells, resample

ASSIGNMENTS = ("nearest", "geodesic")


class OracleSemantics(PseudoLabeler):
    """The true class of every pixel is given; the instance is the nearest target of that class.

    Args:
        categories: of the data set.
        channels: width of the encoder's maps (unused).
        assignment: ``"nearest"``, the Euclidean distance to the labelled pixels, or ``"geodesic"``, the traversing distance
            of PSPS with one-hot semantics and Sobel edges and without pixel embedding.
        lambda_edge: weight of the edges in the geodesic distance; the semantic term has weight 1.
        stride: pixels per cell of the distance grid; None chooses by the short side (`grid_stride`).
        sobel: how the edge map is normalised.

    Raises:
        ValueError: unknown ``assignment``.
    """

    supervision = "masks"
    note = "evaluation only: reads ground-truth semantics"

    def __init__(
        self, categories: Categories, channels: int, *,
        assignment: Literal["nearest", "geodesic"] = "nearest", lambda_edge: float = 0.1, stride: int | None = None,
        sobel: Sobel = Sobel(),
    ):
        super().__init__(categories, channels)
        if assignment not in ASSIGNMENTS:
            raise ValueError(
                f"Unknown assignment '{assignment}' of method 'oracle_semantics'; it is one of {', '.join(ASSIGNMENTS)}."
            )
        self.assignment, self.lambda_edge, self.stride, self.sobel = assignment, lambda_edge, stride, sobel

    def predict_maps(self, features: Features | None, batch: MaskBatch) -> None:
        return None

    def pseudo_labels(self, maps: Any, batch: MaskBatch, progress: Progress) -> list[PseudoLabels]:
        classes = [_true_classes(target, size) for target, size in zip(batch.targets, batch.sizes, strict=True)]
        if self.assignment == "nearest":
            distances = [
                point_distances(points.xy, points.target, points.num_targets, size)
                for points, size in zip(batch.points, batch.sizes, strict=True)
            ]
        else:
            distances = self._geodesics(classes, batch)
        labels = []
        for distance, pixel_classes, points, target in zip(distances, classes, batch.points, batch.targets, strict=True):
            size = tuple(pixel_classes.shape)
            segment_ids = assign(distance, size, points.classes, pixel_classes)
            ignore = target.ignore[: size[0], : size[1]]
            labels.append(dense_labels(segment_ids, points, batch.input_size, ignore))
        return labels

    def _geodesics(self, classes: list[Tensor], batch: MaskBatch) -> list[Tensor]:
        """For each image, (n, h, w) distances at full resolution; inf where a target has no labelled pixel."""
        costs, sources = [], []
        for image, pixel_classes, points, size in zip(batch.images, classes, batch.points, batch.sizes, strict=True):
            grid = grid_size(size, self.stride)
            probs = (pixel_classes == torch.unique(points.classes)[:, None, None]).float()
            edges = sobel_edges(resample(image.float(), size, batch.input_size, grid), self.sobel)
            costs.append(semantic_change(resample(probs, size, size, grid)) + self.lambda_edge * edge_crossing(edges))
            sources.append(_sources(points, size, grid))
        distances = batched_geodesic_distances(costs, sources)
        return [_enlarged(one, size) for one, size in zip(distances, batch.sizes, strict=True)]

    def losses(
        self, maps: Any, labels: list[PseudoLabels], batch: MaskBatch, progress: Progress
    ) -> dict[str, Tensor]:
        return {}


def _true_classes(target: PseudoLabels, size: tuple[int, int]) -> Tensor:
    """(h, w) int64 class of each pixel of the valid part, -1 where void."""
    table = torch.cat([target.classes.new_full((1,), -1), target.classes])
    return table[target.segment_ids[: size[0], : size[1]]]


def _sources(points: PointLabels, size: tuple[int, int], grid: tuple[int, int]) -> list[Tensor]:
    cells, target = point_cells(points.xy, size, grid).cpu(), points.target.cpu()
    return [cells[target == index] for index in range(points.num_targets)]


def _enlarged(distances: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(distances):
        return distances.new_zeros(0, *size)
    missing = torch.isinf(distances).flatten(1).all(dim=1)
    known = distances.masked_fill(missing[:, None, None], 0.0)
    enlarged = F.interpolate(known[None], size=size, mode="bilinear", align_corners=False)[0]
    return enlarged.masked_fill(missing[:, None, None], torch.inf)
