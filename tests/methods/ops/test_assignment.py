import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from methods.ops.assignment import assign, class_map, point_distances, present_probabilities


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_point_distances_equal_a_search_tree(seed, count):
    rng = np.random.default_rng(seed)
    size = (17, 23)
    xy = torch.from_numpy(rng.integers(0, (23, 17), (40, 2)))
    target = torch.from_numpy(rng.integers(0, count, 40))
    rows, cols = np.mgrid[:17, :23]
    pixels = np.stack([cols.ravel(), rows.ravel()], axis=1)
    for index, squared in enumerate(point_distances(xy, target, count, size)):
        mine = xy[target == index].numpy()
        expected = cKDTree(mine).query(pixels)[0].reshape(size) if len(mine) else np.full(size, np.inf)
        np.testing.assert_allclose(squared.sqrt(), expected, rtol=1e-6)


def test_ties_go_to_the_lowest_index():
    xy, target = torch.tensor([[4, 0], [0, 0]]), torch.tensor([0, 1])
    ids = assign(point_distances(xy, target, 2, (1, 5)), (1, 5), torch.tensor([0, 0]))
    assert ids.tolist() == [[2, 2, 1, 1, 1]]


def test_pixels_go_to_targets_of_their_class_only():
    classes, size = torch.tensor([0, 1, 0]), (2, 6)
    xy, target = torch.tensor([[0, 0], [3, 0], [5, 1]]), torch.tensor([0, 1, 2])
    pixel_classes = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 0, 1, -1, 0, 2]])
    ids = assign(point_distances(xy, target, 3, size), size, classes, pixel_classes)
    # void and a class without any labelled pixel are void
    assert ids.tolist() == [[1, 1, 2, 2, 3, 3], [1, 1, 2, 0, 3, 0]]


def test_a_target_without_a_point_gets_nothing():
    ids = assign([torch.full((2, 2), torch.inf), torch.ones(2, 2)], (2, 2), torch.tensor([0, 0]))
    assert (ids == 2).all()
    assert (assign([torch.full((2, 2), torch.inf)], (2, 2), torch.tensor([0])) == 0).all()


def test_class_map_takes_the_lowest_class_on_ties_and_voids_unsure_stuff():
    present, is_stuff = torch.tensor([1, 4, 7]), torch.tensor([False, False, True])
    probs = torch.tensor([[0.4, 0.1, 0.1, 0.2], [0.4, 0.2, 0.3, 0.1], [0.2, 0.49, 0.5, 0.1]])[:, None]
    assert class_map(probs, present, is_stuff, 0.5).tolist() == [[1, -1, 7, 1]]
    assert class_map(probs, present, is_stuff, 0.0).tolist() == [[1, 7, 7, 1]]
    assert class_map(torch.zeros(0, 2, 2), present[:0], is_stuff[:0]).eq(-1).all()


def test_probabilities_of_present_classes_are_the_softmax_over_all_classes():
    torch.manual_seed(0)
    logits = torch.randn(6, 5, 4)
    xy, labels = torch.tensor([[3, 3], [20, 30]]), torch.tensor([4, 1])
    classes = torch.tensor([4, 1, 4, 2])  # class 2 has a target that lost its points
    probs, present = present_probabilities(logits, classes, xy, labels, (40, 32), (40, 32), dilation=5)
    assert present.tolist() == [1, 2, 4]
    expected = F.interpolate(logits[None], size=(40, 32), mode="bilinear").softmax(dim=1)[0, present]
    expected[2, 1:6, 1:6] = 1
    expected[0, 28:33, 18:23] = 1
    torch.testing.assert_close(probs, expected)
