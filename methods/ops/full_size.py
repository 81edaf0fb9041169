"""Decisions at full resolution, most of them from coarse maps: which supplier is cheapest at a pixel, which instance is
likeliest, how probable a class is, which class is most probable.

The first three resize their maps bilinearly and then reduce them over suppliers or classes. On a CPU a compiled kernel
resizes along the rows first and along the columns as each row of pixels is needed, so that nothing but the result is ever
written at full resolution. Anywhere else, and as the reference of the tests, it is `resample` and a reduction.

The kernels compile on their first call, are cached on disk and release the GIL.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from methods.ops.rasterize import resample
from methods.ops.transport.kernels import exp2

_LOG2_E = np.float32(1 / math.log(2.0))
_FLAGS = {"reassoc", "contract", "nsz", "nnan"}


def cheapest_supplier(costs: Tensor, offsets: Tensor | None, size: tuple[int, int]) -> Tensor:
    """``argmin_i (c_ij - u_i)`` of every pixel j; the lowest index on ties.

    Args:
        costs: (n, gh, gw) float32 on a grid that covers the image, finite, n at least 1.
        offsets: (n,) float32 u, -inf for a supplier that gives nothing; None for zeros.
        size: (height, width) of the image.

    Returns:
        (height, width) int64 in ``0 .. n - 1``. No gradient.
    """
    costs = costs.detach()
    if costs.device.type != "cpu" or costs.dtype != torch.float32:
        return cheapest_supplier_plain(costs, offsets, size)
    offsets = torch.zeros(len(costs)) if offsets is None else offsets.detach().float()
    along_rows = _columns(costs, *_axis(costs.shape[2], size[1], size[1], size[1]))
    return torch.from_numpy(_cheapest(along_rows, offsets.numpy(), *_axis(costs.shape[1], size[0], size[0], size[0])))


def cheapest_supplier_plain(costs: Tensor, offsets: Tensor | None, size: tuple[int, int]) -> Tensor:
    """`cheapest_supplier` by maps of the full size, on any device."""
    full = resample(costs.detach(), size, size, size)
    return (full if offsets is None else full - offsets[:, None, None]).min(dim=0).indices


def class_probabilities(logits: Tensor, present: Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    """Softmax over all classes of the resized logits, for the classes that occur.

    Args:
        logits: (K, h, w) float class logits that cover the padded input.
        present: (c,) int64, the classes that are wanted.
        size: (height, width) of the valid part of the image.
        input_size: (H, W) of the padded input.

    Returns:
        (c, height, width) float32 in [0, 1]. No gradient.
    """
    logits = logits.detach().float()
    if logits.device.type != "cpu":
        return class_probabilities_plain(logits, present, size, input_size)
    along_rows = _columns(logits, *_axis(logits.shape[2], size[1], input_size[1], size[1]))
    rows = _axis(logits.shape[1], size[0], input_size[0], size[0])
    return torch.from_numpy(_probabilities(along_rows, present.numpy(), *rows))


def class_probabilities_plain(
    logits: Tensor, present: Tensor, size: tuple[int, int], input_size: tuple[int, int]
) -> Tensor:
    """`class_probabilities` by maps of the full size, on any device."""
    full = resample(logits.detach().float(), size, input_size, size)
    return (full[present] - full.logsumexp(dim=0)).exp()


def likeliest_instance(distances: Tensor, probs: Tensor, rows: Tensor, shared: Tensor) -> Tensor:
    """``argmax_i (1 - D_ij) (P_ij + sum of the shared P_kj)`` of every pixel j; the lowest index on ties.

    Args:
        distances: (n, gh, gw) float32 D in [0, 1] on a grid that covers the image, n at least 1.
        probs: (c, h, w) float32 probabilities.
        rows: (n,) int64 in ``0 .. c - 1``, whose probability is P_i.
        shared: (c,) bool, the rows that every instance may take pixels from.

    Returns:
        (h, w) int64 in ``0 .. n - 1``. No gradient.
    """
    distances, probs = distances.detach(), probs.detach()
    if distances.device.type != "cpu" or distances.dtype != torch.float32 or probs.dtype != torch.float32:
        return likeliest_instance_plain(distances, probs, rows, shared)
    height, width = probs.shape[1:]
    along_rows = _columns(distances, *_axis(distances.shape[2], width, width, width))
    axis = _axis(distances.shape[1], height, height, height)
    return torch.from_numpy(_likeliest(along_rows, probs.contiguous().numpy(), rows.numpy(), shared.numpy(), *axis))


def likeliest_instance_plain(distances: Tensor, probs: Tensor, rows: Tensor, shared: Tensor) -> Tensor:
    """`likeliest_instance` by maps of the full size, on any device."""
    size = tuple(probs.shape[1:])
    return ((1 - resample(distances, size, size, size)) * (probs[rows] + probs[shared].sum(dim=0))).max(dim=0).indices


def most_probable(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of some maps at every pixel.

    Args:
        probs: (c, h, w) float, c at least 1.

    Returns:
        (h, w), the values, and (h, w) int64, where they are; the lowest index on ties. No gradient.
    """
    probs = probs.detach()
    if probs.device.type != "cpu" or probs.dtype != torch.float32:
        return tuple(probs.max(dim=0))  # type: ignore[return-value]
    values, places = _largest_of(probs.contiguous().flatten(1).numpy())
    return torch.from_numpy(values).view(probs.shape[1:]), torch.from_numpy(places).view(probs.shape[1:])


