"""The RGB tree loss of the semantic branch: `tree_energy_loss` of a batch of images with points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base.backbones import IMAGENET_MEAN, IMAGENET_STD
from methods.base.labels import Movable
from methods.base.point_losses import dilated_label_maps
from methods.base.preparation import finest_grid, piece_of
from methods.base.types import PointBatch
from methods.ops.rasterize import UNLABELLED
from methods.point2mask.spanning_tree import SpanningTree, spanning_trees
from methods.point2mask.tree_energy import tree_energy_loss


def color_trees(images: Tensor, padding: Tensor, grid: tuple[int, int]) -> list[SpanningTree]:
    """Spanning trees of the colours of a batch at a coarser grid, each over the valid part of its image.

    Colours have the mean and the deviation of ImageNet taken away, the scale that σ belongs to (Point2Mask released code).

    Args:
        images: (B, 3, H, W) float RGB in [0, 1].
        padding: (B, H, W) bool, True where padded: all but the top left part of each image.
        grid: (h, w).
    """
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    resized = F.interpolate(images.float(), size=grid, mode="bilinear", align_corners=False)
    padded = F.interpolate(padding[:, None].float(), size=grid, mode="bilinear", align_corners=False)[:, 0] > 0
    sides = torch.stack([(~padded).any(dim=2).sum(dim=1), (~padded).any(dim=1).sum(dim=1)], dim=1).clamp(min=1)
    return spanning_trees((resized - mean) / std, [(height, width) for height, width in sides.tolist()])


@dataclass(frozen=True, slots=True)
class PreparedTrees(Movable):
    """`color_trees` of a batch at a grid (height, width), made before the batch reached the device."""

    grid: tuple[int, int]
    trees: list[SpanningTree]


def prepared_trees(batch: PointBatch) -> PreparedTrees:
    """The trees that `color_tree_loss` wants, at the size of the finest encoder map."""
    grid = finest_grid(batch.input_size)
    return PreparedTrees(grid, color_trees(batch.images, batch.padding, grid))


def color_tree_loss(
    logits: Sequence[Tensor], batch: PointBatch, sigma: float = 0.02, normalizer: Literal["all", "unlabelled"] = "all",
    dilation: int = 17, reference_side: int | None = 600,
) -> Tensor:
    """The tree energy loss of the class probabilities of every layer, summed over the layers.

    Args:
        logits: (B, K, h, w) float class logits of each layer, covering the padded input.
        batch: images with points; trees that `prepared_trees` made of it are taken.
        sigma: of the filter, θ2 of the supplement.
        normalizer: the cells that the sum over all cells is divided by (supplement: all; released code: those that no
            dilated point covers).
        dilation, reference_side: square around a labelled pixel, see `dilated_label_maps`.

    Returns:
        Scalar, not negative, differentiable in the logits.
    """
    grid = tuple(logits[0].shape[-2:])
    labelled = None
    if normalizer == "unlabelled":
        labelled = dilated_label_maps(batch, grid, dilation, reference_side) != UNLABELLED
    # layers side by side as channels: all of them are filtered in one sweep along the trees
    probs = torch.cat([layer.float().softmax(dim=1) for layer in logits], dim=1)
    prepared = piece_of(batch, PreparedTrees, grid=grid)
    trees = color_trees(batch.images, batch.padding, grid) if prepared is None else prepared.trees
    return tree_energy_loss(probs, trees, labelled, sigma, divide_by=normalizer)
