"""The numeric checks of FDD. Each test carries the number of its check."""

import math

import pytest
import torch

from benchmark.build import build_model
from benchmark.configs import compose_run
from benchmark.data.points import pixel_weights
from benchmark.data.scenes import CATEGORIES
from methods import method_class
from methods.base.head import LOSS_GROUPS
from methods.base.instance_losses import Supervision, color_prior_loss, has_choice, self_training_loss
from methods.base.mask_decoder import MaskDecoder
from methods.base.point_losses import partial_cross_entropy
from methods.base.types import Progress
from methods.fdd.branches import Branches
from methods.fdd.queries import instance_queries
from methods.ops.color import similar_pairs
from methods.ops.instance_labels import instance_label_map
from methods.ops.rasterize import UNLABELLED
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

CHANNELS, LAYERS = 16, 2
READER = {"layers": LAYERS, "heads": 4, "feedforward": 32}
DONE, START = Progress.finished(), Progress(0, 1000)


def small_fdd(**options):
    torch.manual_seed(0)
    return method_class("fdd")(categories(), CHANNELS, **READER, **options)


def scene():
    torch.manual_seed(1)
    points = point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2), (60, 8, 3)], [0, 0, 2, 1])
    return point_batch([0.5 + 0.02 * torch.rand(3, 64, 72)], [points])


def step(labeler, progress=DONE):
    """(losses of L_pse, losses of L_sem) of the scene, each a sum, with gradient."""
    batch = scene()
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, progress), batch, progress)
    parts = [sum(v for k, v in losses.items() if k.startswith(kind)) for kind in ("instance", "semantic")]
    assert len(parts) == 2 and all(part > 0 for part in parts)
    return parts


def gradients(loss, parameters):
    """Sum of absolute gradients, 0 where the loss does not reach a parameter."""
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


# --- check 1: queries -------------------------------------------------------------------------------------------------


def test_check_1_queries_are_the_maximum_over_the_labelled_cells():
    features = torch.randn(CHANNELS, 6, 7)
    labels = torch.randint(-1, 4, (6, 7))
    queries = instance_queries(features, labels, 4)
    assert queries.shape == (4, CHANNELS) and torch.isfinite(queries).all()
    for n in range(4):
        for channel in range(CHANNELS):
            cells = [features[channel, r, c] for r in range(6) for c in range(7) if labels[r, c] == n]
            assert queries[n, channel] == max(cells)
    more = labels.clone()
    free = (labels == UNLABELLED).nonzero()[0]
    more[free[0], free[1]] = 2
    assert (instance_queries(features, more, 4) >= queries).all()


# --- checks 2 and 3: where the identity of an instance comes from -------------------------------------------------------


def branch_case(count=4):
    torch.manual_seed(2)
    branches, batch = Branches(4, CHANNELS, **READER), scene()
    generated = torch.randn(1, count, CHANNELS)
    present = torch.ones(1, count, dtype=torch.bool)
    return branches, features_for(batch), generated, torch.tensor([[0, 0, 2, 1]])[:, :count], present


def test_check_2_permuting_the_targets_permutes_the_maps():
    branches, features, generated, classes, present = branch_case()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        maps = branches.instances(features, generated, classes, present)
        permuted = branches.instances(features, generated[:, order], classes[:, order], present)
    for before, after in zip(maps, permuted, strict=True):
        torch.testing.assert_close(after, before[:, order], atol=1e-5, rtol=1e-4)
        assert (before[:, 0] - before[:, 1]).abs().max() > 1e-3  # two instances of class 0 with queries of their own


def test_check_2_swapping_two_labels_of_a_class_swaps_their_maps():
    labeler, batch = small_fdd(), scene()
    points = batch.points[0]
    swapped = point_labels([(50, 50, 0), (10, 10, 1), (30, 12, 2), (60, 8, 3)], points.classes.tolist())
    features = features_for(batch)
    with torch.no_grad():
        maps = labeler.predict_maps(features, batch).instances[-1]
        other = labeler.predict_maps(features, point_batch([batch.images[0]], [swapped])).instances[-1]
    torch.testing.assert_close(other, maps[:, [1, 0, 2, 3]], atol=1e-5, rtol=1e-4)
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 1e-3


def test_check_3_equal_queries_of_a_class_have_equal_maps():
    branches, features, generated, classes, present = branch_case()
    generated[:, 1] = generated[:, 0]
    generated[:, 2] = generated[:, 0]
    with torch.no_grad():
        maps = branches.instances(features, generated, classes, present)[-1]
    torch.testing.assert_close(maps[:, 0], maps[:, 1])
    assert (maps[:, 0] - maps[:, 2]).abs().max() > 1e-3  # its class is another one


