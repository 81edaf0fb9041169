"""Multi-scale deformable attention on the CPU, compiled with numba.

mmcv's PyTorch version samples each level with ``grid_sample``, stacks the samples and multiplies them with the weights: at
small widths most of its time goes into moving those intermediate tensors. This one visits each sampling point once, as the
CUDA kernel of Deformable DETR does, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from methods.ops.parallel import in_threads

_KERNEL = {"nogil": True, "cache": True, "fastmath": {"reassoc", "contract"}}


def deformable_attention(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples (Deformable DETR, Eq. 3, between the two projections), differentiable.

    Args:
        value: (B, S, heads, D) float on the CPU, the cells of all levels behind one another, row-major.
        shapes: (levels, 2) integer height and width of each level; S cells in total.
        locations: (B, Q, heads, levels, points, 2) x and y in shares of a level's width and height; the centre of the first
            cell is half a cell from 0. Outside, values are 0.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D), of the type of ``value``.

    Raises:
        ValueError: the levels don't have S cells, or a tensor is not on the CPU.
    """
    if any(t.device.type != "cpu" for t in (value, locations, weights)):
        raise ValueError(f"This deformable attention runs on the CPU, but the values are on {value.device}.")
    sizes = shapes.detach().cpu().to(torch.int64)
    if int(sizes.prod(1).sum()) != value.shape[1]:
        raise ValueError(f"Levels of {sizes.tolist()} cells don't fit {value.shape[1]} values.")
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    out = _DeformableAttention.apply(value.to(kind), sizes, locations.to(kind), weights.to(kind))
    return out.to(value.dtype)


def sampling_locations(offsets: Tensor, references: Tensor, shapes: Tensor) -> Tensor:
    """Where queries look: their reference moved by offsets in cells of each level, or in shares of a reference box.

    Levels, points and axes of a head are one axis in the arithmetic: loops over an axis of length 2 are slow.

    Args:
        offsets: (B, Q, heads, levels, points, 2) float, x and y.
        references: (B, Q, levels, 2) points, or (B, Q, levels, 4) boxes as centre and size, in shares of a level.
        shapes: (levels, 2) integer height and width of each level.

    Returns:
        Of the shape of ``offsets``, in shares of a level's width and height (Deformable DETR, Sec. 4.1 and A.3).
    """
    points = offsets.shape[-2]

    def each_point(values: Tensor) -> Tensor:
        """(..., levels, 2) to (..., levels * points * 2)."""
        return values.unsqueeze(-2).expand(*values.shape[:-1], points, 2).flatten(-3)

    moved = offsets.flatten(3)
    if references.shape[-1] == 2:
        moved = moved / each_point(shapes.flip(1).to(moved.dtype))
    else:
        moved = moved / points * each_point(references[..., 2:]).unsqueeze(2) * 0.5
    return (each_point(references[..., :2]).unsqueeze(2) + moved).view_as(offsets)


def attention_layer(
    layer: nn.Module, query: Tensor, *, reference_points: Tensor, spatial_shapes: Tensor, value: Tensor | None = None,
    identity: Tensor | None = None, query_pos: Tensor | None = None, key_padding_mask: Tensor | None = None, **_: Any,
) -> Tensor:
    """``forward`` of mmcv's MultiScaleDeformableAttention, batch first, on the CPU.

    Args:
        layer: with its parameters.
        query, value, identity, query_pos, key_padding_mask, reference_points, spatial_shapes: as there.

    Returns:
        (B, Q, D).
    """
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    value = layer.value_proj(value)
    if key_padding_mask is not None:
        value = value.masked_fill(key_padding_mask[..., None], 0.0)
    samples = (layer.num_heads, layer.num_levels, layer.num_points)
    offsets = layer.sampling_offsets(query).unflatten(-1, (*samples, 2))
    weights = layer.attention_weights(query).unflatten(-1, (layer.num_heads, -1)).softmax(-1).view(offsets.shape[:-1])
    locations = sampling_locations(offsets, reference_points, spatial_shapes)
    attended = deformable_attention(value.unflatten(-1, (layer.num_heads, -1)), spatial_shapes, locations, weights)
    return layer.dropout(layer.output_proj(attended)) + identity


