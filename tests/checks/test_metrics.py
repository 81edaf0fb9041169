"""Numeric checks 7-14 of the data and metrics facts: panoptic quality and mean IoU."""

import numpy as np
import pytest

from benchmark.metrics import MeanIoU, PanopticQuality
from tests.benchmark.panoptic_maps import CATEGORIES, oracle, random_sample, segments_of

AB = [{"id": 1, "name": "A", "isthing": 1}, {"id": 2, "name": "B", "isthing": 0}]


def quality(prediction, predicted, target, annotated, crowd=frozenset(), categories=AB):
    metric = PanopticQuality(categories)
    metric.update(prediction, segments_of(prediction, predicted), target, segments_of(target, annotated, crowd))
    return metric.compute()


def counts(result, name):
    c = result.per_class[name]
    return c.tp, c.fp, c.fn


def example():
    target = np.zeros((4, 10), dtype=int)
    target[:3, :4], target[:3, 6:], target[3] = 1, 2, 3
    prediction = np.zeros((4, 10), dtype=int)
    prediction[:3, :6], prediction[:3, 6:], prediction[3] = 11, 12, 13
    prediction[0, 0], prediction[1, 4] = 14, 15
    return prediction, {11: 1, 12: 1, 14: 1, 15: 1, 13: 2}, target, {1: 1, 2: 1, 3: 2}


def test_check_7_worked_example():
    result = quality(*example())
    a, b = result.per_class["A"], result.per_class["B"]
    assert (a.tp, a.fp, a.fn) == (2, 1, 0)
    assert (a.pq, a.sq, a.rq) == pytest.approx((0.766667, 0.958333, 0.8), abs=1e-6)
    assert a.iou == pytest.approx(11 / 12 + 1)
    assert (b.pq, b.sq, b.rq) == (1, 1, 1)
    assert (result.pq, result.sq, result.rq) == pytest.approx((0.883333, 0.979167, 0.9), abs=1e-6)
    assert (result.pq_th, result.pq_st) == pytest.approx((0.766667, 1.0), abs=1e-6)


def test_check_8_thresholds_are_strict():
    target = np.array([[1, 1, 1, 1, 1, 1, 2, 2]])
    prediction = np.array([[11, 11, 11, 0, 0, 0, 0, 0]])
    assert counts(quality(prediction, {11: 1}, target, {1: 1, 2: 2}), "A") == (0, 1, 1)  # IoU 3/6
    prediction[0, 3] = 11
    assert counts(quality(prediction, {11: 1}, target, {1: 1, 2: 2}), "A") == (1, 0, 0)  # IoU 4/6
    target = np.array([[0, 0, 2, 2, 2, 2, 2, 2]])
    prediction = np.array([[11, 11, 11, 11, 0, 0, 0, 0]])
    assert counts(quality(prediction, {11: 1}, target, {2: 2}), "A") == (0, 1, 0)  # half of it void
    target[0, 2] = 0
    assert quality(prediction, {11: 1}, target, {2: 2}).per_class["A"] is None  # three quarters void


def test_check_9_crowd():
    target = np.array([[1, 1, 1, 0, 2, 2, 2, 2]])
    prediction = np.array([[11, 11, 11, 11, 11, 11, 12, 12]])
    # crowd and void hold 4 of 6 pixels of a prediction of the crowd's category: ignored
    ignored = quality(prediction, {11: 1, 12: 2}, target, {1: 1, 2: 2}, crowd={1})
    assert ignored.per_class["A"] is None
    other = quality(prediction, {11: 2, 12: 2}, target, {1: 1, 2: 2}, crowd={1})
    assert counts(other, "B") == (0, 2, 1)
    nothing = quality(np.zeros_like(target), {}, target, {1: 1, 2: 2}, crowd={1})
    assert nothing.per_class["A"] is None and counts(nothing, "B") == (0, 0, 1)


def test_check_9_only_the_last_crowd_of_a_category_is_remembered():
    target = np.array([[1, 1, 1, 5, 5, 2, 2, 2]])
    prediction = np.array([[11, 11, 11, 11, 11, 12, 12, 12]])
    ids = segments_of(target, {1: 1, 5: 1, 2: 2}, crowd={1, 5})
    first, second, stuff = (next(s for s in ids if s["id"] == i) for i in (1, 5, 2))
    for order, false_positives in (([second, first, stuff], 0), ([first, second, stuff], 1)):
        metric = PanopticQuality(AB)
        metric.update(prediction, segments_of(prediction, {11: 1, 12: 2}), target, order)
        assert metric.state()["A"]["fp"] == false_positives


