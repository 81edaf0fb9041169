"""How much neighbouring cells disagree about their class: ``-log(p_i . p_j)`` summed over chosen pairs, with its gradient.

With ``q = p_i p_j / (p_i . p_j)``, the probabilities of the class that both ends share, the gradient of a pair's term is
``p_i - q`` in the logits of one end and ``p_j - q`` in those of the other (before the log-softmax: ``-q`` in the
log-probabilities of both). On a CPU a compiled kernel visits each pair once and writes nothing but that gradient. Anywhere
else, and as the reference of the tests, each offset is a log-sum-exp over two shifted maps.

The kernels compile on their first call, are cached on disk and release the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

_SMALLEST = np.float32(1e-30)
"""Below this agreement products of probabilities may have underflowed; the pair is then summed in the log domain."""


def disagreement(log_probs: Tensor, offsets: Sequence[tuple[int, int]], used: Tensor) -> Tensor:
    """``sum -log(p_i . p_j)`` over the used pairs of each image, every pair once.

    Args:
        log_probs: (B, K, h, w) float, log of probabilities that sum to one over K.
        offsets: n steps from i to j as (rows down, columns right), rows not negative.
        used: (n, B, h, w) bool at the cells i; False where j is outside of the map.

    Returns:
        (B,) float, not negative, differentiable once in ``log_probs``.
    """
    if log_probs.device.type != "cpu" or log_probs.dtype != torch.float32:
        return disagreement_plain(log_probs, offsets, used)
    return _Disagreement.apply(log_probs, np.array(offsets, dtype=np.int64).reshape(-1, 2), used)


def disagreement_plain(log_probs: Tensor, offsets: Sequence[tuple[int, int]], used: Tensor) -> Tensor:
    """`disagreement` by shifted maps, on any device."""
    total = log_probs.new_zeros(len(log_probs))
    for offset, pairs in zip(offsets, used, strict=True):
        log_i, log_j = shifted_pair(log_probs, offset)
        terms = -torch.logsumexp(log_i + log_j, dim=1)
        total = total + torch.where(shifted_pair(pairs, offset)[0], terms, 0.0).sum(dim=(1, 2))
    return total


def shifted_pair(values: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views (..., h', w') of a map (..., h, w) at the cells i and at their neighbours j = i + offset, where both exist.

    Empty if the offset leaves the map; both steps may be negative.
    """
    height, width = values.shape[-2:]

    def ends(step: int, side: int) -> tuple[slice, slice]:
        length = max(0, side - abs(step))
        start, moved = max(0, -step), max(0, step)
        return slice(start, start + length), slice(moved, moved + length)

    (row_i, row_j), (col_i, col_j) = ends(offset[0], height), ends(offset[1], width)
    return values[..., row_i, col_i], values[..., row_j, col_j]


class _Disagreement(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, offsets: np.ndarray, used: Tensor) -> Tensor:
        logs = log_probs.detach().contiguous()
        probs, slopes = logs.exp(), torch.zeros_like(logs)
        totals = np.zeros(len(logs), dtype=np.float64)
        steps = offsets @ np.array([logs.shape[3], 1])
        flat = [values.flatten(2).numpy() for values in (logs, probs, slopes)]
        pairs = used.transpose(0, 1).flatten(2).contiguous().numpy()
        for image in range(len(logs)):
            totals[image] = _image_disagreement(*(values[image] for values in flat), pairs[image], steps)
        ctx.save_for_backward(slopes)
        return torch.from_numpy(totals).to(log_probs.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, None, None, None], None, None


@njit(nogil=True, cache=True)
def _image_disagreement(
    logs: np.ndarray, probs: np.ndarray, slopes: np.ndarray, used: np.ndarray, steps: np.ndarray
) -> float:
    """The sum over the pairs of an image; ``slopes`` loses q at both ends of each.

    Args:
        logs, probs, slopes: (K, cells) float32.
        used: (n, cells) bool.
        steps: (n,) int64 from a cell to its neighbour. Lines run over the end of a row, so that they are long; no pair there
            is used.
    """
    cells = probs.shape[1]
    agreement, inverse = np.empty(cells, dtype=np.float32), np.empty(cells, dtype=np.float32)
    total = 0.0
    for index in range(len(steps)):
        pairs, step = used[index], steps[index]
        if not pairs.any():
            continue
        agreement[:] = 0
        for k in range(probs.shape[0]):
            _add_products(probs[k, : cells - step], probs[k, step:], agreement)
        for i in range(cells - step):
            inverse[i] = 0
            if pairs[i] and agreement[i] >= _SMALLEST:
                total -= math.log(agreement[i])
                inverse[i] = np.float32(1) / agreement[i]
            elif pairs[i]:
                total += _in_the_log_domain(logs[:, i], logs[:, i + step], slopes[:, i], slopes[:, i + step])
        for k in range(probs.shape[0]):
            _subtract_products(probs[k, : cells - step], probs[k, step:], inverse, slopes[k, : cells - step])
            _subtract_products(probs[k, : cells - step], probs[k, step:], inverse, slopes[k, step:])
    return total


@njit(nogil=True, cache=True)
def _add_products(here: np.ndarray, there: np.ndarray, out: np.ndarray) -> None:
    for x in range(here.shape[0]):
        out[x] += here[x] * there[x]


@njit(nogil=True, cache=True)
def _subtract_products(here: np.ndarray, there: np.ndarray, inverse: np.ndarray, out: np.ndarray) -> None:
    for x in range(out.shape[0]):
        out[x] -= here[x] * there[x] * inverse[x]


@njit(nogil=True, cache=True)
def _in_the_log_domain(
    here: np.ndarray, there: np.ndarray, slope_here: np.ndarray, slope_there: np.ndarray
) -> float:
    """One pair whose probabilities (K,) agree so little that only their logs say how much."""
    most = -np.inf
    for k in range(here.shape[0]):
        most = max(most, here[k] + there[k])
    total = 0.0
    for k in range(here.shape[0]):
        total += math.exp(here[k] + there[k] - most)
    for k in range(here.shape[0]):
        share = np.float32(math.exp(here[k] + there[k] - most) / total)
        slope_here[k] -= share
        slope_there[k] -= share
    return -(most + math.log(total))
