import inspect
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base.build import HEADS, build_head
from methods.base.mask2former import Mask2FormerHead
from methods.base.mask2former_ops import mask_targets, merge_masks, uncertain_points
from methods.base.types import Categories, Category, Features, PseudoLabels

CONF = Path(__file__).parents[3] / "benchmark/conf/head"
CATEGORIES = Categories([Category(1, "car", True), Category(2, "cat", True), Category(3, "sky", False)])
SIZE = 64


def small_head(**options):
    options = {"queries": 6, "layers": 3, "heads": 2, "feedforward": 32, "num_points": 64, **options}
    return Mask2FormerHead(CATEGORIES, 16, 8, **options)


def make_features(images, padding=None):
    """Features whose maps are subsampled images (B, 8, H, W), padded with zeros to 16 channels."""
    batch, _, height, width = images.shape
    padding = torch.zeros(batch, height, width, dtype=torch.bool) if padding is None else padding
    wide = F.pad(images, (0, 0, 0, 0, 0, 8))
    maps = [wide[:, :, ::stride, ::stride] for stride in (8, 16, 32)]
    positions = [torch.randn(16, 9, 9)[None, :, : m.shape[2], : m.shape[3]].expand_as(m) for m in maps]
    return Features(
        maps, positions, torch.zeros(3, 16), [padding[:, ::s, ::s] for s in (8, 16, 32)],
        images[:, :, ::4, ::4], (height, width),
    )  # fmt: skip


def rectangles(ignore=None):
    """Two rectangles on void; classes car and sky."""
    ids = torch.zeros(SIZE, SIZE, dtype=torch.int64)
    ids[8:40, 4:28] = 1
    ids[16:60, 36:60] = 2
    return PseudoLabels.from_segment_ids(ids, torch.tensor([0, 2]), torch.tensor([True, False]), ids.shape, ignore=ignore)


def rectangle_images():
    labels = rectangles()
    masks = labels.masks().float()
    return torch.cat([masks, 1 - masks.sum(0, keepdim=True), torch.rand(5, SIZE, SIZE)])[None] * 2 - 1


def losses(head, features, labels, weights=None, seed=0):
    torch.manual_seed(seed)
    return head.losses(features, labels, weights or {})


def test_training_fits_two_rectangles():
    torch.manual_seed(0)
    head = small_head()
    features, labels = make_features(rectangle_images()), rectangles()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    totals = []
    for _ in range(150):
        total = sum(head.losses(features, [labels], {}).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-5:]) < 0.3 * sum(totals[:5])
    prediction = head.eval().predict(features, [(SIZE, SIZE)], [(SIZE, SIZE)])[0]
    assert sorted((s.label, s.is_thing) for s in prediction.segments) == [(0, True), (2, False)]
    for segment in prediction.segments:
        found, truth = prediction.segment_ids == segment.id, labels.masks()[0 if segment.is_thing else 1]
        # void is no class: the pixels that no mask claims go to the most probable one, so only coverage is asked for
        assert (found & truth).sum() > 0.95 * truth.sum()


def test_every_parameter_gets_a_gradient():
    head = small_head()
    sum(losses(head, make_features(rectangle_images()), [rectangles()]).values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_ids_under_ignore_have_no_influence():
    torch.manual_seed(1)
    head = small_head()
    features = make_features(torch.randn(1, 8, SIZE, SIZE))
    ignore = torch.rand(SIZE, SIZE) < 0.3
    labels = rectangles(ignore)
    scrambled = torch.where(ignore, torch.randint(0, 3, ignore.shape), labels.segment_ids)
    other = replace(labels, segment_ids=scrambled)
    assert not torch.equal(other.segment_ids, labels.segment_ids)
    assert losses(head, features, [labels]) == losses(head, features, [other])
    read = labels.segment_ids.clone()
    read[8:40, 4:28] = 0  # the same change where pixels are read does change the losses
    assert losses(head, features, [labels]) != losses(head, features, [replace(labels, segment_ids=read)])


def test_empty_targets_teach_nothing():
    head, features, labels = small_head(), make_features(rectangle_images()), rectangles()
    ids, two = labels.segment_ids, (labels.classes, labels.is_thing)
    more = [torch.cat([t, extra]) for t, extra in zip(two, (torch.tensor([1]), torch.tensor([True])), strict=True)]
    with_empty = PseudoLabels.from_segment_ids(ids, *more, ids.shape)
    assert losses(head, features, [labels]) == losses(head, features, [with_empty])


def test_an_image_without_targets_trains_no_object_only():
    head, features = small_head(), make_features(rectangle_images())
    none = torch.zeros(0, dtype=torch.int64)
    labels = PseudoLabels.from_segment_ids(torch.zeros(SIZE, SIZE, dtype=torch.int64), none, none.bool(), (SIZE, SIZE))
    values = losses(head, features, [labels])
    assert values["masks/dice"] == 0 and values["masks/cross_entropy"] == 0
    no_object = [F.cross_entropy(c[0], torch.full((6,), 3)) for c, _ in head(features)]
    torch.testing.assert_close(values["classification/cross_entropy"], 2 * sum(no_object))
    sum(values.values()).backward()


def test_a_fully_ignored_image_changes_no_loss():
    head, labels = small_head(), rectangles()
    both = make_features(torch.cat([rectangle_images(), torch.randn(1, 8, SIZE, SIZE)]))
    first = replace(
        both, maps=[m[:1] for m in both.maps], positions=[p[:1] for p in both.positions],
        padding=[p[:1] for p in both.padding], fine=both.fine[:1],
    )  # fmt: skip
    unknown = replace(labels, ignore=torch.ones(SIZE, SIZE, dtype=torch.bool))
    alone, together = losses(head, first, [labels]), losses(head, both, [labels, unknown])
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value)