def _axis(cells: int, valid: int, padded: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a bilinear resize of the valid part of an axis reads (see `resample`): (pixels,) lower and upper cell, and the
    weight of the upper one.

    Args:
        cells: of the map, which covers ``padded`` input pixels, of which the first ``valid`` count.
        pixels: of the result.
    """
    scale = np.float32(valid * cells / (padded * pixels))
    last = -(-valid * cells // padded) - 1
    place = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    place = place.clip(0, last)
    lower = place.astype(np.int64)
    return lower, np.minimum(lower + 1, last), place - lower.astype(np.float32)


def _columns(maps: Tensor, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, h, w') float32: maps (n, h, w) resized along their rows."""
    return _resized_rows(np.ascontiguousarray(maps.numpy()), lower, upper, weight)


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _resized_rows(maps: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    count, height = maps.shape[0], maps.shape[1]
    out = np.empty((count, height, lower.shape[0]), dtype=np.float32)
    for i in range(count):
        for row in range(height):
            for x in range(lower.shape[0]):
                share = weight[x]
                out[i, row, x] = (np.float32(1) - share) * maps[i, row, lower[x]] + share * maps[i, row, upper[x]]
    return out


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _mixed(above: np.ndarray, below: np.ndarray, share: np.float32, out: np.ndarray) -> None:
    for x in range(out.shape[0]):
        out[x] = (np.float32(1) - share) * above[x] + share * below[x]


# without the flags above: an offset of -inf makes its costs inf, which have to compare as such
@njit(nogil=True, cache=True)
def _cheapest(
    maps: np.ndarray, offsets: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """(h', w') int64 argmin over n of maps (n, h, w') resized along their columns, minus offsets (n,)."""
    count, width = maps.shape[0], maps.shape[2]
    out = np.empty((lower.shape[0], width), dtype=np.int64)
    least, owner = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.int32)
    for y in range(lower.shape[0]):
        share = weight[y]
        least[:] = np.inf
        owner[:] = 0
        for i in range(count):
            above, below, offset = maps[i, lower[y]], maps[i, upper[y]], offsets[i]
            for x in range(width):
                cost = (np.float32(1) - share) * above[x] + share * below[x] - offset
                owner[x] = i if cost < least[x] else owner[x]
                least[x] = min(cost, least[x])
        for x in range(width):
            out[y, x] = owner[x]
    return out


@njit(nogil=True, cache=True)
def _likeliest(
    maps: np.ndarray, probs: np.ndarray, rows: np.ndarray, shared: np.ndarray,
    lower: np.ndarray, upper: np.ndarray, weight: np.ndarray,
) -> np.ndarray:
    """(h', w') int64 argmax over n of one minus maps (n, h, w') resized along their columns, times the probabilities."""
    count, width = maps.shape[0], maps.shape[2]
    out = np.empty((lower.shape[0], width), dtype=np.int64)
    both, most = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    owner = np.empty(width, dtype=np.int32)
    for y in range(lower.shape[0]):
        share = weight[y]
        both[:] = 0
        for k in range(probs.shape[0]):
            if shared[k]:
                _add(probs[k, y], both)
        most[:] = -np.inf
        owner[:] = 0
        for i in range(count):
            above, below, own = maps[i, lower[y]], maps[i, upper[y]], probs[rows[i], y]
            for x in range(width):
                nearness = np.float32(1) - ((np.float32(1) - share) * above[x] + share * below[x])
                likelihood = nearness * (own[x] + both[x])
                owner[x] = i if likelihood > most[x] else owner[x]
                most[x] = max(likelihood, most[x])
        for x in range(width):
            out[y, x] = owner[x]
    return out


@njit(nogil=True, cache=True)
def _add(values: np.ndarray, total: np.ndarray) -> None:
    for x in range(total.shape[0]):
        total[x] += values[x]


@njit(nogil=True, cache=True)
def _largest_of(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) float32 maximum over n of maps (n, m), and where it is."""
    most, place = maps[0].copy(), np.zeros(maps.shape[1], dtype=np.int32)
    for i in range(1, maps.shape[0]):
        values = maps[i]
        for x in range(most.shape[0]):
            place[x] = i if values[x] > most[x] else place[x]
            most[x] = max(values[x], most[x])
    return most, place.astype(np.int64)


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _largest(values: np.ndarray, most: np.ndarray) -> None:
    for x in range(most.shape[0]):
        most[x] = max(most[x], values[x])


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _exponentials(values: np.ndarray, most: np.ndarray, total: np.ndarray) -> None:
    """``values`` become exp(values - most) and are added to ``total``."""
    for x in range(most.shape[0]):
        values[x] = exp2((values[x] - most[x]) * _LOG2_E)
    for x in range(most.shape[0]):
        total[x] += values[x]


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _quotients(values: np.ndarray, total: np.ndarray, out: np.ndarray) -> None:
    for x in range(out.shape[0]):
        out[x] = values[x] / total[x]


@njit(nogil=True, cache=True)
def _probabilities(
    maps: np.ndarray, present: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """(c, h', w') softmax over K of maps (K, h, w') resized along their columns, for the classes ``present`` (c,)."""
    count, width = maps.shape[0], maps.shape[2]
    out = np.empty((present.shape[0], lower.shape[0], width), dtype=np.float32)
    values = np.empty((count, width), dtype=np.float32)
    most, total = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    for y in range(lower.shape[0]):
        for k in range(count):
            _mixed(maps[k, lower[y]], maps[k, upper[y]], weight[y], values[k])
        most[:] = values[0]
        for k in range(1, count):
            _largest(values[k], most)
        total[:] = 0
        for k in range(count):
            _exponentials(values[k], most, total)
        for c in range(present.shape[0]):
            _quotients(values[present[c]], total, out[c, y])
    return out
