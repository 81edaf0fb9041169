"""Numeric checks of the Panoptic SegFormer head: numbers worked out by hand or measured on the released codes."""

import math

import pytest
import torch

from methods.base.location_decoder import LocationDecoder, prior_bias
from methods.base.losses import dice_losses, focal_loss, things_stuff_balance
from methods.base.mask_decoder import ClassMaskDecoder, LogitsToMasks, MaskAttention, MaskDecoder
from methods.base.matching import focal_cost, matching_cost
from methods.base.memory import Memory
from methods.base.merging import paint_segments
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]
QUERIES = 129
"""More than channels: with fewer, the attention does not make the values that the tests of it replace."""


def test_check_3_focal_prior():
    assert abs(prior_bias(0.01) + 4.59512) < 1e-5
    assert torch.tensor(prior_bias(0.01)).sigmoid().item() == pytest.approx(0.01, rel=1e-5)
    start = torch.tensor([prior_bias(0.01)])
    assert focal_loss(start, torch.zeros(1)).item() == pytest.approx(7.54e-7, rel=1e-3)
    assert focal_loss(start, torch.ones(1)).item() == pytest.approx(1.128382, rel=1e-5)


def test_check_3_class_heads_start_at_the_prior():
    decoder = LocationDecoder(5, channels=32, queries=4, layers=2, heads=4, feedforward=48)
    for head in decoder.class_heads:
        torch.testing.assert_close(head.bias.sigmoid(), torch.full((5,), 0.01))


def test_check_4_focal_matching_cost():
    cost = focal_cost(torch.zeros(1, 3), torch.tensor([1]))
    assert 2 * cost.item() == pytest.approx(-0.173287, abs=1e-6)
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    # the same box: no L1, GIoU 1
    assert matching_cost(torch.zeros(1, 3), box, torch.tensor([1]), box).item() == pytest.approx(-0.173287 - 2, abs=1e-5)


def test_check_5_dice():
    loss = dice_losses(torch.tensor([[0.8, 0.6, 0.1, 0.0]]), torch.tensor([[1, 1, 0, 0]]))
    assert loss.item() == pytest.approx(0.070385, abs=1e-6)


def test_check_6_masks_are_not_negative_and_zero_in_the_padding():
    torch.manual_seed(0)
    features = random_features(SIZES)
    padding = features.padding[0][:, None].expand(-1, 6, -1, -1)
    for mask in MaskDecoder(32, 3, 4, feedforward=48)(features, torch.randn(2, 6, 32)).masks:
        assert (mask >= 0).all() and mask.max() > 0
        assert mask[padding].numel() > 0 and mask[padding].count_nonzero() == 0


def test_check_6_attention_rows_sum_to_one_over_valid_keys():
    """With values that are the one-hot index of their key, the attention output is the attention weights."""
    torch.manual_seed(0)
    features = random_features(SIZES, channels=128, levels=3)
    memory = Memory.of(features, 3)
    keys = memory.tokens.shape[1]
    attention = MaskAttention(128, 1)
    attention.value = torch.nn.Identity()
    attention.output = torch.nn.Identity()
    assert keys <= 128
    one_hot = Memory(torch.eye(keys, 128).expand(2, -1, -1), memory.padding, memory.sizes)
    weights, _ = attention(torch.randn(2, QUERIES, 128), one_hot)
    weights = weights[:, :, :keys]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, QUERIES))
    padded = memory.padding[:, None].expand(-1, QUERIES, -1)
    assert padded.any() and weights[padded].count_nonzero() == 0 and (weights[~padded] > 0).all()


@pytest.mark.parametrize("scaled", [0, 1, 2])
def test_check_7_one_softmax_over_all_levels(scaled):
    """Scaling the keys of one level changes what a query takes from the others."""
    torch.manual_seed(0)
    features = random_features(SIZES, channels=128, levels=3)
    memory = Memory.of(features, 3)
    attention = MaskAttention(128, 1)
    attention.output = torch.nn.Identity()
    level = torch.repeat_interleave(torch.arange(3), torch.tensor([h * w for h, w in memory.sizes]))

    class LevelIndicator(torch.nn.Module):
        def forward(self, tokens):
            return torch.nn.functional.one_hot(level, 128).float().expand(len(tokens), -1, -1)

    attention.value = LevelIndicator()
    queries = 3 * torch.randn(2, QUERIES, 128)
    before, _ = attention(queries, memory)
    tokens = memory.tokens * torch.where(level == scaled, 3.0, 1.0)[:, None]
    after, _ = attention(queries, Memory(tokens, memory.padding, memory.sizes))
    others = [i for i in range(3) if i != scaled]
    assert (after - before)[..., others].abs().amax(dim=(0, 1)).min() > 1e-3


def test_check_8_thing_masks_follow_their_queries():
    torch.manual_seed(0)
    features, queries = random_features(SIZES), torch.randn(2, 6, 32)
    model = MaskDecoder(32, 3, 4, feedforward=48).eval()
    order = torch.randperm(6)
    expected = model(features, queries).masks[-1]
    torch.testing.assert_close(model(features, queries[:, order]).masks[-1], expected[:, order])
    # and without self-attention the other queries do not matter at all
    torch.testing.assert_close(model(features, queries[:, 2:3]).masks[-1], expected[:, 2:3])


