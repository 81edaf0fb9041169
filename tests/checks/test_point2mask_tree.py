"""The numeric checks 9 and 10 of Point2Mask: tree filter and tree loss. Each test carries the number of its check."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree

from methods.point2mask.spanning_tree import spanning_tree, spanning_trees
from methods.point2mask.tree_energy import tree_energy_loss, tree_filter


def path_image(dtype):
    return torch.tensor([[[0.0, 0.1, 0.3]]], dtype=dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 5e-7)])
def test_check_9_golden_affinities(dtype, tolerance):
    # the rows of the normalised filter, divided by their diagonal, are the affinities of each cell (S_ii = 1)
    rows = tree_filter(torch.eye(3, dtype=dtype)[:, None], path_image(dtype), 0.02)[:, 0].T
    np.testing.assert_allclose(rows.sum(dim=1), 1, rtol=1e-6)
    affinity = rows / rows.diagonal()[:, None]
    expected = [[1, 0.606531, 0.082085], [0.606531, 1, 0.135335], [0.082085, 0.135335, 1]]
    np.testing.assert_allclose(affinity, expected, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 5e-7)])
@pytest.mark.parametrize("turn", [lambda t: t, lambda t: t.flip(2), lambda t: t.transpose(1, 2)])
def test_check_9_golden_filter(dtype, tolerance, turn):
    probs = torch.tensor([[[1.0, 0.5, 0.0]]], dtype=dtype)
    filtered = tree_filter(turn(probs), turn(path_image(dtype)), 0.02)
    expected = turn(torch.tensor([[[0.771795, 0.635256, 0.123008]]], dtype=dtype))
    np.testing.assert_allclose(filtered, expected, atol=tolerance)


def test_check_9_a_constant_is_a_fixed_point():
    image = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tree_filter(torch.full((2, 30, 40), 0.7), image, 0.02), torch.full((2, 30, 40), 0.7))


@pytest.mark.parametrize("height, width", [(h, w) for h in (1, 3, 8) for w in (1, 2, 5, 8)])
def test_check_9_dense_matrix_and_tree_weight(height, width):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * 10 + width), dtype=torch.float64)
    cells = torch.arange(height * width).view(height, width)
    pairs = torch.cat([
        torch.stack([cells[:, :-1].flatten(), cells[:, 1:].flatten()]),
        torch.stack([cells[:-1].flatten(), cells[1:].flatten()]),
    ], dim=1).numpy()  # fmt: skip
    flat = image.flatten(1).numpy()
    weights = ((flat[:, pairs[0]] - flat[:, pairs[1]]) ** 2).sum(axis=0)
    # with 1 added to each edge, as a weight of 0 is no edge in SciPy
    tree = coo_matrix(minimum_spanning_tree(csr_matrix((weights + 1, pairs), shape=(cells.numel(),) * 2)))
    total = float(spanning_tree(image).squared_distances.sum())
    assert total == pytest.approx((tree.data - 1).sum(), rel=1e-9, abs=1e-12)

    links = csr_matrix((tree.data - 1, (tree.row, tree.col)), shape=(cells.numel(),) * 2)
    affinity = np.exp(-dijkstra(links, directed=False) / 0.02)
    probs = torch.rand(4, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = probs.flatten(1).numpy() @ affinity / affinity.sum(axis=0)
    np.testing.assert_allclose(tree_filter(probs, image, 0.02).flatten(1), expected, rtol=1e-8)


@pytest.mark.parametrize("options", [{}, {"divide_by": "unlabelled"}, {"sum_over": "unlabelled", "divide_by": "unlabelled"}])
def test_check_10_the_loss_of_a_constant_probability_map_is_zero(options):
    images = 0.1 * torch.randn(2, 3, 12, 17, generator=torch.Generator().manual_seed(0))
    constant = torch.randn(1, 5, 1, 1, generator=torch.Generator().manual_seed(1)).softmax(dim=1).expand(2, 5, 12, 17)
    labelled = torch.zeros(2, 12, 17, dtype=torch.bool)
    labelled[:, 3:6, 3:6] = True
    trees = spanning_trees(images, [(12, 17), (9, 10)])
    assert tree_energy_loss(constant, trees, labelled, **options).item() == pytest.approx(0, abs=1e-6)
    # and the check can fail: a map that is not constant has a loss
    varied = torch.randn(2, 5, 12, 17, generator=torch.Generator().manual_seed(2)).softmax(dim=1)
    assert tree_energy_loss(varied, trees, labelled, **options) > 0.01
