"""Panoptic quality and mean IoU: streaming, merging, errors, and agreement with torchmetrics."""

import itertools
import json
from collections import Counter
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.metrics import MeanIoU, PanopticQuality, mean_iou_result, overlaps, panoptic_result
from tests.benchmark.panoptic_maps import CATEGORIES, random_map, random_sample, segments_of


def measured(samples):
    metric = PanopticQuality(CATEGORIES)
    for sample in samples:
        metric.update(**sample)
    return metric


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].pop("iou") == pytest.approx(second[name].pop("iou"), rel=1e-12)
        assert first[name] == second[name]


@pytest.fixture
def torchmetrics():
    import methods.base  # noqa: F401  makes torchvision, which torchmetrics imports, work beside a CPU-only torch

    return pytest.importorskip("torchmetrics")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 8), max_size=3))
def test_merging_equals_a_single_pass(seed, cuts):
    rng = np.random.default_rng(seed)
    samples = [random_sample(rng, (10, 12)) for _ in range(8)]
    edges = [0, *sorted(cuts), 8]
    parts = [measured(samples[a:b]) for a, b in itertools.pairwise(edges)]
    restored = [PanopticQuality.from_state(json.loads(json.dumps(p.state())), CATEGORIES) for p in parts]
    whole = PanopticQuality(CATEGORIES)
    for part in restored:
        whole.merge(part)
    assert_same_state(whole.state(), measured(samples).state())


def test_compute_equals_the_result_of_the_state():
    rng = np.random.default_rng(5)
    metric = measured([random_sample(rng) for _ in range(5)])
    assert metric.compute() == panoptic_result(json.loads(json.dumps(metric.state())))


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int64, (5, 7), elements=st.sampled_from([0, 1, 2, 2**24 - 1, 2**31 - 1])),
    arrays(np.int64, (5, 7), elements=st.sampled_from([0, 1, 3, 2**31 - 1])),
)
def test_overlaps_counts_every_pair(first, second):
    expected = {}
    for pair in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    assert overlaps(first, second) == expected
    assert list(overlaps(first, second)) == sorted(expected)


def test_empty_maps_have_no_overlap():
    assert overlaps(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64)) == {}


def test_ids_that_share_their_low_bits():
    """A hash of their low bits alone would put all of them into one slot."""
    ids = np.arange(60_000, dtype=np.int64).reshape(200, 300) << 32
    assert len(overlaps(ids, ids)) == 60_000
    with pytest.raises(ValueError, match="holds ids from 0 to"):
        PanopticQuality(CATEGORIES).update(ids, [], ids, [])