# --- checks 4 to 6: values of the losses --------------------------------------------------------------------------------


def test_check_4_self_training():
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    logits = 3 * torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(logits.softmax(dim=1).sum(dim=1), torch.ones(2, 3, 3))
    assert 0 <= self_training_loss(logits, valid) <= math.log(5)
    assert self_training_loss(torch.zeros(2, 5, 3, 3), valid).item() == pytest.approx(math.log(5))
    two = torch.tensor([0.3, 0.7]).log()[None, :, None, None].expand(2, 2, 3, 3)
    assert self_training_loss(two, valid).item() == pytest.approx(0.356675, abs=1e-6)


def test_check_5_partial_cross_entropy():
    logits = torch.tensor([2.0, 0.0, -1.0])[None, :, None, None]
    assert partial_cross_entropy(logits, torch.tensor([[[0]]])).item() == pytest.approx(0.169846, abs=1e-6)
    more = torch.cat([logits, torch.randn(1, 3, 1, 4)], dim=3)
    labels = torch.tensor([[[0] + [UNLABELLED] * 4]])
    assert partial_cross_entropy(more, labels).item() == pytest.approx(0.169846, abs=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_check_6_uniform_maps_on_a_grey_image(count):
    labeler = small_fdd()
    batch = point_batch([torch.full((3, 64, 64), 0.5)], [point_labels([], [])])
    pairs, valid = labeler.color_prior.of(batch, (8, 8))
    supervision = Supervision.of(torch.full((1, 8, 8), UNLABELLED), pairs, valid, torch.tensor([True]))
    assert color_prior_loss(torch.zeros(1, count, 8, 8), supervision).item() == pytest.approx(math.log(count), rel=1e-5)


# --- checks 7 to 9: what is shared and where gradients go ---------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_check_7_number_of_parameters():
    decoder = count(MaskDecoder(CHANNELS, LAYERS, 4, 3, 32, self_attention=True, update_last=False))
    table, affine, positions = 4 * 2 * CHANNELS, 2 * 4, 4 * CHANNELS
    assert count(small_fdd().branches) == decoder + table + affine
    assert count(small_fdd(share_positions=False).branches) == decoder + table + affine + positions
    assert count(small_fdd(share_layers=False).branches) == 2 * (decoder + affine) + table
    neither = small_fdd(share_layers=False, share_positions=False)
    assert count(neither.branches) == 2 * (decoder + affine) + table + positions


def test_check_7_both_losses_train_a_shared_decoder():
    labeler = small_fdd()
    for loss in step(labeler):
        assert gradients(loss, labeler.branches.reader.decoder.parameters()) > 0
        assert gradients(loss, [labeler.branches.reader.scale]) > 0


def test_check_7_without_shared_layers_each_loss_trains_its_own():
    labeler = small_fdd(share_layers=False)
    instance, semantic = step(labeler)
    own, other = labeler.branches.reader.parameters(), labeler.branches.semantic_reader.parameters()
    own, other = list(own), list(other)
    assert gradients(instance, own) > 0 and gradients(instance, other) == 0
    assert gradients(semantic, other) > 0 and gradients(semantic, own) == 0


def halves(loss, labeler):
    """Absolute gradient of the queries and of the positions of the table."""
    found = torch.autograd.grad(loss, labeler.branches.table.embedding.weight, retain_graph=True, allow_unused=True)[0]
    return (0.0, 0.0) if found is None else tuple(float(half.abs().sum()) for half in found.chunk(2, dim=1))


@pytest.mark.parametrize("share_layers", [True, False])
def test_check_7_the_positions_are_trained_by_both_losses_only_if_they_are_shared(share_layers):
    shared, apart = (small_fdd(share_layers=share_layers, share_positions=s) for s in (True, False))
    instance, semantic = step(shared)
    assert halves(instance, shared)[0] == 0 and halves(instance, shared)[1] > 0
    assert min(halves(semantic, shared)) > 0
    instance, semantic = step(apart)
    own = apart.branches.instance_positions.parameters
    assert halves(instance, apart) == (0, 0) and gradients(instance, own()) > 0
    assert min(halves(semantic, apart)) > 0 and gradients(semantic, own()) == 0


def test_check_8_the_semantic_loss_does_not_reach_the_query_generator():
    labeler = small_fdd()
    instance, semantic = step(labeler)
    assert gradients(semantic, labeler.query_features.parameters()) == 0
    assert gradients(instance, labeler.query_features.parameters()) > 0


def test_check_9_without_the_semantic_loss_its_queries_are_not_trained():
    labeler, batch = small_fdd(lambda_sem=0.0), scene()
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, [], batch, DONE)
    queries, positions = halves(sum(losses.values()), labeler)
    assert queries == 0 and positions > 0