def test_check_10_trivial_predictors():
    _, _, target, annotated = example()
    perfect = quality(target, annotated, target, annotated)
    assert (perfect.pq, perfect.sq, perfect.rq) == (1, 1, 1)
    assert all(c.pq == 1 for c in perfect.per_class.values())
    empty = quality(np.zeros_like(target), {}, target, annotated)
    assert (empty.pq, empty.sq, empty.rq) == (0, 0, 0)
    halves = np.array([[11, 11, 12, 12]])
    assert counts(quality(halves, {11: 1, 12: 1}, np.array([[1, 1, 1, 1]]), {1: 1}), "A") == (0, 2, 1)


def test_check_11_equals_hotcoco_on_random_maps(tmp_path):
    """220 maps, each alone and all together. hotcoco states bit parity with panopticapi."""
    rng = np.random.default_rng(11)
    samples = [random_sample(rng) for _ in range(220)]
    for batch in ([sample] for sample in samples):
        assert_equal_to_oracle(tmp_path, batch)
    total = assert_equal_to_oracle(tmp_path, samples)
    for c in total.per_class.values():  # the maps exercise every branch of the rule
        assert min(c.tp, c.fp, c.fn) > 20
    assert any(s["iscrowd"] for sample in samples for s in sample["target_segments"])


def assert_equal_to_oracle(folder, samples):
    metric = PanopticQuality(CATEGORIES)
    for sample in samples:
        metric.update(**sample)
    result, expected = metric.compute(), oracle(folder, samples)
    for category in CATEGORIES:
        ours, theirs = result.per_class[category["name"]], expected["per_class"][category["id"]]
        if ours is None:
            assert theirs["tp"] + theirs["fp"] + theirs["fn"] == 0
            continue
        assert (ours.tp, ours.fp, ours.fn) == (theirs["tp"], theirs["fp"], theirs["fn"])
        assert (ours.iou, ours.pq, ours.sq, ours.rq) == pytest.approx(
            (theirs["iou"], theirs["pq"], theirs["sq"], theirs["rq"]), rel=1e-13, abs=0
        )
    for group, name in ((result.all, "All"), (result.things, "Things"), (result.stuff, "Stuff")):
        if group is None:
            assert expected[name]["n"] == 0
            continue
        theirs = expected[name]
        assert group.categories == theirs["n"]
        assert (group.pq, group.sq, group.rq) == pytest.approx((theirs["pq"], theirs["sq"], theirs["rq"]), rel=1e-13, abs=0)
    return result


def test_check_12_voc_identity():
    categories = [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 20)} for i in range(21)]
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(21) + 1, 10).reshape(21, 10)
    prediction = np.where(rng.random(target.shape) < 0.3, 0, target)
    own = {i: i for i in range(1, 22)}
    result = quality(prediction, own, target, own, categories=categories)
    assert 0 < result.pq_th < 1 and 0 < result.pq_st < 1
    assert result.pq == pytest.approx((20 * result.pq_th + result.pq_st) / 21)


def test_check_13_mean_iou_toy():
    target, prediction = np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0])
    two = MeanIoU(2)
    two.update(prediction, target)
    assert two.compute().miou == 0.5
    voc = MeanIoU(21)
    voc.update(prediction, target)
    assert voc.compute().miou == 0.5
    assert voc.compute(absent_as_zero=True).miou == pytest.approx(1 / 21)


@pytest.mark.parametrize("seed", range(20))
def test_check_14_void_pixels_of_a_prediction(seed):
    sample = random_sample(np.random.default_rng(seed))
    before = PanopticQuality(CATEGORIES)
    before.update(**sample)
    category_of = {s["id"]: s["category_id"] for s in sample["prediction_segments"]}
    ids = np.where(sample["target_ids"] == 0, 0, sample["prediction_ids"])
    after = PanopticQuality(CATEGORIES)
    after.update(ids, segments_of(ids, category_of), sample["target_ids"], sample["target_segments"])
    for name, sums in before.state().items():
        assert [after.state()[name][key] for key in ("iou", "tp", "fn")] == [sums[key] for key in ("iou", "tp", "fn")]


def test_check_14_false_positives_can_change():
    target, prediction = np.array([[0, 0, 0, 2]]), np.array([[11, 11, 11, 11]])
    with_void = quality(prediction, {11: 1}, target, {2: 2})
    without = quality(np.where(target == 0, 0, prediction), {11: 1}, target, {2: 2})
    assert with_void.per_class["A"] is None and without.per_class["A"].fp == 1
