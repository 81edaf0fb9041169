"""Query features, branches and dense labels of FDD."""

import pytest
import torch
import torch.nn.functional as F

from methods.base.embedding import Projection
from methods.fdd.branches import Branches, MaskReader
from methods.fdd.dense import labels_of_points, most_probable_targets, point_boxes, with_points
from methods.fdd.queries import LearnedMap, QueryFeatures, instance_queries, padded_queries
from tests.methods.stand_ins import features_for, point_batch, point_labels

READER = {"layers": 2, "heads": 4, "feedforward": 32}


def features(requires_grad=False, images=((64, 96), (40, 56))):
    torch.manual_seed(0)
    batch = point_batch([torch.rand(3, *size) for size in images], [point_labels([], [])] * len(images))
    return features_for(batch, requires_grad=requires_grad)


def test_query_features_are_two_convolutions_over_the_finest_map_and_reach_the_encoder():
    given, module = features(requires_grad=True), QueryFeatures(16)
    found = module(given)
    first, _, second = module.project
    torch.testing.assert_close(found, second(first(given.maps[0]).relu()))
    found.sum().backward()
    assert given.maps[0].grad.abs().sum() > 0 and given.maps[1].grad is None


def test_query_features_of_several_levels_and_a_wider_kernel():
    given = features()
    module = QueryFeatures(16, Projection(2, ("map", "position"), hidden=5), kernel=3)
    first, _, second = module.project
    assert first.weight.shape == (5, 16, 3, 3) and second.weight.shape == (16, 5, 3, 3)
    coarse = F.interpolate(given.maps[1] + given.positions[1], size=(8, 12), mode="bilinear", align_corners=False)
    total = given.maps[0] + given.positions[0] + coarse
    torch.testing.assert_close(module(given), second(first(total).relu()))
    with pytest.raises(ValueError, match="odd number of cells, got 2"):
        QueryFeatures(16, kernel=2)


def test_a_learned_map_depends_on_the_place_alone():
    module = LearnedMap(16, (4, 6))
    found = module(features())
    assert found.shape == (2, 16, 8, 12) and torch.equal(found[0], found[1])
    assert torch.equal(module(features()), found) and found[0].std(dim=(1, 2)).min() > 0
    same_size = LearnedMap(16, (8, 12))
    assert torch.equal(same_size(features())[0], same_size.table[0])


def test_queries_of_a_batch_are_those_of_its_images():
    torch.manual_seed(0)
    maps, labels = torch.randn(2, 5, 4, 4), torch.randint(-1, 3, (2, 4, 4))
    labels[1][labels[1] == 2] = -1
    found = padded_queries(maps, labels, torch.tensor([[True, True, True], [True, True, False]]))
    for i in range(2):
        assert torch.equal(found[i], instance_queries(maps[i], labels[i], 3))
    assert (found[1, 2] == 0).all()


def test_normalised_queries_have_the_scale_of_learned_ones_and_missing_ones_stay_zero():
    features, labels = 0.1 * torch.randn(1, 16, 4, 5), torch.full((1, 4, 5), -1)
    labels[0, 0, 0], labels[0, 2, 3] = 0, 1
    present = torch.tensor([[True, True, True, False]])
    plain, found = (padded_queries(features, labels, present, normalise=n) for n in (False, True))
    expected = (plain - plain.mean(dim=2, keepdim=True)) / plain.std(dim=2, correction=0, keepdim=True)
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=0.01, atol=0.01)
    assert (found[:, 2:] == 0).all()


def test_the_scale_and_shift_of_a_class_change_its_queries_only():
    reader, given = MaskReader(4, 16, **READER), features()
    queries, positions, classes = torch.randn(2, 3, 16), torch.randn(2, 3, 16), torch.tensor([[0, 2, 2], [1, 3, 0]])
    with torch.no_grad():
        before = reader(given, queries, positions, classes)
        reader.scale[2], reader.shift[2] = 3.0, -0.5
        after = reader(given, queries, positions, classes)
    assert len(after) == 2
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other[0, 1:], 3 * one[0, 1:] - 0.5)
        torch.testing.assert_close(other[0, 0], one[0, 0])
        torch.testing.assert_close(other[1], one[1])


