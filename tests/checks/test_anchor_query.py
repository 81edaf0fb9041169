"""The numeric checks of the anchor-query distance, our reading of EPLD. Each test carries the number of its check."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.anchor_query.anchors import Anchors
from methods.anchor_query.distance import (
    aggregated,
    anchor_distances,
    assignment_logits,
    attention_logits,
    nearest_of_owner,
    point_hinge,
    soft_assignment,
    squared_distances,
)
from methods.anchor_query.labeler import AnchorQuery
from methods.anchor_query.rounds import AnchorRounds, Cells, RoundOptions
from methods.base.mask_decoder import MaskAttention
from methods.base.memory import Memory
from methods.base.model import PanopticModel
from methods.base.point_losses import partial_cross_entropy
from methods.base.types import Progress
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

D, HEADS, GRID = 16, 4, (5, 6)
ALL = torch.ones(1, 2, dtype=torch.bool)


def rounds(**options):
    torch.manual_seed(0)
    module = AnchorRounds(5, D, HEADS, 32, 1e-5, RoundOptions(**options)).eval()
    for parameter in module.parameters():  # as if trained: what is added to anchors starts at zero
        if parameter.dim() > 1:
            torch.nn.init.xavier_uniform_(parameter)
    return module


def case(count, seed=0, filling=0):
    """Random cells, and ``count`` anchors with ``filling`` more that only fill up the batch."""
    draw = torch.Generator().manual_seed(seed)
    size = GRID[0] * GRID[1]
    tokens, positions = (torch.randn(1, size, D, generator=draw) for _ in range(2))
    vectors = torch.randn(1, count + filling, D, generator=draw)
    classes = torch.randint(5, (1, count + filling), generator=draw)
    present = torch.arange(count + filling)[None] < count
    return Cells(tokens, positions, torch.ones(1, size, dtype=torch.bool), GRID), Anchors(vectors, classes, present)


def run(module, cells, anchors, embedding):
    return module(cells, [anchors], [embedding[anchors.classes]])[0]


EMBEDDING = torch.randn(5, D, generator=torch.Generator().manual_seed(9))


# --- checks 1 to 3: distances and soft assignment -------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 6), filling=st.integers(0, 3), seed=st.integers(0, 2**31 - 1), tau=st.floats(0.2, 5),
    form=st.sampled_from(["squared", "softplus"]),
)  # fmt: skip
def test_check_1_distances_are_not_negative_and_the_nearest_is_the_most_probable(count, filling, seed, tau, form):
    cells, anchors = case(count, seed, filling)
    for distances in run(rounds(count=2, form=form), cells, anchors, EMBEDDING):
        assert (distances >= 0).all() and torch.isfinite(distances).all()
        probs = soft_assignment(distances, tau, anchors.present)
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(1, *GRID))
        nearest = distances[:, :count].min(dim=1)
        torch.testing.assert_close(probs.gather(1, nearest.indices[:, None])[:, 0], probs.amax(dim=1))
        assert (probs[:, count:] == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), order=st.permutations(range(4)), filling=st.integers(0, 3))
def test_check_2_permuted_instances_give_permuted_maps_whatever_fills_the_batch(seed, order, filling):
    cells, plain = case(4, seed)
    _, more = case(4, seed + 1, filling)
    vectors = torch.cat([plain.vectors[:, order], more.vectors[:, 4:]], dim=1)
    classes = torch.cat([plain.classes[:, order], more.classes[:, 4:]], dim=1)
    permuted = Anchors(vectors, classes, torch.arange(4 + filling)[None] < 4)
    module = rounds(count=3)
    for one, other in zip(*(run(module, cells, a, EMBEDDING) for a in (plain, permuted)), strict=True):
        torch.testing.assert_close(other[:, :4], one[:, order], rtol=1e-5, atol=1e-6)


def test_check_2_an_image_without_any_instance_is_finite():
    cells, anchors = case(0, filling=2)
    leaf = cells.tokens.requires_grad_()
    maps = run(rounds(), cells, anchors, EMBEDDING)
    sum(soft_assignment(each, 1.0, anchors.present).square().sum() for each in maps).backward()
    assert torch.isfinite(leaf.grad).all()


def test_check_3_hand_example():
    distances = torch.tensor([0.5, 1.5]).view(1, 2, 1, 1)
    probs = soft_assignment(distances, 1.0, ALL).flatten()
    assert probs.tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)
    loss = partial_cross_entropy(assignment_logits(distances, 1.0, ALL), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert float(loss) == pytest.approx(0.313262, abs=1e-6)


def test_distances_are_the_softplus_of_a_fusion_over_heads():
    queries, keys, weights = torch.randn(3, 8), torch.randn(7, 8), torch.tensor([0.7, -0.2])
    expected = torch.zeros(3, 7)
    for n in range(3):
        for i in range(7):
            per_head = [queries[n, 4 * g : 4 * g + 4] @ keys[i, 4 * g : 4 * g + 4] / 2 for g in range(2)]
            expected[n, i] = math.log1p(math.exp(0.1 * n - sum(w * a for w, a in zip(weights, per_head, strict=True))))
    found = anchor_distances(attention_logits(queries, keys, weights), 0.1 * torch.arange(3))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squared_distances_are_those_of_the_heads_weighted(dtype):
    queries, keys, weights = torch.randn(2, 3, 8).to(dtype), torch.randn(2, 7, 8).to(dtype), torch.tensor([0.7, -0.2])
    expected = torch.zeros(2, 3, 7)
    for g in range(2):
        heads = (each.double()[..., 4 * g : 4 * g + 4] for each in (queries, keys))
        expected += abs(weights[g]) * torch.cdist(*heads).square() / 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = squared_distances(queries, keys, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_where_two_anchors_are_near_squared_distances_still_tell_them_apart():
    """A cell that fits both anchors, one of them better: logits 6 and 9, squared distances 1 and 0."""
    keys, queries, weights = torch.tensor([[3.0]]), torch.tensor([[2.0], [3.0]]), torch.ones(1)
    logits = attention_logits(queries, keys, weights)
    assert logits.flatten().tolist() == [6.0, 9.0]
    probs = [
        soft_assignment(each.view(1, 2, 1, 1), 1.0, ALL).flatten()
        for each in (anchor_distances(logits, torch.zeros(2)), squared_distances(queries, keys, weights))
    ]
    assert probs[0][1] == pytest.approx(0.5, abs=1e-3) and probs[1][1] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_a_distance_can_tell_equal_cells_at_different_places_apart():
    cells, anchors = case(2)
    same = Cells(cells.tokens[:, :1].expand_as(cells.tokens), cells.positions, cells.inside, GRID)
    flat = Cells(same.tokens, torch.zeros_like(same.positions), cells.inside, GRID)
    (spatial,), (blind,) = (run(rounds(count=1), each, anchors, EMBEDDING) for each in (same, flat))
    assert spatial.flatten(2).std(dim=2).min() > 0.05 and blind.flatten(2).std(dim=2).max() < 1e-5


# --- checks 4 and 5: aggregation ------------------------------------------------------------------------------------------


def test_check_4_one_hot_assignment_gives_class_means():
    values, owner = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 3
    found = aggregated(F.one_hot(owner, 4).T.double(), values)
    for n in range(3):
        torch.testing.assert_close(found[n], values[owner == n].mean(dim=0), rtol=1e-6, atol=1e-6)
    assert (found[3] == 0).all()


def test_check_4_uniform_assignment_gives_equal_anchors_and_padding_does_not_count():
    values, inside = torch.randn(20, 3), torch.arange(20) < 12
    found = aggregated(torch.full((4, 20), 0.25), values, inside)
    torch.testing.assert_close(found, values[:12].mean(dim=0).expand(4, 3), rtol=1e-5, atol=1e-5)


def test_check_5_without_residual_it_is_soft_k_means():
    points = np.random.default_rng(0).normal(size=(100, 2))
    centres = points[:3].copy()
    anchors = torch.from_numpy(centres)
    for _ in range(5):
        weights = np.array([[math.exp(-((x - c) ** 2).sum()) for x in points] for c in centres])
        weights /= weights.sum(axis=0)
        centres = np.array([sum(w * x for w, x in zip(row, points, strict=True)) / row.sum() for row in weights])
        distances = torch.cdist(anchors, torch.from_numpy(points)).square()
        # 100 pixels as a 10 x 10 map
        probs = torch.softmax(assignment_logits(distances.view(1, 3, 10, 10), 1.0, torch.ones(1, 3, dtype=torch.bool)), 1)
        anchors = aggregated(probs.flatten(2)[0].double(), torch.from_numpy(points), epsilon=1e-9)
    np.testing.assert_allclose(anchors.numpy(), centres, atol=1e-6)


# --- checks 6 to 9: gradients and identity --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(0, 4), min_size=2, max_size=6), own=st.integers(0, 5), tau=st.floats(0.5, 3))
def test_check_6_partial_cross_entropy_pulls_the_own_distance_down_and_pushes_the_others_up(values, own, tau):
    own %= len(values)
    distances = torch.tensor(values).view(1, -1, 1, 1).requires_grad_()
    present = torch.ones(1, len(values), dtype=torch.bool)
    partial_cross_entropy(assignment_logits(distances, tau, present), torch.full((1, 1, 1), own)).backward()
    gradient = distances.grad.flatten()
    assert gradient[own] > 0
    assert (gradient[torch.arange(len(values)) != own] < 0).all()


@pytest.mark.parametrize("options", [{}, {"aggregation": False}, {"enhancement": False}, {"shared": True}])
def test_check_7_equal_anchors_of_a_class_have_equal_maps(options):
    cells, anchors = case(4)
    vectors, classes = anchors.vectors.clone(), anchors.classes.clone()
    vectors[:, 3], classes[:, 3] = vectors[:, 1], classes[:, 1]
    for distances in run(rounds(**options), cells, Anchors(vectors, classes, anchors.present), EMBEDDING):
        torch.testing.assert_close(distances[:, 3], distances[:, 1])
        assert (distances[:, 3] - distances[:, 0]).abs().max() > 1e-3


def test_check_8_anchors_meet_in_the_softmax_and_in_self_attention_only():
    cells, anchors = case(3)
    moved = anchors.vectors.clone()
    moved[:, 2] += 1

    def first_two_change(**options):
        module = rounds(count=2, **options)
        sets = [Anchors(vectors, anchors.classes, anchors.present) for vectors in (anchors.vectors, moved)]
        pairs = zip(*(run(module, cells, each, EMBEDDING) for each in sets), strict=True)
        return [(a[:, :2] - b[:, :2]).detach().abs().max().item() for a, b in pairs]

    assert first_two_change(aggregation=False, enhancement=False) == [0, 0]
    for options in ({"aggregation": False}, {"enhancement": False}):
        first, second = first_two_change(**options)
        assert first == 0 and second > 1e-6
    # the softmax over n is all that is left without self-attention: it is what a fixed assignment takes away
    module, probs = rounds(count=2, enhancement=False), torch.rand(1, 3, *GRID)
    a, b = (module.aggregations[0](v, probs, cells) for v in (anchors.vectors, moved))
    assert torch.equal(a[:, :2], b[:, :2])


def test_updates_of_anchors_start_at_zero_and_are_trained():
    cells, anchors = case(3)
    anchors = Anchors(F.layer_norm(anchors.vectors, (D,)), anchors.classes, anchors.present)
    module = AnchorRounds(5, D, HEADS, 32, 1e-5, RoundOptions(count=2, shared=True))
    first, second = run(module, cells, anchors, EMBEDDING)
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)  # normalised anchors stay what they are
    second.square().sum().backward()
    update = module.enhancements[0]
    for layer in (module.aggregations[0].output, update.attention.out_proj, update.mlp[-1]):
        assert not layer.weight.any() and layer.weight.grad.any()


@pytest.mark.parametrize("shared", [False, True])
def test_check_9_a_single_round_has_no_weights_of_aggregation_and_enhancement(shared):
    names = [name for name, _ in rounds(count=1, shared=shared).named_parameters()]
    assert names and not [name for name in names if "aggregation" in name or "enhancement" in name]


def test_one_round_is_the_cross_attention_of_a_mask_decoder_layer():
    """Without positions and with the same projections, the nearest anchor has the largest mean attention logit."""
    cells, anchors = case(4)
    module, attention = rounds(count=1, form="softplus"), MaskAttention(D, HEADS, attend=False)
    attention.query.load_state_dict(module.distances[0].query.state_dict())
    attention.key.load_state_dict(module.distances[0].key.state_dict())
    cells = Cells(cells.tokens, torch.zeros_like(cells.positions), cells.inside, GRID)
    (distances,) = run(module, cells, anchors, EMBEDDING)
    memory = Memory.of_maps([cells.tokens.transpose(1, 2).unflatten(2, GRID)], [~cells.inside.view(1, *GRID)])
    logits = attention(anchors.vectors, memory)[1].mean(dim=1).unflatten(-1, GRID)
    torch.testing.assert_close(distances, torch.log1p(torch.exp(-logits)))
    assert torch.equal(distances.argmin(dim=1), logits.argmax(dim=1))


# --- checks 10 to 12: targets, test time, hinge ---------------------------------------------------------------------------


def small(**options):
    torch.manual_seed(0)
    return AnchorQuery(categories(), D, heads=HEADS, feedforward=32, **options)


def test_check_10_a_stuff_class_has_an_anchor_if_it_has_a_point():
    points = [point_labels([(5, 5, 0), (50, 50, 1)], [0, 3]), point_labels([(5, 5, 0)], [0])]
    batch = point_batch([torch.rand(3, 64, 64)] * 2, points)
    maps = small().predict_maps(features_for(batch, D), batch)
    assert maps.present.tolist() == [[True, True], [True, False]]
    labels = small().pseudo_labels(maps, batch, Progress.finished())
    assert labels[0].classes.tolist() == [0, 3] and labels[1].classes.tolist() == [0]
    assert (labels[1].segment_ids == 1).all()


def test_check_11_no_parameter_of_the_branch_is_left_at_test_time():
    encoder, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    model = PanopticModel(categories(), encoder, head, small())
    kept = {id(p) for module in model.network_modules() for p in module.parameters()}
    branch = {id(p) for p in model.labeler.parameters()}
    assert branch and not branch & kept


def test_check_12_hinge():
    distances = torch.tensor([0.2, 1.3, 0.4]).view(1, 3, 1, 1)
    own, present = torch.zeros(1, 1, 1, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    assert float(point_hinge(distances, own, present)) == pytest.approx(0.5)
    # what fills up the batch and unlabelled cells do not count
    wide = F.pad(distances, (0, 1, 0, 0, 0, 2), value=0.3)
    labels, wider = F.pad(own, (0, 1), value=-1), F.pad(present, (0, 2))
    assert float(point_hinge(wide, labels, wider)) == pytest.approx(0.5)
    assert float(point_hinge(distances[:, :1], own, present[:, :1])) == pytest.approx(0.2)
    assert float(point_hinge(distances, own - 1, present)) == 0


def test_several_anchors_of_a_target_have_the_smallest_distance():
    distances = torch.rand(2, 5, 3, 4)
    owner = torch.tensor([[0, 1, 0, 1, 0], [2, 2, 0, 3, 3]])  # 3 = none
    found = nearest_of_owner(distances, owner, 3)
    assert torch.equal(found[0, 0], distances[0, [0, 2, 4]].amin(dim=0))
    assert torch.equal(found[0, 1], distances[0, [1, 3]].amin(dim=0))
    assert torch.equal(found[1, 2], distances[1, :2].amin(dim=0)) and torch.equal(found[1, 0], distances[1, 2])
    assert (found[0, 2] == 0).all() and (found[1, 1] == 0).all()
