from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base.losses import Focal
from methods.base.matching import MatchingCosts, focal_cost, match_layers, matching_cost
from tests.methods.base.panoptic_inputs import mmdet_assignment


def random_boxes(*shape: int) -> torch.Tensor:
    """cx, cy, w, h with the box inside the unit square."""
    size = torch.rand(*shape, 2) * 0.5 + 0.1
    return torch.cat([size / 2 + torch.rand(*shape, 2) * (1 - size), size], dim=-1)


def corners(boxes: torch.Tensor, width: int, height: int) -> torch.Tensor:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1) * torch.tensor([width, height, width, height])


@pytest.mark.parametrize("seed", range(4))
def test_equals_mmdet_hungarian_assigner_on_pixel_boxes(seed):
    torch.manual_seed(seed)
    logits, boxes = torch.randn(1, 1, 12, 4), random_boxes(1, 1, 12)
    classes, targets = torch.randint(4, (5,)), random_boxes(5)
    matching = match_layers(logits, boxes, [classes], [targets])
    query, target = mmdet_assignment(
        logits[0, 0], corners(boxes[0, 0], 200, 100), classes, corners(targets, 200, 100), (100, 200)
    )
    expected = set(zip(query.tolist(), target.tolist(), strict=True))
    assert set(zip(matching.query[0].tolist(), matching.target[0].tolist(), strict=True)) == expected


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_every_image_has_the_cheapest_assignment(counts, seed):
    torch.manual_seed(seed)
    queries = 4
    logits, boxes = torch.randn(2, len(counts), queries, 3), random_boxes(2, len(counts), queries)
    classes, targets = [torch.randint(3, (n,)) for n in counts], [random_boxes(n) for n in counts]
    matching = match_layers(logits, boxes, classes, targets)
    assert matching.image.tolist() == [i for i, n in enumerate(counts) for _ in range(n)]
    start = 0
    for i, n in enumerate(counts):
        for layer in range(2):
            cost = matching_cost(logits[layer, i], boxes[layer, i], classes[i], targets[i])
            mine = matching.image == i
            pairs = matching.query[layer, mine], matching.target[layer, mine] - start
            assert sorted(pairs[1].tolist()) == list(range(n)) and len(set(pairs[0].tolist())) == n
            best = min(cost[list(p), list(range(n))].sum().item() for p in permutations(range(queries), n))
            assert cost[pairs].sum().item() == pytest.approx(best, abs=1e-4)
        start += n


def test_more_targets_than_queries_match_every_query_once():
    torch.manual_seed(0)
    matching = match_layers(torch.randn(1, 1, 2, 3), random_boxes(1, 1, 2), [torch.tensor([0, 1, 2])], [random_boxes(3)])
    assert matching.count == 2 and sorted(matching.query[0].tolist()) == [0, 1]


def test_no_target_gives_no_pair():
    matching = match_layers(torch.randn(3, 1, 2, 3), random_boxes(3, 1, 2), [torch.zeros(0).long()], [torch.zeros(0, 4)])
    assert matching.count == 0 and matching.query.shape == matching.target.shape == (3, 0)


def test_a_diverged_network_does_not_stop_the_assignment():
    logits = torch.full((1, 1, 3, 2), torch.nan)
    matching = match_layers(logits, random_boxes(1, 1, 3), [torch.tensor([1])], [random_boxes(1)])
    assert matching.count == 1


def test_the_constants_of_the_focal_cost_are_used():
    from mmdet.models.task_modules.assigners import FocalLossCost
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    logits, classes = torch.randn(5, 3), torch.tensor([2, 0])
    theirs = FocalLossCost(alpha=0.6, gamma=3, eps=1e-2)(InstanceData(scores=logits), InstanceData(labels=classes))
    torch.testing.assert_close(focal_cost(logits, classes, Focal(0.6, 3.0), epsilon=1e-2), theirs)
    boxes = random_boxes(5)
    only = MatchingCosts(classification=0.5, l1=0.0, giou=0.0, focal=Focal(0.6, 3.0), epsilon=1e-2)
    torch.testing.assert_close(matching_cost(logits, boxes, classes, boxes[:2], only), 0.5 * theirs)
