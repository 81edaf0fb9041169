"""Pseudo-label quality: a worked example, brute force on random labels, invariants, merging and errors."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from benchmark.label_quality import IMAGE_SUMS, LabelQuality, label_quality_result
from benchmark.metrics import PanopticQuality
from tests.benchmark.panoptic_maps import CATEGORIES, random_map, segments_of


def example():
    """Two cats (segments 10, 20), a dog (30), grass (40) and a void column between the cats, 4 x 8."""
    annotation = np.full((4, 8), 40)
    annotation[:2, :3], annotation[:2, 3], annotation[:2, 4:7], annotation[2, :2] = 10, 0, 20, 30
    segments = segments_of(annotation, {10: 3, 20: 3, 30: 7, 40: 90})
    targets = [(40, 90), (20, 3), (10, 3), (30, 7)]  # any order: labels 1, 2, 3, 4
    return annotation, segments, targets


def perfect_labels(annotation, targets):
    labels = np.zeros_like(annotation)
    for label, (segment, _) in enumerate(targets, 1):
        labels[annotation == segment] = label
    return labels


def measured(*updates):
    metric = LabelQuality(CATEGORIES)
    for update in updates:
        metric.update(*update)
    return metric


def test_perfect_labels_score_one():
    annotation, segments, targets = example()
    result = measured(("a", perfect_labels(annotation, targets), targets, annotation, segments)).compute()
    assert result.instance_iou == result.box_iou == result.thing_accuracy == result.ambiguous_accuracy == 1
    assert result.stuff_accuracy == result.panoptic.pq == result.class_agnostic_pq == 1
    assert (result.images, result.instances) == (1, 3)


def test_worked_example():
    annotation, segments, targets = example()
    labels = perfect_labels(annotation, targets)
    labels[:2, 2:4] = 2  # the right cat takes a column of the left cat, and the void
    labels[2, :2] = 1  # the dog is labelled grass
    metric = measured(("a", labels, targets, annotation, segments))
    left, right = 4 / 6, 6 / 8  # void pixels don't count
    # things 6 + 6 + 2 pixels, of which 4 + 6 + 0 are right; the dog is no ambiguous pixel
    assert metric.state()["images"]["a"] == [pytest.approx(left + right), 3, 10, 12, 10, 14]
    assert list(IMAGE_SUMS) == [
        "iou_sum", "instances", "ambiguous_correct", "ambiguous_total", "thing_correct", "thing_total"
    ]  # fmt: skip
    result = metric.compute()
    assert result.instance_iou == pytest.approx((left + right + 0) / 3)
    # boxes: left 2x2 of 2x3; right 2x5 (columns 2-6, column 3 void) against 2x3; the dog none
    assert result.box_iou == pytest.approx((4 / 6 + 6 / 10 + 0) / 3)
    assert (result.thing_accuracy, result.ambiguous_accuracy) == (10 / 14, 10 / 12)
    assert result.stuff_accuracy == 1
    counts = result.panoptic.per_class
    assert (counts["cat"].tp, counts["dog"].fn, counts["grass"].tp) == (2, 1, 1)
    assert result.class_agnostic_pq == pytest.approx((left + right + 16 / 18) / (3 + 0.5))


def test_class_agnostic_quality_forgives_the_class_only():
    annotation, segments, targets = example()
    labels = perfect_labels(annotation, targets)
    renamed = [s if s["id"] != 30 else {**s, "category_id": 3} for s in segments]
    as_cat = [(s, 3 if s == 30 else c) for s, c in targets]
    result = measured(("a", labels, as_cat, annotation, renamed)).compute()
    assert result.class_agnostic_pq == 1
    stuff_moved = np.where(labels == 1, 4, labels)  # grass pixels labelled as the dog
    worse = measured(("a", stuff_moved, targets, annotation, segments)).compute()
    assert worse.stuff_accuracy == 0 and worse.class_agnostic_pq < 1


def test_swapped_instances_keep_panoptic_quality_but_not_identity():
    annotation, segments, targets = example()
    labels = perfect_labels(annotation, targets)
    swapped = np.select([labels == 2, labels == 3], [3, 2], labels)
    result = measured(("a", swapped, targets, annotation, segments)).compute()
    assert result.panoptic.pq == 1
    assert result.ambiguous_accuracy == 0 and result.instance_iou == pytest.approx(1 / 3)


def test_crowds_are_not_scored_as_things():
    annotation, segments, targets = example()
    for segment in segments:
        segment["iscrowd"] = int(segment["id"] == 20)
    targets = [t for t in targets if t[0] != 20]
    metric = measured(("a", perfect_labels(annotation, targets), targets, annotation, segments))
    # one cat is left, so no class has two instances; the crowd's pixels count nowhere
    assert metric.state()["images"]["a"] == [2.0, 2, 0, 0, 8, 8]
    assert metric.compute().ambiguous_accuracy is None


def random_labels(seed):
    rng = np.random.default_rng(seed)
    annotation = random_map(rng, (12, 15), 6)
    category_of = {int(i): CATEGORIES[int(rng.integers(0, 3))]["id"] for i in np.unique(annotation)}
    crowd = {i for i in category_of if rng.random() < 0.15}
    segments = segments_of(annotation, category_of, crowd)
    targets = [(s["id"], s["category_id"]) for s in segments if not s["iscrowd"]]
    rng.shuffle(targets)
    targets = [(int(s), int(c)) for s, c in targets]
    labels = np.roll(perfect_labels(annotation, targets), rng.integers(-2, 3, size=2), axis=(0, 1))
    noise = rng.random(labels.shape) < 0.15
    return np.where(noise, rng.integers(0, len(targets) + 1, labels.shape), labels), targets, annotation, segments


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equals_brute_force(seed):
    labels, targets, annotation, segments = random_labels(seed)
    metric = measured((7, labels, targets, annotation, segments))
    things = [(i, s) for i, (s, c) in enumerate(targets, 1) if c in (3, 7)]
    scored = {s["id"]: s["category_id"] for s in segments if not s["iscrowd"]}
    ious, boxes, correct, total = [], [], np.zeros(2), np.zeros(2)
    for label, segment in things:
        mask, truth = (labels == label) & (annotation != 0), annotation == segment
        ious.append((mask & truth).sum() / (mask | truth).sum())
        boxes.append(box_iou(mask, truth))
        ambiguous = list(scored.values()).count(scored[segment]) >= 2
        for kind, counted in enumerate((True, ambiguous)):
            correct[kind] += counted * (mask & truth).sum()
            total[kind] += counted * truth.sum()
    expected = [sum(ious), len(things), correct[1], total[1], correct[0], total[0]]
    assert metric.state()["images"]["7"] == pytest.approx(expected)
    assert metric.state()["box_iou"]["7"] == pytest.approx(sum(boxes))
    direct = PanopticQuality(CATEGORIES)
    predicted = [{"id": i, "category_id": c} for i, (_, c) in enumerate(targets, 1) if (labels == i).any()]
    direct.update(labels, predicted, annotation, segments)
    assert metric.compute().panoptic == direct.compute()


def box_iou(mask, truth):
    """IoU of the filled bounding boxes, with scikit-image's extents."""
    filled = np.zeros((2, *mask.shape), dtype=bool)
    for image, region in zip(filled, (mask, truth), strict=True):
        for found in regionprops(region.astype(np.uint8)):
            y0, x0, y1, x1 = found.bbox
            image[y0:y1, x0:x1] = True
    return (filled[0] & filled[1]).sum() / (filled[0] | filled[1]).sum()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 5))
