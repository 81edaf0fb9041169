import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.color import rgb2lab

from methods.ops.edges import Sobel, edge_crossing, feature_change, neighbour_values, semantic_change, sobel_edges
from methods.ops.geodesic import NEIGHBOURS

HEIGHT, WIDTH = 6, 5


def inside_edges(height=HEIGHT, width=WIDTH):
    for row in range(height):
        for col in range(width):
            for k, (down, right) in enumerate(NEIGHBOURS):
                if 0 <= row + down < height and 0 <= col + right < width:
                    yield (row, col), (row + down, col + right), k


def test_sobel_equals_scipy_on_skimage_lab():
    image = np.random.default_rng(0).random((3, 25, 19)).astype(np.float32)
    lab = rgb2lab(np.moveaxis(image, 0, -1))
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    responses = [convolve2d(lab[..., c], k, mode="same") for c in range(3) for k in (kernel, kernel.T)]
    strength = np.mean(np.square(responses), axis=0)
    expected = np.clip(strength / strength[5:-5, 5:-5].max(), 0, 1)
    np.testing.assert_allclose(sobel_edges(torch.from_numpy(image)), expected, atol=1e-5)
    expected = np.clip(strength / strength[2:-2, 2:-2].max(), 0, 1)
    np.testing.assert_allclose(sobel_edges(torch.from_numpy(image), Sobel(border=2)), expected, atol=1e-5)
    expected = np.clip(strength / 1e6, 0, 1)
    np.testing.assert_allclose(sobel_edges(torch.from_numpy(image), Sobel(epsilon=1e6)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 10), (10, 3), (11, 11)])
def test_sobel_of_small_images_is_finite_and_in_range(size):
    edges = sobel_edges(torch.rand(3, *size))
    assert edges.shape == size and torch.isfinite(edges).all()
    assert edges.min() >= 0 and edges.max() <= 1


def test_every_cost_equals_its_formula_on_every_edge():
    torch.manual_seed(0)
    probs, strength = torch.rand(4, HEIGHT, WIDTH), torch.rand(HEIGHT, WIDTH)
    embedding = torch.nn.functional.normalize(torch.randn(8, HEIGHT, WIDTH), dim=0)
    semantic, feature = semantic_change(probs), feature_change(embedding)
    entering, symmetric = edge_crossing(strength), edge_crossing(strength, directed=False)
    for u, v, k in inside_edges():
        here, there = (..., *u), (..., *v)
        assert semantic[(*u, k)] == pytest.approx(float((probs[here] - probs[there]).abs().sum()), abs=1e-6)
        expected = max(0.0, 1 - float(embedding[here] @ embedding[there]))
        assert feature[(*u, k)] == pytest.approx(expected, abs=1e-6)
        assert entering[(*u, k)] == strength[v]
        assert symmetric[(*u, k)] == max(strength[u], strength[v])


def test_only_the_entering_cost_is_directed():
    """Point2Mask check 15: swapping the ends changes the directed edge term and no other."""
    torch.manual_seed(0)
    probs, strength = torch.rand(4, HEIGHT, WIDTH), torch.rand(HEIGHT, WIDTH)
    symmetric = [semantic_change(probs), feature_change(probs), edge_crossing(strength, directed=False)]
    entering = edge_crossing(strength)
    for u, v, k in inside_edges():
        back = 7 - k
        for cost in symmetric:
            assert cost[(*u, k)] == cost[(*v, back)]
        assert entering[(*u, k)] != entering[(*v, back)]


def test_neighbours_outside_the_map_are_zero():
    values = neighbour_values(torch.ones(2, 3, 3))
    assert values.shape == (8, 2, 3, 3)
    assert values[:, 0].sum() == sum(1 for _ in inside_edges(3, 3))