# --- check 10: warm-up --------------------------------------------------------------------------------------------------


def test_check_10_what_pseudo_labels_supervise_warms_up_and_nothing_else():
    labeler, batch = small_fdd(semantic_self_training_weight=1.0), scene()
    assert labeler.head_weights(START) == dict.fromkeys(LOSS_GROUPS, 0.0)
    assert labeler.head_weights(Progress(331, 20 * 662)) == dict.fromkeys(LOSS_GROUPS, pytest.approx(0.5))
    maps = labeler.predict_maps(features_for(batch), batch)
    first, half, last = (labeler.losses(maps, [], batch, p) for p in (START, Progress(25, 1000), DONE))
    assert len(first) == 6
    for name in first:
        if name.endswith("self_training"):
            assert first[name] == 0 and last[name] > 0
            torch.testing.assert_close(half[name], last[name] / 2)
        else:
            assert first[name] == half[name] == last[name] and last[name] > 0


# --- checks 11, 12, 14 and 15 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance, similar", [(2.4079, True), (2.4080, False)])
def test_check_11_colour_affinity(distance, similar):
    lab = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    lab[0, 0] = 50 + distance * torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    pairs = similar_pairs(lab, torch.ones(1, 3, 3, dtype=torch.bool), kernel=3, dilation=1)
    across = pairs.used[pairs.offsets.index((0, 1)), :, :, :-1]
    assert across.all() if similar else not across.any()


def test_check_12_boxes_are_half_open_extents():
    labeler, batch = small_fdd(), scene()
    maps = labeler.predict_maps(features_for(batch), batch)
    maps.instances[-1].data.zero_()
    maps.instances[-1].data[0, 0, 2:5, 3:7] = 100.0  # target 0 in a rectangle of cells, target 1 elsewhere
    maps.instances[-1].data[0, 1] = 1.0
    labels = labeler.pseudo_labels(maps, batch, DONE)[0]
    rows, cols = (labels.segment_ids == 1).nonzero(as_tuple=True)
    extent = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
    assert labels.boxes[0].tolist() == [float(side) for side in extent]
    assert labels.boxes[1].tolist() == [0, 0, 72, 64]


def test_check_13_no_branch_is_left_at_test_time():
    words = ["scale=demo", "method=fdd", "dataset.size=64", "input.short=64", "input.long=64"]
    torch.manual_seed(0)
    model = build_model(compose_run(words), CATEGORIES).eval()
    model.head.score_threshold, model.head.overlap_threshold = 0.0, 0.0
    image = [torch.rand(3, 64, 64)]
    before = model.predict(image)[0]
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"encoder", "head", "labeler"} and not any(m is model.labeler for m in model.network_modules())
    model.labeler = None
    after = model.predict(image)[0]
    assert before.segments == after.segments and torch.equal(before.segment_ids, after.segment_ids)


@pytest.mark.parametrize("corner", [(0, 0), (71, 0), (0, 63), (71, 63)])
@pytest.mark.parametrize("side", [1, 17])
def test_check_14_an_instance_of_one_pixel_in_the_corner_has_a_cell(corner, side):
    points = point_labels([(*corner, 0), (36, 32, 1)], [0, 1])
    cells = instance_label_map(points, (64, 72), (64, 72), (8, 9), side)
    assert (cells == 0).any() and (cells == 1).any()


def test_check_15_border_biased_points_follow_the_squared_distance_to_the_centroid():
    xy = torch.cartesian_prod(torch.arange(5), torch.arange(5)).numpy()
    border, center = (pixel_weights(xy, name) for name in ("border_biased", "center_biased"))
    squared = ((xy - 2) ** 2).sum(axis=1)
    assert border == pytest.approx(squared) and center == pytest.approx(8 - squared)


def test_n_1_images_have_no_part_in_the_losses_of_the_instances():
    """Section 10: the softmax over one map is 1."""
    assert has_choice(torch.tensor([[True, True], [True, False], [False, False]])).tolist() == [True, False, False]
    labeler = small_fdd()
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([(60, 60, 0)], [2])])
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, [], batch, DONE)
    assert all(losses[name] == 0 for name in losses if name.startswith("instance"))
    assert losses["semantic_partial"] > 0
    assert (labeler.pseudo_labels(maps, batch, DONE)[0].segment_ids == 1).all()