def test_merging_equals_a_single_pass(seed, cut):
    updates = [(image, *random_labels(seed + image)) for image in range(5)]
    parts = [measured(*updates[cut:]), measured(*updates[:cut])]  # in another order than the single pass
    first, second = (LabelQuality.from_state(json.loads(json.dumps(p.state())), CATEGORIES) for p in parts)
    first.merge(second)
    merged, whole = first.compute(), measured(*updates).compute()
    for key in ("instance_iou", "box_iou", "thing_accuracy", "ambiguous_accuracy", "stuff_accuracy", "images", "instances"):
        assert getattr(merged, key) == getattr(whole, key)  # exact: the order of images doesn't matter
    assert merged.panoptic.pq == pytest.approx(whole.panoptic.pq)
    assert merged.class_agnostic_pq == pytest.approx(whole.class_agnostic_pq)
    with pytest.raises(ValueError, match="added in both"):
        first.merge(measured(updates[0]))


def test_an_image_with_only_void_or_background():
    void = np.zeros((3, 3), dtype=int)
    result = measured(("a", void, [], void, [])).compute()
    assert result.instance_iou is None and result.panoptic.pq is None and result.images == 1
    grass = np.full((3, 3), 5)
    result = measured(("b", np.ones((3, 3), int), [(5, 90)], grass, segments_of(grass, {5: 90}))).compute()
    assert (result.instance_iou, result.stuff_accuracy, result.panoptic.pq) == (None, 1, 1)
    assert measured().compute().images == 0


@pytest.mark.parametrize(
    ("labels", "targets", "message"),
    [
        (np.full((4, 8), 5), None, "Label 5 of image a has no target: there are 4"),
        (None, [(40, 90), (20, 3), (20, 3), (30, 7)], "Two targets of image a belong to segment 20"),
        (None, [(40, 90), (99, 3), (10, 3), (30, 7)], "Segment 99 of category 3 is not in the annotation of image a"),
        (None, [(40, 90), (20, 7), (10, 3), (30, 7)], "Segment 20 of category 7 is not"),
        (None, [(40, 90), (20, 11), (10, 3), (30, 7)], "unknown category 11"),
        (np.ones((3, 8), int), None, "differ in size"),
    ],
)
def test_errors_name_the_cause_and_add_nothing(labels, targets, message):
    annotation, segments, right = example()
    metric = LabelQuality(CATEGORIES)
    before = metric.state()
    labels = perfect_labels(annotation, right) if labels is None else labels
    with pytest.raises(ValueError, match=message):
        metric.update("a", labels, right if targets is None else targets, annotation, segments)
    assert metric.state() == before


def test_an_image_is_added_once():
    annotation, segments, targets = example()
    update = (4, perfect_labels(annotation, targets), targets, annotation, segments)
    with pytest.raises(ValueError, match="image 4 were added before"):
        measured(update, update)


def test_stored_sums_are_checked():
    state = LabelQuality(CATEGORIES).state()
    with pytest.raises(ValueError, match="lack stuff"):
        label_quality_result({key: value for key, value in state.items() if key != "stuff"})
    with pytest.raises(ValueError, match="image 3 are not"):
        label_quality_result({**state, "images": {"3": [1, 2]}})