def test_targets_that_do_not_exist_change_nothing():
    branches, given = Branches(4, 16, **READER), features()
    generated, classes = torch.randn(2, 3, 16), torch.tensor([[0, 1, 1], [1, 3, 0]])
    present = torch.tensor([[True, True, False], [True, True, True]])
    with torch.no_grad():
        before = branches.instances(given, generated, classes, present)[-1]
        generated[0, 2], classes[0, 2] = 7.0, 3
        after = branches.instances(given, generated, classes, present)[-1]
    torch.testing.assert_close(before[present], after[present])


def test_positions_take_the_generated_vector_where_it_is_injected_there():
    """Two targets of a class and equal generated vectors are equal; the queries of the table are used, its positions not."""
    branches, given = Branches(4, 16, injection="position", **READER), features()
    generated, classes, present = torch.randn(2, 3, 16), torch.tensor([[0, 0, 1]] * 2), torch.ones(2, 3, dtype=torch.bool)
    generated[:, 1] = generated[:, 0]
    maps = branches.instances(given, generated, classes, present)[-1]
    torch.testing.assert_close(maps[:, 0], maps[:, 1])
    (maps * torch.randn_like(maps)).sum().backward()
    queries, positions = branches.table.embedding.weight.grad.chunk(2, dim=1)
    assert queries[:2].abs().sum() > 0 and (positions == 0).all() and (queries[2:] == 0).all()
    with pytest.raises(ValueError, match=r"injection 'both'.*query, position"):
        Branches(4, 16, injection="both", **READER)


# --- labels -------------------------------------------------------------------------------------------------------------


def test_the_most_probable_target_is_the_argmax_of_the_upsampled_logits():
    torch.manual_seed(0)
    logits, is_thing = torch.randn(3, 4, 5), torch.tensor([True, True, False])
    found = most_probable_targets(logits, is_thing, (32, 40), (32, 40))
    full = F.interpolate(logits[None], size=(32, 40), mode="bilinear", align_corners=False)[0]
    assert torch.equal(found, full.argmax(dim=0) + 1)
    padded = most_probable_targets(F.pad(logits, (0, 2, 0, 3), value=99.0), is_thing, (32, 40), (56, 56))
    assert (padded == found).float().mean() > 0.999
    assert torch.equal(most_probable_targets(logits[:0], is_thing[:0], (3, 4), (3, 4)), torch.zeros(3, 4).long())


def test_unsure_stuff_is_void_and_unsure_things_are_not():
    logits = torch.tensor([0.6, 0.4]).log()[:, None, None].expand(2, 1, 2).clone()
    logits[:, 0, 1] = logits[:, 0, 1].flip(0)
    for is_thing, expected in (([True, True], [1, 2]), ([False, True], [0, 2]), ([True, False], [1, 0])):
        assert most_probable_targets(logits, torch.tensor(is_thing), (1, 2), (1, 2), 0.61).tolist() == [expected]
    assert most_probable_targets(logits, torch.tensor([False, False]), (1, 2), (1, 2), 0.59).tolist() == [[1, 2]]


def test_points_overrule_the_argmax():
    ids = with_points(torch.ones(5, 5, dtype=torch.int64), point_labels([(1, 1, 1), (4, 4, 0)], [0, 0]), 3)
    expected = torch.ones(5, 5, dtype=torch.int64)
    expected[:3, :3] = 2
    assert torch.equal(ids, expected)


def test_boxes_of_points():
    points = point_labels([(50, 30, 0), (10, 5, 1), (40, 25, 1), (20, 30, 1), (1, 58, 2)], [0, 1, 0, 2])
    boxes = point_boxes(points, (60, 80), 20).tolist()
    assert boxes == [[40.5, 20.5, 60.5, 40.5], [10, 5, 41, 31], [0, 48.5, 11.5, 60], [0, 0, 80, 60]]
    assert point_boxes(point_labels([], []), (60, 80), 20).shape == (0, 4)


def test_labels_of_points_ignore_everything_else():
    points = point_labels([(2, 2, 0), (30, 20, 1)], [0, 2])
    labels = labels_of_points(points, (32, 40), (40, 48), 5, 10)
    assert labels.segment_ids.shape == (40, 48)
    assert torch.equal(labels.segment_ids == 0, labels.ignore)
    assert (labels.segment_ids == 1).sum() == 25 and (labels.segment_ids == 2).sum() == 25
    assert labels.segment_ids[4, 4] == 1 and labels.segment_ids[18, 28] == 2 and labels.ignore[32:].all()
    assert labels.boxes.tolist() == [[0, 0, 7.5, 7.5], [25.5, 15.5, 35.5, 25.5]]