class _DeformableAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, sizes, locations, weights)
        batch, _, heads, width = value.shape
        out = value.new_empty(batch, locations.shape[1], heads, width)
        arrays = [t.detach().numpy() for t in (value, sizes, locations, weights, out)]
        _each_head(lambda image, head: _sample(image, head, *arrays), batch, heads)
        return out.flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, sizes, locations, weights = ctx.saved_tensors
        batch, _, heads, width = value.shape
        gradient = gradients[0].contiguous().view(batch, -1, heads, width)
        of_value, of_locations, of_weights = map(torch.zeros_like, (value, locations, weights))
        inputs = (value, sizes, locations, weights, gradient, of_value, of_locations, of_weights)
        arrays = [t.detach().numpy() for t in inputs]
        _each_head(lambda image, head: _sample_backward(image, head, *arrays), batch, heads)
        return of_value, None, of_locations, of_weights


def _each_head(work: Callable[[int, int], None], batch: int, heads: int) -> None:
    """Run ``work`` for every head of every image, in threads."""
    in_threads(work, *zip(*product(range(batch), range(heads)), strict=True))


@njit(**_KERNEL)
def _sample(image, head, value, sizes, locations, weights, out):
    width = value.shape[3]
    for query in range(locations.shape[1]):
        for d in range(width):
            out[image, query, head, d] = 0
        start = 0
        for level in range(len(sizes)):
            rows, cols = sizes[level, 0], sizes[level, 1]
            for point in range(locations.shape[4]):
                x = locations[image, query, head, level, point, 0] * cols - 0.5
                y = locations[image, query, head, level, point, 1] * rows - 0.5
                if not (-1 < x < cols and -1 < y < rows):  # also NaN
                    continue
                left, top = int(np.floor(x)), int(np.floor(y))
                weight = weights[image, query, head, level, point]
                for corner in range(4):
                    row, col = top + corner // 2, left + corner % 2
                    if 0 <= row < rows and 0 <= col < cols:
                        share = value.dtype.type(weight * (1 - abs(x - col)) * (1 - abs(y - row)))
                        cell = start + row * cols + col
                        for d in range(width):
                            out[image, query, head, d] += share * value[image, cell, head, d]
            start += rows * cols


@njit(**_KERNEL)
def _sample_backward(image, head, value, sizes, locations, weights, gradient, of_value, of_locations, of_weights):
    width = value.shape[3]
    for query in range(locations.shape[1]):
        start = 0
        for level in range(len(sizes)):
            rows, cols = sizes[level, 0], sizes[level, 1]
            for point in range(locations.shape[4]):
                x = locations[image, query, head, level, point, 0] * cols - 0.5
                y = locations[image, query, head, level, point, 1] * rows - 0.5
                if not (-1 < x < cols and -1 < y < rows):
                    continue
                left, top = int(np.floor(x)), int(np.floor(y))
                weight = weights[image, query, head, level, point]
                sampled = along_x = along_y = 0.0
                for corner in range(4):
                    row, col = top + corner // 2, left + corner % 2
                    if 0 <= row < rows and 0 <= col < cols:
                        share_x, share_y = 1 - abs(x - col), 1 - abs(y - row)
                        share = value.dtype.type(weight * share_x * share_y)
                        cell = start + row * cols + col
                        product = value.dtype.type(0)
                        for d in range(width):
                            slope = gradient[image, query, head, d]
                            product += slope * value[image, cell, head, d]
                            of_value[image, cell, head, d] += share * slope
                        sampled += share_x * share_y * product
                        along_x += (2 * (corner % 2) - 1) * share_y * product
                        along_y += (2 * (corner // 2) - 1) * share_x * product
                of_weights[image, query, head, level, point] = sampled
                of_locations[image, query, head, level, point, 0] = weight * along_x * cols
                of_locations[image, query, head, level, point, 1] = weight * along_y * rows
            start += rows * cols
