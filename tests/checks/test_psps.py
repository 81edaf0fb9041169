"""The numeric checks of PSPS. Each test carries the number of its check."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from skimage.color import rgb2lab

from methods import method_class
from methods.base.embedding import contrastive_loss
from methods.base.point_losses import partial_cross_entropy
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import Progress
from methods.ops.assignment import class_compatibility, class_map, present_probabilities
from methods.ops.color import pairwise_color_loss, rgb_to_lab, similar_pairs
from methods.ops.edges import sobel_edges
from methods.ops.geodesic import NEIGHBOURS, geodesic_distances
from methods.ops.rasterize import UNLABELLED, dilated_points
from methods.psps.labeler import PSPSMaps
from methods.psps.traversing import traversing_costs
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels


def grid_edges(height, width):
    for row in range(height):
        for col in range(width):
            for k, (down, right) in enumerate(NEIGHBOURS):
                if 0 <= row + down < height and 0 <= col + right < width:
                    yield row, col, row + down, col + right, k


# --- check 1 ----------------------------------------------------------------------------------------------------------


def test_check_1_shortest_paths_equal_scipy_on_a_random_grid():
    costs = np.random.default_rng(0).random((23, 31, 8)).astype(np.float32)
    start, end, cost = zip(*((r * 31 + c, i * 31 + j, costs[r, c, k]) for r, c, i, j, k in grid_edges(23, 31)), strict=True)
    graph = csr_matrix((np.array(cost, float), (start, end)), shape=(23 * 31,) * 2)
    cells = [(0, 0), (11, 17), (22, 30)]
    expected = dijkstra(graph, indices=[r * 31 + c for r, c in cells]).reshape(3, 23, 31)
    np.testing.assert_allclose(geodesic_distances(costs, [np.array([c]) for c in cells]), expected, atol=1e-6)


def golden_maps():
    probs = torch.tensor([0.0, 0.0, 0.2, 0.2]).expand(1, 4, 4)
    strength = torch.tensor([[0, 0.9, 0, 0], [0, 0.9, 0, 0], [0, 0.9, 0, 0.2], [0.1, 0.9, 0.3, 0.4]])
    return probs, strength


@pytest.mark.parametrize(
    "source, expected",
    [
        ((0, 0), [[0, 0.09, 0.29, 0.29], [0, 0.09, 0.29, 0.29], [0, 0.09, 0.29, 0.31], [0.01, 0.09, 0.32, 0.33]]),
        ((3, 3), [[0.29, 0.29, 0, 0], [0.29, 0.29, 0, 0], [0.29, 0.29, 0, 0.02], [0.30, 0.29, 0.03, 0]]),
    ],
)
def test_check_1_golden_directed_grid(source, expected):
    costs = traversing_costs(*golden_maps(), None)
    np.testing.assert_allclose(geodesic_distances(costs, [np.array([source])])[0], expected, atol=1e-6)


def test_check_1_golden_symmetric_grid():
    costs = traversing_costs(*golden_maps(), None, directed=False)
    there, back = geodesic_distances(costs, [np.array([[0, 0]]), np.array([[3, 3]])])
    assert there[3, 3] == pytest.approx(0.42, abs=1e-6)
    assert back[0, 0] == pytest.approx(0.42, abs=1e-6)


# --- checks 2 and 3 ---------------------------------------------------------------------------------------------------


def random_costs(height, width):
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(5, height, width, generator=generator).softmax(dim=0)
    embedding = torch.nn.functional.normalize(torch.randn(8, height, width, generator=generator), dim=0)
    return traversing_costs(probs, torch.rand(height, width, generator=generator), embedding).numpy()


def test_check_2_zero_at_the_source_and_triangle_inequality_along_every_edge():
    costs = random_costs(13, 17)
    distances = geodesic_distances(costs, [np.array([[4, 9]])])[0]
    assert distances[4, 9] == 0
    for row, col, to_row, to_col, k in grid_edges(13, 17):
        assert distances[to_row, to_col] <= distances[row, col] + costs[row, col, k] + 1e-6


def test_check_3_minimum_over_pixels_is_one_multi_source_run():
    costs = random_costs(13, 17)
    cells = np.array([[0, 0], [7, 3], [12, 16]])
    single = geodesic_distances(costs, [cell[None] for cell in cells])
    np.testing.assert_array_equal(geodesic_distances(costs, [cells])[0], single.min(axis=0))


# --- checks 4 to 7: colours and edges ---------------------------------------------------------------------------------


def test_check_4_lab_equals_skimage():
    image = np.random.default_rng(1).random((50, 50, 3))
    lab = rgb_to_lab(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0)
    np.testing.assert_allclose(lab, rgb2lab(image), atol=5e-5)


@pytest.mark.parametrize(
    "rgb, expected",
    [
        ((1, 1, 1), (100, -0.0025, 0.0047)),
        ((1, 0, 0), (53.2406, 80.0923, 67.2028)),
        ((0, 0, 1), (32.2957, 79.1856, -107.8573)),
    ],
)
def test_check_4_golden_colours(rgb, expected):
    lab = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32)[:, None, None])[:, 0, 0]
    np.testing.assert_allclose(lab, expected, atol=1.5e-4)


def test_check_4_mid_grey():
    assert float(rgb_to_lab(torch.full((3, 1, 1), 0.5))[0]) == pytest.approx(53.3890, abs=1e-4)


def test_check_5_grey_levels_are_pairs_up_to_six_apart():
    lab = rgb_to_lab(torch.full((3, 1, 8), 0.5) + torch.arange(8) / 255)
    similarity = torch.exp(-0.5 * (lab[..., 1:] - lab[..., :1]).norm(dim=0))[0]
    np.testing.assert_allclose(similarity, [0.822, 0.676, 0.556, 0.457, 0.376, 0.310, 0.255], atol=1e-3)
    pairs = similar_pairs(lab[None], torch.ones(1, 1, 8, dtype=torch.bool), kernel=15, dilation=1)
    found = {right: bool(used[0, 0, 0]) for (down, right), used in zip(pairs.offsets, pairs.used, strict=True) if not down}
    assert found == {1: True, 2: True, 3: True, 4: True, 5: True, 6: True, 7: False}


def color_loss(value, logits, **options):
    lab = rgb_to_lab(torch.full((1, 3, *logits.shape[-2:]), value))
    valid = torch.ones(1, *logits.shape[-2:], dtype=torch.bool)
    return float(pairwise_color_loss(logits, similar_pairs(lab, valid, **options)))


def test_check_6_uniform_probabilities_on_grey():
    for num_classes in (2, 5, 21):
        assert color_loss(0.5, torch.zeros(1, num_classes, 20, 24)) == pytest.approx(math.log(num_classes), rel=1e-6)


def test_check_6_identical_certain_predictions():
    logits = torch.zeros(1, 5, 20, 24)
    logits[:, 2] = 100
    assert color_loss(0.5, logits) == pytest.approx(0, abs=1e-6)


def test_check_6_the_border_dilutes_black_images_unless_masked():
    uniform = torch.zeros(1, 5, 20, 24)
    assert color_loss(0.0, uniform, mask_border=False) == pytest.approx(1.260726, abs=1e-6)
    assert color_loss(0.0, uniform, mask_border=True) == pytest.approx(math.log(5), rel=1e-6)
    two_kernels = 0.35 * color_loss(0.0, uniform, kernel=3, mask_border=False)
    two_kernels += 0.65 * color_loss(0.0, uniform, kernel=5, mask_border=False)
    assert two_kernels == pytest.approx(1.307668, abs=1e-6)


def test_check_7_sobel_of_constant_images():
    edges = sobel_edges(torch.full((3, 20, 24), 0.5))
    assert (edges[1:-1, 1:-1] == 0).all()
    assert (edges[[0, -1]] == 1).all() and (edges[:, [0, -1]] == 1).all()
    assert sobel_edges(torch.zeros(3, 20, 24)).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(10, 10), (5, 30), (1, 1)])
def test_check_7_small_images_have_a_guarded_interior(size):
    assert torch.isfinite(sobel_edges(torch.rand(3, *size))).all()


# --- checks 8 to 11: points, metric loss, warm-up, partial cross-entropy ----------------------------------------------


def test_check_8_a_dilated_pixel_is_a_square_of_289():
    squares = dilated_points(torch.tensor([[30, 20]]), torch.tensor([1]), 3, (50, 60), 17)
    assert squares.sum(dim=(1, 2)).tolist() == [0, 289, 0]
    corner = dilated_points(torch.tensor([[0, 0]]), torch.tensor([1]), 3, (50, 60), 17)
    assert corner.sum() == 81


def test_check_9_contrastive_loss():
    embedding = torch.eye(2)[:, :, None].double()  # (2, 2, 1): two cells with orthogonal unit vectors
    masks = torch.eye(2)[:, :, None].double()
    cells, target = torch.tensor([[0, 0]]), torch.tensor([0])
    assert float(contrastive_loss(embedding, masks, cells, target)) == pytest.approx(6.2487e-7, rel=1e-4)
    assert float(contrastive_loss(embedding, masks, cells, target, empty_slots=1)) == pytest.approx(1.2497e-6, rel=1e-4)
    equal = torch.tensor([[1.0, 1.0], [0.0, 0.0]])[:, :, None]
    assert float(contrastive_loss(equal, masks.float(), cells, target)) == pytest.approx(math.log(2), rel=1e-6)


def small_psps(**options):
    return method_class("psps")(categories(), 16, layers=2, heads=4, feedforward=32, embedding_channels=8, **options)


def scene():
    torch.manual_seed(0)
    points = point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2), (60, 8, 3)], [0, 1, 2, 0])
    return point_batch([0.5 + 0.02 * torch.rand(3, 64, 72)], [points])


def test_check_10_warm_up_is_linear_and_leaves_the_semantic_losses_alone():
    labeler, batch = small_psps(), scene()
    weights = labeler.head_weights(Progress(step=331, total_steps=20 * 662))
    assert len(weights) == 4
    for weight in weights.values():
        assert weight == pytest.approx(0.5)
    maps = labeler.predict_maps(features_for(batch), batch)
    progress = [Progress(step, 1000, 0, 1) for step in (0, 1000)]
    labels = labeler.pseudo_labels(maps, batch, progress[0])
    first, last = (labeler.losses(maps, labels, batch, p) for p in progress)
    assert first.keys() == last.keys() == {"semantic_presence", "semantic_partial", "semantic_color", "metric"}
    for name in first:
        assert first[name] == last[name]
        assert first[name] > 0


def test_check_11_partial_cross_entropy():
    logits = torch.tensor([2.0, 0.0, -1.0])[None, :, None, None]
    assert float(partial_cross_entropy(logits, torch.tensor([[[0]]]))) == pytest.approx(0.169846, abs=1e-6)
    more = torch.cat([logits, torch.randn(1, 3, 1, 4)], dim=3).requires_grad_()
    loss = partial_cross_entropy(more, torch.tensor([[[0] + [UNLABELLED] * 4]]))
    assert loss.item() == pytest.approx(0.169846, abs=1e-6)
    loss.backward()
    assert (more.grad[..., 1:] == 0).all() and more.grad[..., 0].abs().sum() > 0
    assert partial_cross_entropy(logits, torch.tensor([[[UNLABELLED]]])) == 0


# --- checks 12 and 13: pseudo labels ----------------------------------------------------------------------------------


def random_maps(batch, num_classes=4):
    generator = torch.Generator().manual_seed(5)
    height, width = (side // 8 for side in batch.input_size)
    logits = 2 * torch.randn(len(batch.images), num_classes, height, width, generator=generator)
    embedding = torch.randn(len(batch.images), 8, height, width, generator=generator)
    return PSPSMaps(SemanticMaps([logits], []), torch.nn.functional.normalize(embedding, dim=1))


def test_check_12_instances_are_disjoint_and_leave_stuff_alone():
    labeler, batch = small_psps(stuff_threshold=0.0, dilation=9, reference_side=None), scene()
    maps, points, size = random_maps(batch), batch.points[0], batch.sizes[0]
    labels = labeler.pseudo_labels(maps, batch, Progress.finished())[0]
    assert labels.masks().sum(dim=0).max() == 1
    probs, present = present_probabilities(
        maps.semantic.logits[-1][0], points.classes, points.xy, points.point_classes, size, size, 9
    )
    classes = class_map(probs, present, present >= 2)
    on_stuff = classes >= 2
    assert on_stuff.any() and (~on_stuff).any()
    masks = labels.masks()
    assert not (masks[points.is_thing].any(dim=0) & on_stuff).any()
    assert torch.equal(masks[2], classes == 2)
    assert (masks[points.is_thing].any(dim=0) == ~on_stuff).all()


def test_check_12_dilated_pixels_are_certain():
    batch = scene()
    points, size = batch.points[0], batch.sizes[0]
    logits = random_maps(batch).semantic.logits[-1][0]
    probs, present = present_probabilities(logits, points.classes, points.xy, points.point_classes, size, size, 9)
    squares = dilated_points(points.xy, points.point_classes, 4, size, 9)
    for row, label in enumerate(present.tolist()):
        assert squares[label].any()
        assert (probs[row][squares[label]] == 1).all()


def test_check_13_class_compatibility():
    present, is_stuff = torch.tensor([0, 1, 2, 3]), torch.tensor([False, False, True, True])
    classes = torch.tensor([0, 1, 0])
    pixels = torch.tensor(
        [
            [0.0, 0.0, 0.7, 0.3],  # all mass on stuff
            [1.0, 0.0, 0.0, 0.0],  # certain thing of class 0
            [0.1, 0.3, 0.6, 0.0],  # most probable class is stuff, thing mass is left
            [1.0, 0.2, 0.1, 0.0],  # a dilated pixel of class 0 keeps its softmax mass on the others
        ]
    ).T[:, None]
    compatibility = class_compatibility(pixels, present, is_stuff, classes)[:, 0].T
    torch.testing.assert_close(compatibility[0], torch.ones(3))
    torch.testing.assert_close(compatibility[1], torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(compatibility[2], torch.tensor([0.7, 0.9, 0.7]))
    torch.testing.assert_close(compatibility[3], torch.tensor([1.1, 0.3, 1.1]))


# --- check 14 ---------------------------------------------------------------------------------------------------------


def test_check_14_the_metric_loss_has_no_gradient_in_the_encoder():
    labeler, batch = small_psps(), scene()
    features = features_for(batch, requires_grad=True)
    maps = labeler.predict_maps(features, batch)
    labels = labeler.pseudo_labels(maps, batch, Progress.finished())
    labeler.losses(maps, labels, batch, Progress.finished())["metric"].backward()
    assert all(m.grad is None for m in features.maps) and features.level_embeddings.grad is None
    assert all(p.grad is None for p in labeler.semantic.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in labeler.projector.parameters())


def test_check_14_the_semantic_losses_do_train_the_encoder():
    labeler, batch = small_psps(), scene()
    features = features_for(batch, requires_grad=True)
    maps = labeler.predict_maps(features, batch)
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, Progress.finished()), batch, Progress.finished())
    (losses["semantic_partial"] + losses["semantic_color"] + losses["semantic_presence"]).backward()
    assert all(m.grad.abs().sum() > 0 for m in features.maps)
    assert all(p.grad is None for p in labeler.projector.parameters())