def test_an_image_with_any_known_pixel_has_its_negatives():
    head, features = small_head(), make_features(rectangle_images())
    none = torch.zeros(0, dtype=torch.int64)
    nothing = PseudoLabels.from_segment_ids(torch.zeros(SIZE, SIZE, dtype=torch.int64), none, none.bool(), (SIZE, SIZE))
    partly = replace(nothing, ignore=torch.ones(SIZE, SIZE, dtype=torch.bool))
    expected = losses(head, features, [nothing])["classification/cross_entropy"]
    assert losses(head, features, [partly])["classification/cross_entropy"] == 0 < expected
    partly.ignore[3, 5] = False
    torch.testing.assert_close(losses(head, features, [partly])["classification/cross_entropy"], expected)


def test_masks_are_divided_by_the_mean_count_over_devices(monkeypatch):
    head, features, labels = small_head(), make_features(rectangle_images()), [rectangles()]
    alone = losses(head, features, labels)
    monkeypatch.setattr("methods.base.mask2former.mean_over_devices", lambda count: 3.0 * count)  # others have more
    shared = losses(head, features, labels)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value / 3 if name.startswith("masks/") else value)


def test_losses_of_undecided_predictions():
    """Logits of zero: class loss ln 4 and mask cross-entropy ln 2 for each of the four predictions, times 2 and 5."""
    head = small_head()
    for parameter in (*head.classifier.parameters(), *head.mask_embedding[-1].parameters()):
        torch.nn.init.zeros_(parameter)
    values = losses(head, make_features(rectangle_images()), [rectangles()])
    assert values["classification/cross_entropy"].item() == pytest.approx(4 * 2 * math.log(4), rel=1e-5)
    assert values["masks/cross_entropy"].item() == pytest.approx(4 * 5 * math.log(2), rel=1e-5)


def test_group_weights_scale_their_group():
    head, features, labels = small_head(), make_features(rectangle_images()), [rectangles()]
    full, half = losses(head, features, labels), losses(head, features, labels, {"masks": 0.5, "classification": 0.25})
    assert set(full) == {"classification/cross_entropy", "masks/cross_entropy", "masks/dice"}
    for name, value in full.items():
        torch.testing.assert_close(half[name], value * (0.5 if name.startswith("masks") else 0.25))


def test_matching_finds_the_query_of_each_mask():
    head, target = small_head(), mask_targets(rectangles())
    logits = torch.full((6, SIZE // 4, SIZE // 4), -10.0)
    logits[4], logits[1] = (20 * m[::4, ::4] - 10 for m in target.masks)
    queries, matched = head._match(torch.zeros(6, 4), logits, target)
    assert dict(zip(queries.tolist(), matched.tolist(), strict=True)) == {4: 0, 1: 1}


def test_attention_never_reaches_padding_and_is_never_empty():
    torch.manual_seed(0)
    head, logits = small_head(), torch.randn(2, 6, 4, 4)
    logits[0, 2] = -1
    padding = torch.zeros(2, 4, 4, dtype=torch.bool)
    padding[0, :, 2:] = True
    forbidden = head._attention_mask(logits, padding).view(2, 2, 6, 4, 4)
    for image, one_head, query in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(6)).tolist():
        allowed = (logits[image, query] >= 0) & ~padding[image]
        expected = allowed if allowed.any() else ~padding[image]
        assert torch.equal(~forbidden[image, one_head, query], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_points_lie_in_pixels_that_may_be_read(seed, share):
    torch.manual_seed(seed)
    ignore = torch.rand(SIZE, SIZE) < share
    target = mask_targets(rectangles(ignore))
    points = uncertain_points(torch.randn(2, 1, 16, 16), target, 40, 3.0, 0.75)
    assert points.shape == (2, 40, 2)
    columns, rows = (points * SIZE).long().unbind(-1)
    assert not ignore[rows, columns].any()
    everything = replace(target, masks=target.unignored[None].clone())
    torch.testing.assert_close(everything.at(points, torch.zeros(2, dtype=torch.int64)), torch.ones(2, 40))


def test_importance_sampling_prefers_uncertain_places():
    target = mask_targets(rectangles())
    logits = torch.linspace(-8, 8, 64).expand(1, 1, 64, 64)  # uncertain in the middle columns
    distance = (uncertain_points(logits, target, 2000, 3.0, 1.0)[0, :, 0] - 0.5).abs()
    random = (uncertain_points(logits, target, 2000, 3.0, 0.0)[0, :, 0] - 0.5).abs()
    assert distance.max() < 0.2 and random.mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_merging_is_mmdets(seed):
    from mmdet.models.seg_heads import MaskFormerFusionHead

    torch.manual_seed(seed)
    class_logits = 3 * torch.randn(12, 4)
    mask_logits = F.interpolate(4 * torch.randn(1, 12, 3, 3), (16, 16), mode="bicubic")[0]
    reference = MaskFormerFusionHead(2, 1, test_cfg={"object_mask_thr": 0.5, "iou_thr": 0.6})
    expected = reference.panoptic_postprocess(class_logits, mask_logits).sem_seg[0]
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels < 3) & (scores > 0.5)
    merged = merge_masks(scores[kept], labels[kept], mask_logits[kept].sigmoid(), CATEGORIES, 0.6)
    pairs = set(zip(merged.segment_ids.flatten().tolist(), expected.flatten().tolist(), strict=True))
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})
    label_of = {0: 3, **{s.id: s.label for s in merged.segments}}
    assert all(label_of[ours] == theirs % 1000 for ours, theirs in pairs)
    assert sorted(label_of) == list(range(len(label_of)))


