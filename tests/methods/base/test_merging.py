import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base.merging import MASKS_AT_ONCE, Merging, Quality, mask_quality, merge_masks, paint_segments, resize_masks


def painted_pixel_by_pixel(binary, quality, is_thing):
    """The merging rule with Python sets of pixels."""
    order = sorted(range(len(quality)), key=lambda i: -quality[i])
    free = {(y, x) for y in range(binary.shape[1]) for x in range(binary.shape[2])}
    kept = []
    for i in order:
        own = {tuple(p) for p in binary[i].nonzero().tolist()}
        taken = len(own) - len(own & free)
        if quality[i] < 0.25 or not own or taken / len(own) > (0.4 if is_thing[i] else 0.2):
            continue
        kept.append((i, own & free))
        free -= own
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 7))
def test_painting_follows_the_rule(seed, count):
    generator = torch.Generator().manual_seed(seed)
    binary = torch.rand(count, 4, 5, generator=generator) > torch.rand(count, 1, 1, generator=generator)
    quality = torch.randperm(20, generator=generator)[:count] / 20
    is_thing = torch.rand(count, generator=generator) > 0.4
    labels = torch.arange(count) + 3
    result = paint_segments(binary, quality, labels, is_thing)
    expected = painted_pixel_by_pixel(binary, quality.tolist(), is_thing.tolist())
    assert [s.label - 3 for s in result.segments] == [i for i, _ in expected]
    assert [s.id for s in result.segments] == list(range(1, len(expected) + 1))
    for segment, (i, pixels) in zip(result.segments, expected, strict=True):
        assert {tuple(p) for p in (result.segment_ids == segment.id).nonzero().tolist()} == pixels
        assert segment.is_thing == bool(is_thing[i])
    assert int((result.segment_ids > 0).sum()) == sum(len(p) for _, p in expected)


def test_quality_is_score_times_squared_mean_inside():
    masks = torch.tensor([[[0.9, 0.7], [0.5, 0.2]]])
    binary, quality = mask_quality(masks, torch.tensor([0.8]))
    assert binary.tolist() == [[[True, True], [False, False]]]
    torch.testing.assert_close(quality, torch.tensor([0.8 * (1.6 / 3) ** 2]))


def test_the_constants_of_the_merging_are_used():
    masks = torch.tensor([[[0.9, 0.7], [0.5, 0.2]]])
    merging = Merging(mask_threshold=0.4, quality=Quality(score_power=2.0, mask_power=1.0, area_offset=0.0))
    binary, quality = mask_quality(masks, torch.tensor([0.8]), merging)
    assert int(binary.sum()) == 3
    torch.testing.assert_close(quality, torch.tensor([0.8**2 * (2.1 / 3)]))
    two = torch.ones(2, 2, 5, dtype=torch.bool)
    two[1, 1] = False  # all of it is under the first
    labels, things = torch.tensor([0, 1]), torch.tensor([True, False])
    for changed, count in (({}, 1), ({"stuff_overlap": 1.0}, 1), ({"quality_threshold": 0.9}, 0)):
        result = paint_segments(two, torch.tensor([0.8, 0.7]), labels, things, Merging(**changed))
        assert len(result.segments) == count
    two[1, 1, :3] = True
    two[0, 1] = False  # 5 of its 8 pixels are taken
    for overlap, count in ((0.6, 1), (0.63, 2)):
        result = paint_segments(two, torch.tensor([0.8, 0.7]), labels, things, Merging(stuff_overlap=overlap))
        assert len(result.segments) == count


def test_resize_goes_through_the_padded_input_and_crops():
    masks = torch.rand(3, 4, 6)
    full = F.interpolate(masks[None], size=(32, 48), mode="bilinear", align_corners=False)
    expected = F.interpolate(full[..., :20, :30], size=(50, 75), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize_masks(masks, (32, 48), (20, 30), (50, 75)), expected)


def test_score_is_at_most_one_though_mask_values_are_not():
    one_thing = torch.tensor([0.9]), torch.tensor([0]), torch.tensor([True])
    result = merge_masks(torch.full((1, 4, 4), 3.0), *one_thing, (32, 32), (32, 32), (32, 32))
    assert [s.score for s in result.segments] == [1.0] and (result.segment_ids == 1).all()


def test_many_masks_equal_one_pass():
    """More masks than are resized at once."""
    torch.manual_seed(0)
    count = 2 * MASKS_AT_ONCE + 5
    masks, scores = torch.zeros(count, 16, 16), torch.rand(count)
    for mask, (y, x) in zip(masks, torch.randint(13, (count, 2)).tolist(), strict=True):
        mask[y : y + 4, x : x + 4] = 1.1
    labels, is_thing = torch.randint(5, (count,)), torch.rand(count) > 0.5
    sizes = (64, 64), (48, 64), (60, 80)
    merged = merge_masks(masks, scores, labels, is_thing, *sizes)
    whole = paint_segments(*mask_quality(resize_masks(masks, *sizes), scores), labels, is_thing)
    assert merged.segments == whole.segments and len(merged.segments) > 3
    assert torch.equal(merged.segment_ids, whole.segment_ids)


def test_nothing_good_enough_gives_an_empty_map():
    result = paint_segments(torch.ones(2, 3, 3, dtype=torch.bool), torch.zeros(2), torch.zeros(2).long(), torch.ones(2) > 0)
    assert result.segments == [] and result.segment_ids.count_nonzero() == 0
    assert result.segment_ids.dtype == torch.int64
