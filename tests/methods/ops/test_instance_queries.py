import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.ops.instance_queries import instance_queries


@st.composite
def maps(draw):
    count, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    features = torch.randn(3, height, width, generator=generator) - 2  # mostly negative: zeros must not win
    return features, torch.randint(-1, count, (height, width), generator=generator), count


@given(maps(), st.sampled_from(["max", "mean"]))
def test_equals_a_loop_over_the_targets(case, pooling):
    features, labels, count = case
    found = instance_queries(features, labels, count, pooling)
    assert found.shape == (count, 3)
    for index in range(count):
        cells = features[:, labels == index]
        expected = torch.zeros(3)
        if cells.shape[1]:
            expected = cells.amax(dim=1) if pooling == "max" else cells.mean(dim=1)
        torch.testing.assert_close(found[index], expected)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_gradients_equal_finite_differences(pooling):
    features = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 0, -1, 2], [2, -1, -1, 2], [0, 2, 2, -1]])
    assert torch.autograd.gradcheck(lambda f: instance_queries(f, labels, 3, pooling), features)


def test_only_the_cells_with_the_maximum_get_gradient():
    features = torch.tensor([[[1.0, 3.0, 9.0, 2.0]]], requires_grad=True)
    instance_queries(features, torch.tensor([[0, 0, -1, 1]]), 2).sum().backward()
    assert features.grad.tolist() == [[[0, 1, 0, 1]]]


def test_unknown_pooling_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'sum'.*max, mean"):
        instance_queries(torch.zeros(1, 1, 1), torch.zeros(1, 1).long(), 1, "sum")
