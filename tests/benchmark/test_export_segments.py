"""Id maps as other formats store them, and the confidence of segments: against brute force and pycocotools."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from benchmark.export.inputs import first_points
from benchmark.export.segments import class_confidence, class_values, described, object_values, run_lengths
from methods.base.types import PointLabels

SEEDS = st.integers(0, 2**31)


def drawn_map(seed):
    """An id map of up to 9 x 9 pixels; low limits leave ids out."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, rng.integers(1, 6), rng.integers(1, 10, size=2))


def segments_of(ids):
    return [{"id": i, "category_id": 10 + i % 2, "score": i / 10} for i in range(1, 5)]


@given(SEEDS)
def test_segments_and_run_lengths_are_those_of_the_map(seed):
    ids = drawn_map(seed)
    found = described(ids, segments_of(ids))
    assert [segment["id"] for segment in found] == sorted(set(np.unique(ids).tolist()) - {0})
    for segment, counts in zip(found, run_lengths(ids, [segment["id"] for segment in found]), strict=True):
        mask = coco_mask.decode({"size": list(ids.shape), "counts": counts.encode()})
        assert np.array_equal(mask.astype(bool), ids == segment["id"])
        assert segment["area"] == mask.sum() and segment["score"] == segment["id"] / 10
        rle = {"size": list(ids.shape), "counts": counts.encode()}
        assert segment["bbox"] == coco_mask.toBbox(rle).astype(int).tolist()


@given(SEEDS)
def test_voc_maps_have_values_objects_and_void(seed):
    ids = drawn_map(seed)
    segments = segments_of(ids)
    classes, objects = class_values(ids, segments, {10: 0, 11: 7}), object_values(ids, segments, things={11})
    assert classes.dtype == objects.dtype == np.uint8
    for place in np.ndindex(ids.shape):
        segment = int(ids[place])
        assert classes[place] == (255 if segment == 0 else 7 if segment % 2 else 0)
        assert objects[place] == {0: 255, 1: 1, 2: 0, 3: 2, 4: 0}[segment]


def test_more_objects_than_a_byte_has_numbers():
    ids = np.arange(300).reshape(10, 30)
    objects = object_values(ids, [{"id": i, "category_id": 1} for i in range(1, 300)], things={1})
    assert objects.ravel()[1:255].tolist() == list(range(1, 255))
    assert set(objects.ravel()[255:].tolist()) == {255} and objects[0, 0] == 255


@settings(max_examples=25)
@given(SEEDS, st.integers(0, 4))
def test_confidence_is_the_mean_probability_of_the_class(seed, targets):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 5, 6, 8, generator=generator) * 3
    ids = torch.randint(0, targets + 1, (6, 8), generator=generator)
    classes = torch.randint(0, 5, (targets,), generator=generator)
    found = class_confidence(logits, ids, classes, (6, 8))
    probs = np.exp(logits[0].double().numpy())
    probs /= probs.sum(axis=0)
    for target in range(targets):
        mask = ids.numpy() == target + 1
        expected = probs[classes[target]][mask].mean() if mask.any() else 0.0
        assert abs(float(found[target]) - expected) < 1e-5


def test_confidence_of_a_constant_branch_is_that_constant_at_any_size():
    logits = torch.zeros(1, 3, 4, 5)
    logits[:, 1] = np.log(2.0)
    ids = torch.ones(37, 41, dtype=torch.int64)
    assert torch.allclose(class_confidence(logits, ids, torch.tensor([1]), (16, 20)), torch.tensor([0.5]), atol=1e-6)


def test_the_first_points_of_each_target_are_kept():
    target = torch.tensor([0, 1, 0, 1, 1, 0, 2])
    xy = torch.arange(14).reshape(7, 2)
    labels = PointLabels(xy, target, torch.tensor([0, 0, 1]), torch.tensor([True, True, False]), torch.tensor([1, 2, 3]))
    assert first_points(labels, None) is labels
    kept = first_points(labels, 2)
    assert kept.xy.tolist() == xy[[0, 1, 2, 3, 6]].tolist() and kept.target.tolist() == [0, 1, 0, 1, 2]
    assert first_points(labels, 1).target.tolist() == [0, 1, 2] and kept.num_targets == 3
