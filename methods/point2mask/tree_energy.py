"""RGB tree loss of Point2Mask: class probabilities should change where the colours change along the image's spanning tree.

Sources: Point2Mask supplement, Eq. 7; tree filter of Song et al., NeurIPS 2019; tree energy loss of Liang et al., CVPR 2022.

The filter ``P^ = S P / S 1`` averages the probabilities with the affinities S of the cells (`tree_sweeps.py`). S is
symmetric, so its gradient is S applied to ``gradient / S 1``: nothing of the sweeps is kept for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.base.losses import mean_over_devices
from methods.point2mask.spanning_tree import SpanningTree, spanning_tree
from methods.point2mask.tree_sweeps import CompiledSweeps, DoublingSweeps

CellSet = Literal["all", "unlabelled"]
CELL_SETS = ("all", "unlabelled")


def tree_filter(probs: Tensor, image: Tensor | None, sigma: float, tree: SpanningTree | None = None) -> Tensor:
    """``P^_i = sum_j S_ij P_j / sum_j S_ij`` over all cells j of the grid, i included (S_ii = 1).

    Args:
        probs: (K, h, w) float, any values. Gradient flows into it (of first order).
        image: (C, h, w), prepared as for `methods.point2mask.spanning_tree.spanning_tree`; no gradient. None if there is a
            ``tree``.
        sigma: positive; the sum of squared colour steps along a path at which the affinity has fallen to 1 / e.
        tree: the spanning tree of the image, if it is already there.

    Returns:
        (K, h, w) float64 for float64 probabilities, else float32, also under autocast, on the device of ``probs``.

    Raises:
        ValueError: ``sigma`` not positive, NaN or infinity in the image, wrong shape, grids of different sizes, or neither
            image nor tree.
    """
    if probs.ndim != 3:
        raise ValueError(f"Probabilities to filter have shape (classes, height, width), got {tuple(probs.shape)}.")
    if image is not None and image.shape[1:] != probs.shape[1:]:
        raise ValueError(
            f"Image {tuple(image.shape)} and probabilities {tuple(probs.shape)} are on different grids; resize the image."
        )
    if tree is None:
        if image is None:
            raise ValueError("The tree filter needs an image or its spanning tree, got neither.")
        tree = spanning_tree(image)
    if tree.size != tuple(probs.shape[1:]):
        raise ValueError(f"The spanning tree has {tree.size} cells, the probabilities {tuple(probs.shape[1:])}.")
    return tree_filter_batch(probs[None], [tree], sigma)[0]


def tree_filter_batch(probs: Tensor, trees: Sequence[SpanningTree], sigma: float) -> Tensor:
    """`tree_filter` of several images at once.

    Args:
        probs: (B, K, h, w) float. Gradient flows into it.
        trees: B spanning trees. Each covers the valid part of its image, the top left ``tree.size`` cells.
        sigma: positive.

    Returns:
        (B, K, h, w) as `tree_filter`; padded cells are 0, and no gradient comes from or goes to them.

    Raises:
        ValueError: ``sigma`` not positive, wrong shape or type, wrong number of trees, or a tree larger than the grid.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"The sigma of the tree filter must be positive and finite, got {sigma}.")
    if probs.ndim != 4 or not probs.is_floating_point():
        raise ValueError(
            f"Probabilities are float tensors (batch, classes, height, width), got {probs.dtype} {tuple(probs.shape)}."
        )
    if len(trees) != len(probs):
        raise ValueError(f"Got {len(trees)} spanning trees for {len(probs)} images; give one for each.")
    for index, tree in enumerate(trees):
        if tree.size[0] > probs.shape[2] or tree.size[1] > probs.shape[3]:
            raise ValueError(
                f"The spanning tree of image {index} has {tree.size} cells, more than the grid {tuple(probs.shape[2:])}."
            )
    probs = _at_least_float32(probs)
    make_operator = CompiledSweeps if probs.device.type == "cpu" else DoublingSweeps
    return _TreeFilter.apply(probs, make_operator(trees, sigma, probs))


def tree_energy_loss(
    probs: Tensor,
    trees: Sequence[SpanningTree],
    labelled: Tensor | None = None,
    sigma: float = 0.02,
    *,
    sum_over: CellSet = "all",
    divide_by: CellSet = "all",
) -> Tensor:
    """Sum over cells and classes of ``|P - P^|``, divided by a number of cells of the batch.

    Gradient flows into P on both sides of the difference. Padded cells, those outside the trees, have no part in it.

    ============  ============  ==============================================================
    sum_over      divide_by
    ============  ============  ==============================================================
    all           all           Point2Mask supplement, Eq. 7 (without its minus sign, a slip)
    all           unlabelled    Point2Mask released code
    unlabelled    unlabelled    tree energy loss of Liang et al.
    ============  ============  ==============================================================

    A cell that dilated points of several classes cover is labelled, once. (The released code subtracts it from the number
    of unlabelled cells once for each further class, an accident that is not rebuilt.)

    Args:
        probs: (B, K, h, w) float class probabilities.
        trees: B spanning trees of the valid part of each image.
        labelled: (B, h, w) bool, the cells under (dilated) labelled points; None only if both options are ``"all"``.
        sigma: positive, θ2 of the paper.
        sum_over: the cells whose difference is summed. The filter always reads all valid cells.
        divide_by: the cells that are counted, in the whole batch and averaged over devices; at least 1.

    Returns:
        Scalar, not negative; 0 where the probabilities are constant.

    Raises:
        ValueError: as `tree_filter_batch`; an unknown option; ``labelled`` missing, not bool, or on another grid.
    """
    for name, option in (("sum_over", sum_over), ("divide_by", divide_by)):
        if option not in CELL_SETS:
            raise ValueError(f"The tree energy loss has no {name} '{option}'; it is one of {', '.join(CELL_SETS)}.")
    smoothed = tree_filter_batch(probs, trees, sigma)
    valid = torch.zeros(len(probs), *probs.shape[2:], dtype=torch.bool, device=probs.device)
    for mask, tree in zip(valid, trees, strict=True):
        mask[: tree.size[0], : tree.size[1]] = True
    cells = {"all": valid}
    if "unlabelled" in (sum_over, divide_by):
        cells["unlabelled"] = valid & ~_checked_labelled(labelled, valid)
    # chosen before the absolute value, so that whatever stands in the padding cannot reach the gradient
    change = torch.where(cells[sum_over][:, None], _at_least_float32(probs) - smoothed, 0.0).abs()
    return change.sum() / mean_over_devices(cells[divide_by].sum()).clamp(min=1)


def _checked_labelled(labelled: Tensor | None, valid: Tensor) -> Tensor:
    if labelled is None:
        raise ValueError("The tree energy loss over or by unlabelled cells needs the mask 'labelled'.")
    if labelled.dtype != torch.bool or labelled.shape != valid.shape:
        raise ValueError(f"'labelled' must be bool {tuple(valid.shape)}, got {labelled.dtype} {tuple(labelled.shape)}.")
    return labelled.to(valid.device)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


class _TreeFilter(torch.autograd.Function):
    """``P -> S P / S 1`` of a batch; the gradient is ``S (gradient / S 1)``."""

    @staticmethod
    def forward(ctx, probs: Tensor, operator: CompiledSweeps | DoublingSweeps) -> Tensor:
        ctx.operator = operator
        return operator(probs)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.operator(gradient, transposed=True), None