def test_merging_joins_stuff_and_keeps_things_apart():
    masks = torch.zeros(4, 4, 8)
    for i in range(4):
        masks[i, :, 2 * i : 2 * i + 2] = 1
    scores = torch.tensor([0.9, 0.81, 0.85, 0.95])
    merged = merge_masks(scores, torch.tensor([0, 2, 0, 2]), masks, CATEGORIES, 0.8)
    assert [(s.id, s.label, s.is_thing) for s in merged.segments] == [(1, 0, True), (2, 2, False), (3, 0, True)]
    assert merged.segments[1].score == pytest.approx(0.95)
    assert merged.segment_ids[0].tolist() == [1, 1, 2, 2, 3, 3, 2, 2]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_predictions_are_valid_maps(threshold):
    torch.manual_seed(0)
    head = small_head(score_threshold=threshold, overlap_threshold=0.1).eval()
    padding = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    padding[1, 33:], padding[1, :, 50:] = True, True
    features = make_features(torch.randn(2, 8, SIZE, SIZE), padding)
    maps = head.predict(features, [(SIZE, SIZE), (33, 50)], [(20, 31), (70, 100)])
    assert [tuple(m.segment_ids.shape) for m in maps] == [(20, 31), (70, 100)]
    for prediction in maps:
        ids = [s.id for s in prediction.segments]
        assert set(prediction.segment_ids.unique().tolist()) - {0} == set(ids) == set(range(1, len(ids) + 1))
        assert all(0 <= s.score <= 1 and s.is_thing == CATEGORIES[s.label].is_thing for s in prediction.segments)
        assert bool(ids) == (threshold == 0.0)


def test_predict_crops_the_padding_before_resizing():
    """Two masks share the valid half of the input, a third one has the padding: the output is halved between two."""
    head = small_head()
    masks = torch.full((1, 3, 16, 16), -9.0)
    for query, cells in enumerate((slice(0, 4), slice(4, 8), slice(8, 16))):
        masks[:, query, :, cells] = 9.0
    class_logits = torch.tensor([[[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 9.0, 0, 0]]])
    head.forward = lambda features: [(class_logits, masks)]
    prediction = head.predict(make_features(torch.zeros(1, 8, SIZE, SIZE)), [(SIZE, 32)], [(10, 40)])[0]
    expected = torch.ones(10, 40, dtype=torch.int64)
    expected[:, 20:] = 2
    assert torch.equal(prediction.segment_ids, expected)
    assert [s.label for s in prediction.segments] == [0, 1]


class Widths:
    channels, fine_channels = 64, 8


@pytest.mark.parametrize("path", sorted(CONF.glob("mask2former*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    head = build_head(yaml.safe_load(path.read_text()), CATEGORIES, Widths())
    assert isinstance(head, Mask2FormerHead)


def test_published_values_are_the_defaults():
    config = yaml.safe_load((CONF / "mask2former.yaml").read_text())
    assert config.pop("name") == "mask2former"
    parameters = list(inspect.signature(Mask2FormerHead).parameters.values())[3:]
    assert config == {p.name: p.default for p in parameters}


def test_head_names():
    assert build_head(yaml.safe_load((CONF / "none.yaml").read_text()), CATEGORIES, Widths()) is None
    with pytest.raises(ValueError, match=f"Unknown head 'maskformer'; head.name is one of {', '.join(HEADS)}"):
        build_head({"name": "maskformer"}, CATEGORIES, Widths())
    with pytest.raises(ValueError, match="head 'mask2former' has no option quries; its options are queries, layers"):
        build_head({"name": "mask2former", "quries": 3}, CATEGORIES, Widths())
    with pytest.raises(ValueError, match=r"head\.layers is 0"):
        build_head({"name": "mask2former", "layers": 0}, CATEGORIES, Widths())
