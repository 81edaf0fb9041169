"""The compiled sum against the one by shifted maps, which `test_color` compares with every pair one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.ops.disagreement import disagreement, disagreement_plain, shifted_pair

OFFSETS = [(down, right) for down in range(5) for right in range(-4, 5) if (down, right) > (0, 0)]


def drawn_pairs(offsets, shape, generator, share=0.6):
    used = torch.zeros(len(offsets), *shape, dtype=torch.bool)
    for pairs, offset in zip(used, offsets, strict=True):
        inside = shifted_pair(pairs, offset)[0]
        inside.copy_(torch.rand(inside.shape, generator=generator) < share)
    return used


def value_and_slopes(function, log_probs, offsets, used, weights):
    log_probs = log_probs.clone().requires_grad_()
    total = function(log_probs, offsets, used)
    (total * weights).sum().backward()
    return total.detach(), log_probs.grad


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7),
    st.sampled_from([0.1, 3.0, 40.0, 400.0]),
    st.lists(st.sampled_from(OFFSETS), min_size=1, max_size=4, unique=True),
)  # fmt: skip
def test_compiled_equals_plain_in_double_precision(seed, batch, classes, height, width, spread, offsets):
    generator = torch.Generator().manual_seed(seed)
    log_probs = (spread * torch.randn(batch, classes, height, width, generator=generator)).log_softmax(dim=1)
    used = drawn_pairs(offsets, (batch, height, width), generator)
    weights = torch.rand(batch, generator=generator)
    found, slopes = value_and_slopes(disagreement, log_probs, offsets, used, weights)
    expected, true_slopes = value_and_slopes(disagreement_plain, log_probs.double(), offsets, used, weights.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes.double(), true_slopes, rtol=1e-4, atol=1e-4)


def test_probabilities_that_underflow_are_summed_by_their_logs():
    log_probs = torch.tensor([[0.0, -300.0], [-200.0, 0.0]]).view(1, 2, 1, 2)
    used = torch.tensor([True, False]).view(1, 1, 1, 2)
    found, slopes = value_and_slopes(disagreement, log_probs, [(0, 1)], used, torch.ones(1))
    assert found.item() == pytest.approx(200.0)
    torch.testing.assert_close(slopes.view(2, 2), torch.tensor([[0.0, 0.0], [-1.0, -1.0]]))


def test_nothing_is_counted_without_a_pair():
    log_probs = torch.randn(2, 3, 4, 4).log_softmax(dim=1)
    found, slopes = value_and_slopes(disagreement, log_probs, [(0, 1)], torch.zeros(1, 2, 4, 4).bool(), torch.ones(2))
    assert not found.any() and not slopes.any()


def test_other_types_of_numbers_are_summed_by_shifted_maps():
    log_probs = torch.randn(1, 3, 4, 4, dtype=torch.float64).log_softmax(dim=1)
    used = drawn_pairs([(1, -1)], (1, 4, 4), torch.Generator().manual_seed(0))
    assert disagreement(log_probs, [(1, -1)], used).dtype == torch.float64
