import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from methods.anchor_query.anchors import (
    a_target_per_point,
    has_points,
    point_offsets,
    pooled_anchors,
    target_label_maps,
)
from methods.anchor_query.hand_made import TransportSolver, at_pixels, target_supplies, transported
from methods.base.instance_losses import class_label_maps, filled
from methods.ops.edges import Sobel, path_costs
from methods.ops.geodesic import geodesic_distances
from methods.ops.rasterize import UNLABELLED
from tests.methods.stand_ins import point_batch, point_labels

POINTS = point_labels([(3, 5, 0), (20, 9, 1), (29, 15, 0), (11, 2, 3)], [1, 0, 2, 3])


def test_filled_has_a_row_even_without_any_anchor():
    rows = filled([torch.ones(2, 3), torch.zeros(0, 3)])
    assert rows.tolist() == [[[1] * 3] * 2, [[0] * 3] * 2]
    assert filled([torch.ones(0, dtype=torch.bool)] * 2, value=False).tolist() == [[False], [False]]
    assert filled([torch.tensor([1, 2]), torch.tensor([0])], value=7).tolist() == [[1, 2], [0, 7]]


def test_a_target_without_a_point_is_none():
    assert has_points(POINTS).tolist() == [True, True, False, True]
    each = a_target_per_point(POINTS)
    assert each.target.tolist() == [0, 1, 2, 3] and each.classes.tolist() == [1, 0, 1, 3]
    assert each.is_thing.tolist() == [True, True, True, False] and each.ids.tolist() == [1, 2, 1, 4]


@pytest.mark.parametrize("input_size", [(16, 32), (24, 48)])
def test_offsets_are_euclidean_distances_to_the_nearest_point(input_size):
    offsets = point_offsets(POINTS, (16, 32), input_size, input_size)
    for target in (0, 1, 3):
        free = torch.ones(input_size, dtype=torch.bool)
        x, y = POINTS.xy[POINTS.target == target].T
        free[y, x] = False
        expected = torch.from_numpy(distance_transform_edt(free.numpy())).float() / 16
        torch.testing.assert_close(offsets[target], expected)
    assert (offsets[2] == 0).all()
    coarse = point_offsets(POINTS, (16, 32), (16, 32), (2, 4))
    assert coarse[1, 1, 2] == pytest.approx(((20.5 - 20) ** 2 + (12 - 9.5) ** 2) ** 0.5 / 16)


@pytest.mark.parametrize("pooling", ["max", "mean", None])
def test_anchors_are_pooled_image_by_image(pooling):
    features, points = torch.randn(2, 5, 4, 6), [POINTS, point_labels([(0, 0, 0)], [1])]
    labels = torch.full((2, 4, 6), UNLABELLED)
    labels[0, 1, 1:4], labels[0, 2, 2], labels[1, 0, 0] = 0, 1, 0
    found = pooled_anchors(features, points, labels, pooling)
    assert found.shape == (2, 4, 5) and (found[0, 2:] == 0).all() and (found[1, 1:] == 0).all()
    if pooling is None:
        assert (found == 0).all()
        return
    cells = features[0, :, 1, 1:4]
    torch.testing.assert_close(found[0, 0], cells.amax(dim=1) if pooling == "max" else cells.mean(dim=1))
    torch.testing.assert_close(found[0, 1], features[0, :, 2, 2])
    torch.testing.assert_close(found[1, 0], features[1, :, 0, 0])


def test_label_maps_of_targets_and_classes():
    points = [point_labels([(3, 3, 0), (60, 40, 1)], [1, 3]), point_labels([(10, 70, 0)], [2])]
    batch = point_batch([torch.rand(3, 48, 64), torch.rand(3, 80, 40)], points)
    targets = target_label_maps(batch, points, (10, 8), 17, 600)
    assert targets[0, 0, 0] == 0 and targets[0, 5, 7] == 1 and targets[1, 8, 1] == 0
    assert (targets[0, 6:] == UNLABELLED).all() and (targets[1, :, 5:] == UNLABELLED).all()
    classes = class_label_maps(targets, filled([p.classes for p in points]))
    table = torch.tensor([[1, 3], [2, 0]])
    for image in range(2):
        for target in range(2):
            assert (classes[image][targets[image] == target] == table[image, target]).all()
    assert torch.equal(classes == UNLABELLED, targets == UNLABELLED)


# --- distances by rule ----------------------------------------------------------------------------------------------------


def test_paths_avoid_changes_of_class_and_edges():
    half = torch.zeros(8, 8)
    half[:, 4:] = 1
    probs = torch.stack([1 - half, half])
    flat = path_costs(probs, torch.full((3, 8, 8), 0.5), lambda_edge=0.0)
    distances = geodesic_distances(flat, [torch.tensor([[0, 0]])])[0]
    assert (distances[:, :4] == 0).all() and torch.allclose(distances[:, 4:], torch.tensor(2.0))
    same = torch.ones(1, 8, 8)
    edged = path_costs(same, half.expand(3, 8, 8), 0.1, Sobel(border=1))
    crossed = geodesic_distances(edged, [torch.tensor([[4, 1]])])[0]
    assert crossed[4, 6] > 0.05 and crossed[4, 2] < 0.01


def test_supplies_are_the_nearest_cells_of_the_class():
    distances = torch.arange(8.0).expand(2, 8).clone().view(2, 1, 8)
    distances[1] = 7 - distances[0]
    distances = torch.cat([distances, torch.zeros(1, 1, 8)])
    cell_classes = torch.tensor([[0, 0, 0, 0, 0, 0, 2, 2]])
    supplies = target_supplies(distances, torch.tensor([0, 0, 2]), cell_classes)
    assert supplies.tolist() == [4, 2, 2]
    scarce = target_supplies(distances, torch.tensor([0, 0, 2]), torch.zeros(1, 8, dtype=torch.int64))
    torch.testing.assert_close(scarce, torch.tensor([4, 4, 1]).double() * 8 / 9)


def test_transport_moves_the_border_until_supplies_are_used_up():
    """Two points on a line of 20 cells: the smallest distance splits it in the middle, 5 and 15 units at cell 5."""
    line = torch.arange(20.0)
    distances = torch.stack([line, 19 - line]).view(2, 1, 20)
    assert distances.argmin(dim=0).sum() == 10
    supplies = torch.tensor([5.0, 15.0])
    (moved,) = transported([distances], [supplies], TransportSolver(epsilon=1e-2, iterations=500))
    assert (moved >= 0).all()
    assert moved.argmin(dim=0).flatten().tolist() == [0] * 5 + [1] * 15
    (flat,) = transported([torch.zeros(1, 2, 2)], [torch.tensor([4.0])])
    assert torch.equal(flat, torch.zeros(1, 2, 2))


def test_distances_at_pixels_are_never_for_targets_that_are_not_chosen():
    distances = torch.rand(2, 3, 4)
    full = at_pixels(distances, torch.tensor([True, False, True]), (9, 12))
    torch.testing.assert_close(full[[0, 2]], F.interpolate(distances[None], size=(9, 12), mode="bilinear")[0])
    assert torch.isinf(full[1]).all()
    assert at_pixels(distances[:0], torch.zeros(0, dtype=torch.bool), (9, 12)).shape == (0, 9, 12)