def test_check_8_stuff_masks_follow_queries_and_positions():
    torch.manual_seed(0)
    features = random_features(SIZES)
    model = ClassMaskDecoder(5, 32, 3, 4, feedforward=48).eval()
    expected, presence = (out[-1].clone() for out in model(features))
    order = torch.tensor([3, 0, 4, 1, 2])
    weight = model.queries.embedding.weight
    with torch.no_grad():
        weight.copy_(weight[order])
    masks, logits = model(features)
    torch.testing.assert_close(masks[-1], expected[:, order])
    torch.testing.assert_close(logits[-1], presence[:, order])
    with torch.no_grad():  # queries alone, without their positions: not the same masks
        weight[:, :32] = weight[:, :32].roll(1, 0)
    assert (model(features)[0][-1] - expected[:, order].roll(1, 1)).abs().max() > 1e-3


def painted(areas, qualities, is_thing):
    """Segments kept of masks given as column ranges of a 10 x 10 map."""
    binary = torch.zeros(len(areas), 10, 10, dtype=torch.bool)
    for mask, (start, stop) in zip(binary, areas, strict=True):
        mask[:, start:stop] = True
    labels = torch.arange(len(areas))
    return paint_segments(binary, torch.tensor(qualities), labels, torch.tensor(is_thing))


@pytest.mark.parametrize(
    ("areas", "qualities", "is_thing", "kept"),
    [
        ([(0, 5), (0, 5)], [0.9, 0.8], [True, True], [0]),  # identical
        ([(0, 5), (0, 5)], [0.8, 0.9], [True, True], [1]),
        ([(0, 5), (3, 8)], [0.9, 0.8], [True, True], [0, 1]),  # overlap exactly 0.4
        ([(0, 5), (2, 7)], [0.9, 0.8], [True, True], [0]),  # overlap 0.6
        ([(0, 5)], [0.25], [True], [0]),  # quality exactly at the threshold
        ([(0, 5)], [math.nextafter(0.25, 0) - 1e-7], [True], []),
        ([(0, 5), (2, 12)], [0.9, 0.8], [False, False], [0]),  # stuff over stuff, overlap 3/8
        ([(0, 3), (0, 10)], [0.9, 0.8], [False, False], [0]),  # stuff over stuff, overlap 0.3
        ([(0, 3), (0, 10)], [0.9, 0.8], [False, True], [0, 1]),  # the same overlap is fine for a thing
        ([(0, 2), (0, 10)], [0.9, 0.8], [True, False], [0, 1]),  # stuff, overlap exactly 0.2
        ([(5, 5)], [0.9], [True], []),  # empty
    ],
)
def test_check_9_which_masks_are_kept(areas, qualities, is_thing, kept):
    assert sorted(s.label for s in painted(areas, qualities, is_thing).segments) == kept


def test_check_10_segments_and_void_fill_the_map():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        binary = torch.rand(8, 12, 15, generator=generator) > 0.8
        quality, is_thing = torch.rand(8, generator=generator), torch.rand(8, generator=generator) > 0.5
        result = paint_segments(binary, quality, torch.arange(8), is_thing)
        areas = [int((result.segment_ids == s.id).sum()) for s in result.segments]
        assert all(area > 0 for area in areas)
        assert sum(areas) + int((result.segment_ids == 0).sum()) == 12 * 15


def test_check_11_first_boxes_are_the_references():
    torch.manual_seed(0)
    decoder = LocationDecoder(5, channels=32, queries=4, layers=2, heads=4, feedforward=48).eval()
    boxes = decoder(random_features(SIZES)).boxes
    reference = decoder.reference_points(decoder.queries(2)[1]).sigmoid()
    torch.testing.assert_close(boxes[0, ..., :2], reference)
    torch.testing.assert_close(boxes[0, ..., 2:], torch.full((2, 4, 2), 0.119203), atol=1e-6, rtol=1e-5)
    # later heads start at zero and keep the box of the layer before
    torch.testing.assert_close(boxes[1], boxes[0])


def test_check_13_balance_of_five_things_and_two_stuff_classes():
    things, stuff = things_stuff_balance(torch.tensor(5), torch.tensor(2))
    assert things.item() == pytest.approx(0.714286, abs=1e-6) and stuff.item() == pytest.approx(0.285714, abs=1e-6)


def test_masks_have_no_sigmoid():
    """Values above 1 occur: the mask is thresholded and trained as it is."""
    to_masks = LogitsToMasks(4, 1)
    with torch.no_grad():
        for parameter in to_masks.parameters():
            parameter.fill_(1.0)
    memory = Memory(torch.zeros(1, 4, 8), torch.zeros(1, 4, dtype=torch.bool), [(2, 2)])
    masks = to_masks(torch.ones(1, 4, 1, 4), memory)
    torch.testing.assert_close(masks, torch.full((1, 1, 2, 2), 4 * (4 + 1) + 1.0))
