"""The query generator of FDD: instance queries from the encoder's features at the labelled cells (Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.embedding import LevelProjector, Projection
from methods.base.types import Features
from methods.ops.instance_queries import Pooling, instance_queries

__all__ = ["LearnedMap", "QueryFeatures", "instance_queries", "padded_queries"]


class QueryFeatures(LevelProjector):
    """F_proj: the encoder map at 1/8 after two convolutions with a ReLU between; gradient reaches the encoder.

    Args:
        channels: width D of the encoder maps and of the result.
        projection: encoder maps that are read, and the hidden width.
        kernel: side of both convolutions, odd.

    Raises:
        ValueError: the kernel is even or below 1.
    """

    def __init__(self, channels: int, projection: Projection = Projection(1, ("map",)), kernel: int = 1):
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"The query generator's kernel must be an odd number of cells, got {kernel}.")
        super().__init__(channels, channels, projection, detach=False)
        if kernel > 1:
            hidden = self.project[0].out_channels
            self.project = nn.Sequential(
                nn.Conv2d(channels, hidden, kernel, padding="same"), nn.ReLU(),
                nn.Conv2d(hidden, channels, kernel, padding="same"),
            )  # fmt: skip


class LearnedMap(nn.Module):
    """A learned embedding of every place, the same for all images (FDD Table 4, the row without F_proj).

    Args:
        channels: width D of the embedding.
        size: (height, width) of the table; it is resized bilinearly to the maps of a batch. Initialised N(0, 1).
    """

    def __init__(self, channels: int, size: Sequence[int]):
        super().__init__()
        height, width = size
        self.table = nn.Parameter(torch.randn(1, channels, height, width))

    def forward(self, features: Features) -> Tensor:
        """(B, D, h, w) at the size of the finest encoder map, which covers the padded input."""
        finest = features.maps[0]
        resized = F.interpolate(self.table, size=finest.shape[-2:], mode="bilinear", align_corners=False)
        return resized.expand(len(finest), -1, -1, -1)


def padded_queries(
    features: Tensor, labels: Tensor, present: Tensor, pooling: Pooling = "max", normalise: bool = False
) -> Tensor:
    """`instance_queries` of a batch.

    Args:
        features: (B, D, h, w).
        labels: (B, h, w) int64 target of each cell, negative where unlabelled.
        present: (B, N) bool, targets that exist; N is the largest number of targets.
        pooling: see `instance_queries`.
        normalise: give each query mean 0 and variance 1 over its D channels, the scale at which learned queries and
            positions start.

    Returns:
        (B, N, D), zeros for targets that do not exist or have no cell.
    """
    images = zip(features, labels, strict=True)
    queries = torch.stack([instance_queries(image, cells, present.shape[1], pooling) for image, cells in images])
    return F.layer_norm(queries, queries.shape[-1:]) if normalise else queries
