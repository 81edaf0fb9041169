"""Sweeps of entropic transport over a cost matrix, compiled with numba for the CPU.

Everything here is in *bits*: ``scaled = cost / (eps ln 2)`` and ``potential = u / (eps ln 2)``, so that the weights are
powers of two. The columns' potential v has a closed form and never appears: with the weights

    p_ij = 2^(potential_i - scaled_ij) / sum_k 2^(potential_k - scaled_kj)

the plan after an update of v is ``p_ij demand_j``, and one pass over the matrix gives its row sums, which are all that the
update of u needs. That pass takes one exponential per entry where the two log-sum-exps of the textbook take two, and it goes
through the matrix in blocks of columns that stay in the cache.

Sinkhorn's many sweeps keep the weights of some potentials (*base*) and multiply them with what the potentials have moved
since, ``2^(potential_i - base_i)``, one number per row: that takes no exponential at all. The base follows before the
factors could leave the range of the dtype.

The kernels compile on their first call, are cached on disk and release the GIL.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

_BLOCK = 256
_CUTOFF = -100.0
"""Weights below 2^-100 of the largest in their column are dropped (or count as 2^-100)."""
STARVED = 2.0**-40
"""A row sum below this share of the total may consist of dropped weights; it is then summed again, in the log domain.
A larger row sum of `sweep` is right to 2^-60, one of `_moved_sweep` to 2^-28 in float32 and 2^-52 in float64."""
_REACH_SINGLE, _REACH_DOUBLE = 16.0, 4.0
"""Bits that a potential may move before the kept weights are computed again, in float32 and in float64. A weight that was
dropped at 2^-100 may have come up to 2^-68, or 2^-92, of the largest in its column by then."""

_FLAGS = {"reassoc", "contract", "nsz", "nnan"}
_TAYLOR = [math.log(2.0) ** k / math.factorial(k) for k in range(14)]
(_D0, _D1, _D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10, _D11, _D12, _D13) = _TAYLOR
(_F0, _F1, _F2, _F3, _F4, _F5, _F6, _F7) = (np.float32(c) for c in _TAYLOR[:8])
_CUTOFF_F, _HALF_F = np.float32(_CUTOFF), np.float32(0.5)


def exp2(x):
    """2^x for ``_CUTOFF <= x <= 0`` (clamped below), to one or two units in the last place; only in compiled code.

    Whole part into the exponent bits, Taylor series on [-1/2, 1/2] for the rest. A plain ``2.0**x`` calls the C library,
    which keeps the loops around it from being vectorised and costs ten times as much.
    """
    raise NotImplementedError("exp2 has a compiled form only")


@overload(exp2)
def _exp2_compiled(x):
    if x == types.float32:

        def single(x):
            x = max(x, _CUTOFF_F)
            whole = np.int32(x - _HALF_F)
            f = x - np.float32(whole)
            series = _F7 * f + _F6
            series = series * f + _F5
            series = series * f + _F4
            series = series * f + _F3
            series = series * f + _F2
            series = series * f + _F1
            series = series * f + _F0
            return series * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)

        return single

    def double(x):
        x = max(x, _CUTOFF)
        whole = np.int32(x - 0.5)
        f = x - np.float64(whole)
        series = _D13 * f + _D12
        series = series * f + _D11
        series = series * f + _D10
        series = series * f + _D9
        series = series * f + _D8
        series = series * f + _D7
        series = series * f + _D6
        series = series * f + _D5
        series = series * f + _D4
        series = series * f + _D3
        series = series * f + _D2
        series = series * f + _D1
        series = series * f + _D0
        return series * np.int64((np.int64(whole) + 1023) << 52).view(np.float64)

    return double


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _largest_gap(row: np.ndarray, potential, shift: np.ndarray):
    """Largest ``potential - row - shift``: how near this row comes to the best of its columns."""
    gap = potential - row[0] - shift[0]
    for j in range(row.shape[0]):
        gap = max(gap, potential - row[j] - shift[j])
    return gap


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _block_weights(
    scaled: np.ndarray, potential: np.ndarray, start: int, shift: np.ndarray, total: np.ndarray, weights: np.ndarray,
    active: np.ndarray,
) -> int:
    """Weights of the columns from ``start`` on, as many as ``shift`` has, for the rows that matter there.

    Those rows go to ``active``; returns how many they are. A slice of one row stays contiguous for the compiler, a slice of
    the matrix would not, and no loop over it would be vectorised.
    """
    count, stop = scaled.shape[0], start + shift.shape[0]
    for i in range(count):
        row, level = scaled[i][start:stop], potential[i]
        if i == 0:
            for j in range(shift.shape[0]):
                shift[j] = level - row[j]
        for j in range(shift.shape[0]):
            shift[j] = max(shift[j], level - row[j])
    total[:] = 0
    used = 0
    for i in range(count):
        row, level = scaled[i][start:stop], potential[i]
        # cost maps are smooth: in most blocks most rows are nowhere near the best
        if _largest_gap(row, level, shift) <= _CUTOFF:
            continue
        into = weights[used]
        for j in range(shift.shape[0]):
            into[j] = exp2(level - row[j] - shift[j])
        for j in range(shift.shape[0]):
            total[j] += into[j]
        active[used] = i
        used += 1
    return used


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _dot(left: np.ndarray, right: np.ndarray):
    """In the dtype of the arrays, over the length of ``right``; ``left`` may be longer."""
    result = left[0] * 0
    for j in range(right.shape[0]):
        result += left[j] * right[j]
    return result


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def sweep(
    scaled: np.ndarray, potential: np.ndarray, demand: np.ndarray,
    shift: np.ndarray, total: np.ndarray, row_sums: np.ndarray, overlap: np.ndarray,
) -> None:
    """Row sums of the plan whose columns meet the demand, for given row potentials.

    Args:
        scaled: (n, m) float32 or float64, contiguous, finite.
        potential: (n,) same dtype, finite.
        demand: (m,) same dtype, >= 0.
        shift, total: (m,) same dtype, written: ``shift_j + log2 total_j`` is log2 of the sum of 2^(potential - scaled).
        row_sums: (n,) float64, written: ``sum_j p_ij demand_j``.
        overlap: (n, n) float64, written: ``sum_j p_ij p_kj demand_j`` for k <= i, the curvature of the semi-dual.
    """
    count, size = scaled.shape
    weights = np.empty((count, _BLOCK), dtype=scaled.dtype)
    share = np.empty(_BLOCK, dtype=scaled.dtype)
    active = np.empty(count, dtype=np.int64)
    row_sums[:] = 0.0
    overlap[:] = 0.0
    for start in range(0, size, _BLOCK):
        width = min(_BLOCK, size - start)
        stop = start + width
        totals, wanted = total[start:stop], demand[start:stop]
        used = _block_weights(scaled, potential, start, shift[start:stop], totals, weights, active)
        for j in range(width):
            share[j] = wanted[j] / totals[j]
        for a in range(used):
            row_sums[active[a]] += _dot(weights[a], share[:width])
        _add_overlap(weights, share[:width], totals, active[:used], overlap)


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _add_overlap(
    weights: np.ndarray, share: np.ndarray, total: np.ndarray, active: np.ndarray, overlap: np.ndarray
) -> None:
    scratch = np.empty_like(share)
    for a in range(active.shape[0]):
        row = weights[a]
        for j in range(total.shape[0]):
            scratch[j] = row[j] * share[j] / total[j]
        for b in range(a + 1):
            overlap[active[a], active[b]] += _dot(weights[b], scratch)


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def log2_row_sum(
    row: np.ndarray, potential, demand: np.ndarray, shift: np.ndarray, total: np.ndarray, row_sum: float, mass: float
) -> float:
    """log2 of one row sum of `sweep`: of ``row_sum`` if it can be trusted, else summed again from the largest term down.

    ``mass`` is the total demand, ``demand`` has no zero where this row comes nearest to the best of a column.
    """
    if row_sum > STARVED * mass:
        return math.log2(row_sum)
    gap = _largest_gap(row, potential, shift)
    rest = 0.0
    for j in range(row.shape[0]):
        rest += demand[j] / total[j] * exp2(potential - row[j] - shift[j] - gap)
    return gap + math.log2(rest)


@njit(nogil=True, cache=True)
def _log2_totals(shift: np.ndarray, total: np.ndarray, log_totals: np.ndarray) -> None:
    for j in range(shift.shape[0]):
        log_totals[j] = shift[j] + math.log2(total[j])


@njit(nogil=True, cache=True)
def _column_error(
    demand: np.ndarray, padded: np.ndarray, before: np.ndarray, shift: np.ndarray, total: np.ndarray
) -> float:
    """Largest |column sum - demand| of the plan after the update of u that led from ``before`` to these totals."""
    worst = 0.0
    for j in range(demand.shape[0]):
        column = padded[j] * 2.0 ** (shift[j] + math.log2(total[j]) - before[j])
        worst = max(worst, abs(column - demand[j]))
    return worst


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _keep_weights(
    scaled: np.ndarray, base: np.ndarray, shift: np.ndarray, weights: np.ndarray, active: np.ndarray, used: np.ndarray
) -> None:
    """Weights ``2^(base - scaled - shift)`` of all columns, for `_moved_sweep`.

    Args:
        scaled: (n, m). base: (n,) potentials.
        shift: (m,), written: the largest ``base - scaled`` of each column.
        weights: (n, m), written: in each block of columns the rows that matter there, one behind another.
        active: (blocks, n), written: which rows these are. used: (blocks,), written: how many.
    """
    block_weights = np.empty((scaled.shape[0], _BLOCK), dtype=scaled.dtype)
    total = np.empty(_BLOCK, dtype=scaled.dtype)
    for block in range(used.shape[0]):
        start = block * _BLOCK
        width = min(_BLOCK, scaled.shape[1] - start)
        used[block] = _block_weights(
            scaled, base, start, shift[start : start + width], total[:width], block_weights, active[block]
        )
        for a in range(used[block]):
            weights[a, start : start + width] = block_weights[a, :width]


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _add_scaled(row: np.ndarray, factor, total: np.ndarray) -> None:
    for j in range(total.shape[0]):
        total[j] += factor * row[j]


@njit(nogil=True, cache=True, fastmath=_FLAGS)
def _moved_sweep(
    weights: np.ndarray, active: np.ndarray, used: np.ndarray, factors: np.ndarray, demand: np.ndarray,
    total: np.ndarray, row_sums: np.ndarray,
) -> None:
    """`sweep` by the weights that `_keep_weights` has kept; its ``shift`` stays that of the base.

    Args:
        weights, active, used: as kept.
        factors: (n,) dtype of the weights, ``2^(potential - base)``.
        demand, total, row_sums: as `sweep` takes and writes them.
    """
    share = np.empty(_BLOCK, dtype=weights.dtype)
    row_sums[:] = 0.0
    for block in range(used.shape[0]):
        start = block * _BLOCK
        stop = min(start + _BLOCK, demand.shape[0])
        totals, wanted = total[start:stop], demand[start:stop]
        totals[:] = 0
        for a in range(used[block]):
            _add_scaled(weights[a][start:stop], factors[active[block, a]], totals)
        for j in range(stop - start):
            share[j] = wanted[j] / totals[j]
        for a in range(used[block]):
            row = active[block, a]
            row_sums[row] += factors[row] * _dot(weights[a][start:stop], share[: stop - start])


@njit(nogil=True, cache=True)
def iterate(
    scaled: np.ndarray, log_supply: np.ndarray, demand: np.ndarray, padded: np.ndarray, iterations: int, limit: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Sinkhorn iterations, v first and u last, from u = v = 0.

    Args:
        scaled: (n, m) float32 or float64 cost in bits, contiguous, finite.
        log_supply: (n,) float64, log2 of the padded supply.
        demand: (m,) same dtype as ``scaled``.
        padded: (m,) same dtype, the demand plus the tiny number of the logarithms; positive.
        iterations: how many, >= 1; at most, if ``limit`` is given.
        limit: stop when no column sum is further than this from the demand; negative = never.

    Returns:
        (n,) float64 row potentials, (m,) float64 log2 column totals of the potentials *before* the last update of u (the
        column potential in bits is log2(padded) minus them), and the number of iterations done.
    """
    count, size = scaled.shape
    reach = _REACH_SINGLE if scaled.itemsize == 4 else _REACH_DOUBLE
    exact = np.zeros(count)
    potential, base, factors = np.empty(count, scaled.dtype), np.empty(count, scaled.dtype), np.empty(count, scaled.dtype)
    shift, total = np.empty(size, dtype=scaled.dtype), np.empty(size, dtype=scaled.dtype)
    blocks = (size + _BLOCK - 1) // _BLOCK
    weights, active, used = np.empty_like(scaled), np.empty((blocks, count), np.int64), np.empty(blocks, np.int64)
    row_sums, log_totals = np.empty(count), np.empty(size)
    mass = 0.0
    for j in range(size):
        mass += padded[j]
    done = 0
    while done < iterations:
        potential[:] = exact
        if done == 0 or np.abs(potential - base).max() > reach:
            base[:] = potential
            _keep_weights(scaled, base, shift, weights, active, used)
        for i in range(count):
            factors[i] = 2.0 ** (potential[i] - base[i])
        _moved_sweep(weights, active, used, factors, padded, total, row_sums)
        if limit >= 0:
            if done > 0 and _column_error(demand, padded, log_totals, shift, total) <= limit:
                break
            _log2_totals(shift, total, log_totals)
        for i in range(count):
            log_sum = log2_row_sum(scaled[i], potential[i], padded, shift, total, row_sums[i], mass)
            exact[i] = potential[i] + log_supply[i] - log_sum
        done += 1
    if limit < 0:
        _log2_totals(shift, total, log_totals)
    return exact, log_totals, done
