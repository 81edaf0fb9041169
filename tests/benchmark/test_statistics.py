"""Intervals against SciPy and brute force; what too few seeds or images get."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.statistics import (
    LEAST_IMAGES,
    ImageSums,
    Interval,
    image_interval,
    paired_differences,
    paired_image_interval,
    pooled,
    prediction_interval,
    seed_interval,
)

values = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=12)


@given(values)
def test_the_interval_over_seeds_is_students(found):
    interval = seed_interval(found)
    if np.std(found) == 0:
        assert interval.low == interval.high == pytest.approx(found[0])
        return
    expected = stats.ttest_1samp(found, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_prediction_interval_covers_a_further_value_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(0.5, 0.02, (4000, 5))
    hits = [row[4] in prediction_interval(row[:4]) for row in draws]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("few", [[], [0.3], [0.3, 0.5]])
def test_fewer_than_three_seeds_have_no_interval(few):
    assert seed_interval(few) is None and prediction_interval(few) is None


def test_seeds_are_paired_and_lonely_ones_left_out():
    assert paired_differences({0: 0.5, 1: 0.7, 5: 0.9}, {1: 0.4, 0: 0.25}) == pytest.approx([0.25, 0.3])
    assert paired_differences({0: 0.5}, {0: 0.25}, share=0.5) == [0.0]


def test_the_sign_of_an_interval():
    assert [Interval(*ends).sign for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (0.0, 0.2))] == [1, -1, 0, 0]


def sums(count, seed, shift=0.0):
    draw = np.random.default_rng(seed)
    whole = draw.integers(1, 6, count)
    quality = draw.normal(0.6 + shift, 0.1, count).clip(0, 1)
    return ImageSums({f"i{k}": (float(n * q), float(n)) for k, (n, q) in enumerate(zip(whole, quality, strict=True))})


def share(part, whole, axis=-1):
    return part.sum(axis) / whole.sum(axis)


def test_the_bootstrap_over_images_is_scipys():
    found = sums(60, 3)
    part, whole = np.array(list(found.sums.values())).T
    expected = stats.bootstrap((part, whole), share, paired=True, method="percentile", n_resamples=20000, rng=5)
    interval = image_interval(found)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert interval.low == pytest.approx(expected.confidence_interval.low, abs=0.12 * width)
    assert interval.high == pytest.approx(expected.confidence_interval.high, abs=0.12 * width)
    assert found.value() in interval


def test_pairing_by_image_takes_the_difficulty_of_images_out():
    easy = sums(60, 3)
    better = ImageSums({image: (part + 0.01 * whole, whole) for image, (part, whole) in easy.sums.items()})
    paired = paired_image_interval(better, easy)
    assert (paired.low, paired.high) == pytest.approx((0.01, 0.01), abs=1e-9)
    alone = image_interval(better)
    assert alone.high - alone.low > 0.02


def test_images_without_anything_to_score_do_not_count():
    few = {f"i{k}": (0.5, 1.0) for k in range(LEAST_IMAGES - 1)}
    empty = {f"e{k}": (0.0, 0.0) for k in range(20)}
    assert image_interval(ImageSums(few | empty)) is None
    assert image_interval(ImageSums(few | empty | {"last": (0.5, 1.0)})) == Interval(0.5, 0.5)
    assert paired_image_interval(ImageSums(few | {"a": (1.0, 1.0)}), ImageSums(few | {"b": (1.0, 1.0)})) is None
    assert ImageSums(empty).value() is None


def test_seeds_are_pooled_image_by_image():
    first, second = ImageSums({"a": (1, 2), "b": (0, 1)}), ImageSums({"a": (2, 2), "c": (1, 1)})
    assert pooled([first, second]).sums == {"a": (3, 4)}
    assert pooled([]).sums == {}


def test_the_same_numbers_give_the_same_interval():
    assert image_interval(sums(30, 1)) == image_interval(sums(30, 1))