def test_overlaps_of_more_pairs_than_the_table_starts_with():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2**31, (2, 90, 70))
    second[:, 35:] = first[:, 35:] = 7
    expected = Counter(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    assert overlaps(first, second) == expected and expected[7, 7] == 90 * 35


@pytest.mark.parametrize("seed", range(10))
def test_equals_torchmetrics_without_void_and_crowd(torchmetrics, seed):
    """torchmetrics knows neither crowd nor the void share of a match, so the maps have neither."""
    import torch

    rng = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        target = random_map(rng, (14, 18), 5) + 1
        prediction = np.roll(target, rng.integers(-1, 2, size=2), axis=(0, 1))
        category_of = {int(i): CATEGORIES[int(i) % 4]["id"] for i in np.unique(np.stack([target, prediction]))}
        # torchmetrics merges stuff of one category in an image, as COCO's format does: one id per stuff category
        stuff = {i: c for i, c in category_of.items() if c in (90, 200)}
        for ids in (target, prediction):
            for i, c in stuff.items():
                ids[ids == i] = c
        images.append((prediction, target, {**category_of, 90: 90, 200: 200}))
    ours = PanopticQuality(CATEGORIES)
    theirs = torchmetrics.detection.PanopticQuality(
        things={3, 7}, stuffs={90, 200}, return_per_class=True, return_sq_and_rq=True
    )
    for prediction, target, category_of in images:
        ours.update(prediction, segments_of(prediction, category_of), target, segments_of(target, category_of))
        pair = [np.stack([np.vectorize(category_of.get)(ids), ids], -1) for ids in (prediction, target)]
        theirs.update(*(torch.from_numpy(p)[None] for p in pair))
    expected = theirs.compute().numpy()  # (classes, 3): PQ, SQ, RQ, things first and each group sorted by id
    for row, category in zip(expected, CATEGORIES, strict=True):
        value = ours.compute().per_class[category["name"]]
        if value is not None:
            assert (value.pq, value.sq, value.rq) == pytest.approx(tuple(row), rel=1e-6)


def test_a_group_without_categories_is_none():
    metric = PanopticQuality(CATEGORIES)
    assert (metric.compute().pq, metric.compute().pq_th, metric.compute().pq_st) == (None, None, None)
    ids = np.ones((2, 2), dtype=int)
    metric.update(ids, segments_of(ids, {1: 90}), ids, segments_of(ids, {1: 90}))
    assert (metric.compute().pq, metric.compute().pq_th, metric.compute().pq_st) == (1, None, 1)


def test_the_annotated_area_counts_not_the_pixels():
    ids = np.array([[1, 1, 1, 1]])
    metric = PanopticQuality(CATEGORIES)
    metric.update(ids, [{"id": 1, "category_id": 3}], ids, [{"id": 1, "category_id": 3, "area": 6, "iscrowd": 0}])
    assert metric.state()["cat"]["iou"] == pytest.approx(4 / 6)


def segment(**changes):
    return {"id": 1, "category_id": 3, "area": 4, "iscrowd": 0, **changes}


ONES, TWOS = np.ones((2, 2), dtype=int), np.full((2, 2), 2)


@pytest.mark.parametrize(
    ("prediction", "predicted", "target", "annotated", "message"),
    [
        (TWOS, [segment()], ONES, [segment()], "Id 2 is in the predicted map but not"),
        (ONES, [segment(), segment(id=9)], ONES, [segment()], "segment 9 is listed but has no pixel"),
        (ONES, [segment(), segment(id=0)], ONES, [segment()], "segment 0 is listed but has no pixel"),
        (ONES, [segment(), segment()], ONES, [segment()], "predicted segment 1 is listed twice"),
        (ONES, [segment(category_id=5)], ONES, [segment()], "category 5"),
        (ONES, [segment()], TWOS, [segment()], "Id 2 is in the target map but not"),
        (ONES, [segment()], ONES, [segment(category_id=5)], "target segment 1 has category 5"),
        (ONES, [segment()], ONES, [segment(area=0)], "target segment 1 .* positive 'area'"),
        (ONES, [segment()], np.ones((2, 3), int), [segment()], r"differ in size: \(2, 3\) and \(2, 2\)"),
        (ONES * 1.0, [segment()], ONES, [segment()], "predicted map must be an .* integer map"),
        (ONES, [segment()], -ONES, [segment()], "target map holds ids from -1"),
        (ONES[None], [segment()], ONES, [segment()], r"shape \(1, 2, 2\)"),
    ],
)
def test_errors_name_the_cause_and_add_nothing(prediction, predicted, target, annotated, message):
    metric = PanopticQuality(CATEGORIES)
    before = metric.state()
    with pytest.raises(ValueError, match=message):
        metric.update(prediction, predicted, target, annotated)
    assert metric.state() == before


def test_a_listed_target_without_pixels_is_a_miss():
    metric = PanopticQuality(CATEGORIES)
    metric.update(ONES, [segment()], ONES, [segment(), segment(id=8, category_id=7, area=0)])
    assert metric.state()["dog"] == {"iou": 0.0, "tp": 0, "fp": 0, "fn": 1, "is_thing": True}


@pytest.mark.parametrize("categories", [[], [CATEGORIES[0]] * 2, [CATEGORIES[0], {**CATEGORIES[1], "name": "cat"}]])
def test_categories_must_differ(categories):
    with pytest.raises(ValueError, match="at least one category"):
        PanopticQuality(categories)


def test_other_categories_cannot_be_merged_or_restored():
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match="different categories"):
        metric.merge(PanopticQuality(CATEGORIES[:2]))
    with pytest.raises(ValueError, match="grass, sky"):
        PanopticQuality.from_state(metric.state(), CATEGORIES[:2])


