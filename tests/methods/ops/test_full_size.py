"""Compiled decisions at full resolution against the plain ones, and against interpolation written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from methods.ops.full_size import (
    cheapest_supplier,
    cheapest_supplier_plain,
    class_probabilities,
    class_probabilities_plain,
    likeliest_instance,
    likeliest_instance_plain,
    most_probable,
)


@st.composite
def padded_maps(draw):
    """Maps of 1 to 5 channels that cover a padded input, and the sizes of both."""
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    input_size = size[0] + draw(st.integers(0, 30)), size[1] + draw(st.integers(0, 30))
    grid = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 3.0, 40.0]))
    return scale * torch.randn(draw(st.integers(1, 5)), *grid, generator=generator), size, input_size


def interpolated(channel: np.ndarray, size: tuple[int, int], input_size: tuple[int, int], y: int, x: int) -> float:
    """One pixel of a bilinear resize that reads no cell beyond those that overlap the valid part, in double precision."""
    ends = []
    for axis, pixel in ((0, y), (1, x)):
        per_pixel = channel.shape[axis] / input_size[axis]
        last = math.ceil(size[axis] * per_pixel - 1e-9) - 1
        place = min(max((pixel + 0.5) * per_pixel - 0.5, 0), last)
        ends.append((int(place), min(int(place) + 1, last), place - int(place)))
    (top, bottom, down), (left, right, across) = ends
    rows = (channel[row, left] * (1 - across) + channel[row, right] * across for row in (top, bottom))
    above, below = rows
    return above * (1 - down) + below * down


@settings(deadline=None)
@given(padded_maps())
def test_probabilities_are_the_softmax_of_interpolated_logits(case):
    logits, size, input_size = case
    present = torch.arange(0, len(logits), 2)
    found = class_probabilities(logits, present, size, input_size)
    assert found.shape == (len(present), *size) and found.dtype == torch.float32
    channels = logits.double().numpy()
    for y, x in {(0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)}:
        values = [interpolated(channel, size, input_size, y, x) for channel in channels]
        expected = softmax(values)[present.numpy()]
        # logits of 40 differ by 1e-5 after float32 arithmetic on positions
        np.testing.assert_allclose(found[:, y, x].numpy(), expected, rtol=2e-3, atol=1e-6)


@settings(deadline=None)
@given(padded_maps())
def test_probabilities_equal_the_plain_ones(case):
    logits, size, input_size = case
    present = torch.arange(len(logits))
    found = class_probabilities(logits, present, size, input_size)
    torch.testing.assert_close(found, class_probabilities_plain(logits, present, size, input_size), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(size), rtol=1e-5, atol=1e-5)


def test_probabilities_of_extreme_logits_are_finite():
    logits = torch.tensor([1e4, -1e4, 9.9e3])[:, None, None].expand(3, 2, 2)
    found = class_probabilities(logits, torch.tensor([0, 1]), (3, 5), (3, 5))
    assert found.isfinite().all() and (found[0] == 1).all() and (found[1] < 1e-20).all()


@settings(deadline=None)
@given(padded_maps(), st.booleans())
def test_the_cheapest_supplier_is_the_plain_one(case, with_offsets):
    costs, size, _ = case
    offsets = torch.linspace(0, float(costs.std(unbiased=False)), len(costs)) if with_offsets else None
    found, expected = cheapest_supplier(costs, offsets, size), cheapest_supplier_plain(costs, offsets, size)
    assert found.shape == size and found.dtype == torch.int64
    # they may differ only where rounding decides
    full = torch.nn.functional.interpolate(costs[None].double(), size=size, mode="bilinear")[0]
    full = full if offsets is None else full - offsets[:, None, None]
    paid, least = (full.gather(0, owners[None])[0] for owners in (found, expected))
    torch.testing.assert_close(paid, least, rtol=1e-5, atol=1e-5 * float(costs.abs().max() + 1))


def test_ties_go_to_the_lowest_supplier_and_one_without_units_gets_nothing():
    costs = torch.ones(3, 2, 2)
    assert (cheapest_supplier(costs, None, (7, 9)) == 0).all()
    offsets = torch.tensor([-math.inf, 0.5, 0.5])
    assert (cheapest_supplier(costs, offsets, (7, 9)) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_decided_the_same_way(dtype):
    costs = torch.tensor([[[0.0, 4.0]], [[3.0, 1.0]]], dtype=dtype)
    assert cheapest_supplier(costs, None, (1, 4)).tolist() == [[0, 0, 1, 1]]
    logits = torch.tensor([[[0.0, 4.0]], [[3.0, 1.0]]], dtype=dtype)
    found = class_probabilities(logits, torch.tensor([1]), (1, 4), (1, 4))
    torch.testing.assert_close(found[0, 0, [0, -1]], torch.tensor([3.0, -3.0]).sigmoid())


@settings(deadline=None)
@given(padded_maps(), st.integers(1, 4), st.integers(0, 2**31))
def test_the_likeliest_instance_is_the_plain_one(case, classes, seed):
    maps, size, _ = case
    distances = maps.sigmoid()
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(classes, *size, generator=generator)
    rows = torch.randint(classes, (len(distances),), generator=generator)
    shared = torch.rand(classes, generator=generator) < 0.5
    found, expected = (f(distances, probs, rows, shared) for f in (likeliest_instance, likeliest_instance_plain))
    assert found.shape == size and found.dtype == torch.int64
    # they may differ only where rounding decides
    nearness = 1 - torch.nn.functional.interpolate(distances[None].double(), size=size, mode="bilinear")[0]
    likelihood = nearness * (probs[rows] + probs[shared].sum(dim=0))
    chosen, largest = (likelihood.gather(0, instances[None])[0] for instances in (found, expected))
    torch.testing.assert_close(chosen, largest, rtol=1e-5, atol=1e-5)


def test_the_likeliest_instance_by_hand():
    distances = torch.tensor([[[0.2]], [[0.6]]])
    probs = torch.tensor([[[0.1, 0.5, 0.0]], [[0.3, 0.5, 0.0]]])
    nothing, second = torch.tensor([False, False]), torch.tensor([False, True])
    # 0.8 * 0.1 < 0.4 * 0.3; 0.8 * 0.5 > 0.4 * 0.5; a tie
    assert likeliest_instance(distances, probs, torch.tensor([0, 1]), nothing).tolist() == [[1, 0, 0]]
    # 0.8 * (0.1 + 0.3) > 0.4 * (0.3 + 0.3)
    assert likeliest_instance(distances, probs, torch.tensor([0, 1]), second).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_most_probable_class_is_the_lowest_on_ties(dtype):
    probs = torch.tensor([[0.4, 0.1, 0.0], [0.4, 0.7, 0.0], [0.2, 0.2, 0.0]], dtype=dtype).view(3, 1, 3)
    values, classes = most_probable(probs)
    assert classes.tolist() == [[0, 1, 0]] and classes.dtype == torch.int64
    torch.testing.assert_close(values, torch.tensor([[0.4, 0.7, 0.0]], dtype=dtype))