@pytest.mark.parametrize(("change", "message"), [({"tp": -1}, "not negative"), ({"iou": float("nan")}, "finite")])
def test_stored_sums_are_checked(change, message):
    sums = {"iou": 1.0, "tp": 1, "fp": 0, "fn": 0, "is_thing": True}
    with pytest.raises(ValueError, match=f"'cat' must be .*{message}"):
        panoptic_result({"cat": {**sums, **change}})
    sums.pop("fn")
    with pytest.raises(ValueError, match="'cat' lack fn"):
        panoptic_result({"cat": sums})


labels = arrays(np.uint8, (3, 4, 6), elements=st.sampled_from([0, 1, 2, 3]))
truths = arrays(np.uint8, (3, 4, 6), elements=st.sampled_from([0, 1, 3, 255]))


@settings(max_examples=40, deadline=None)
@given(labels, truths)
def test_mean_iou_streams_and_merges(predictions, targets):
    parts = []
    for prediction, target in zip(predictions, targets, strict=True):
        part = MeanIoU(5, list("abcde"))
        part.update(prediction, target)
        parts.append(MeanIoU.from_state(json.loads(json.dumps(part.state()))))
    merged = reduce(lambda first, second: (first.merge(second), first)[1], parts)
    whole = MeanIoU(5, list("abcde"))
    whole.update(predictions, targets)
    assert merged.state() == whole.state()
    known = targets != 255
    sets = [(known & (predictions == k), known & (targets == k)) for k in range(5)]
    expected = [(p & t).sum() / (p | t).sum() for p, t in sets if (p | t).any()]
    result = whole.compute()
    assert result.per_class["e"] is None
    assert result.miou == (pytest.approx(np.mean(expected)) if expected else None)
    assert whole.compute(absent_as_zero=True).miou == pytest.approx(sum(expected) / 5)


def test_mean_iou_equals_torchmetrics(torchmetrics):
    import torch

    rng = np.random.default_rng(3)
    predictions, targets = rng.integers(0, 4, (6, 9, 11)), rng.integers(0, 4, (6, 9, 11))
    targets[rng.random(targets.shape) < 0.2] = 255
    ours = MeanIoU(4)
    ours.update(predictions, targets)
    theirs = torchmetrics.JaccardIndex(task="multiclass", num_classes=4, ignore_index=255, average="none")
    expected = theirs(torch.from_numpy(predictions), torch.from_numpy(targets))
    assert list(ours.compute().per_class.values()) == pytest.approx(expected.tolist(), rel=1e-6)
    assert ours.compute().miou == pytest.approx(expected.mean().item(), rel=1e-6)


def test_mean_iou_errors():
    metric = MeanIoU(2)
    with pytest.raises(ValueError, match="predicted label is outside"):
        metric.update(np.array([0, 2]), np.array([0, 1]))
    with pytest.raises(ValueError, match="target label is outside"):
        metric.update(np.array([0, 1]), np.array([0, -1]))
    with pytest.raises(ValueError, match="differ in shape"):
        metric.update(np.array([0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="2 different names"):
        MeanIoU(2, ["a", "a"])
    with pytest.raises(ValueError, match="different classes"):
        metric.merge(MeanIoU(2, ["a", "b"]))
    with pytest.raises(ValueError, match="square"):
        mean_iou_result(np.zeros((2, 3)))
    metric.update(np.array([0, 7]), np.array([0, 255]))  # an ignored pixel's prediction is not read
    assert metric.confusion.tolist() == [[1, 0], [0, 0]]
    assert MeanIoU(2).compute().miou is None
