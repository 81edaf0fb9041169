import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.base.head import LOSS_GROUPS
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import Progress
from methods.controls.full_masks import FullMasks
from methods.controls.nearest_point import NearestPoint
from methods.controls.oracle_semantics import OracleSemantics
from methods.controls.semantics_nearest import SemanticsNearest
from methods.ops.instance_split import ASSIGNMENTS
from tests.methods.stand_ins import categories, features_for, mask_batch, point_batch, point_labels

DONE = Progress.finished()


def two_sizes():
    torch.manual_seed(0)
    points = [
        point_labels([(3, 4, 0), (40, 20, 1), (10, 28, 2), (41, 2, 1)], [0, 0, 2]),
        point_labels([(20, 33, 0), (1, 1, 1)], [3, 1]),
    ]
    return [torch.rand(3, 32, 48), torch.rand(3, 40, 24)], points


def test_nearest_point_equals_brute_force():
    images, points = two_sizes()
    batch = point_batch(images, points)
    labels = NearestPoint(categories(), 16).pseudo_labels(None, batch, DONE)
    for label, p, (height, width) in zip(labels, points, batch.sizes, strict=True):
        for row, col in np.random.default_rng(0).integers(0, (height, width), (60, 2)).tolist():
            places = zip(p.xy.tolist(), p.target.tolist(), strict=True)
            squared = [((x - col) ** 2 + (y - row) ** 2, target) for (x, y), target in places]
            assert label.segment_ids[row, col] == min(squared)[1] + 1
        assert (label.segment_ids[:height, :width] > 0).all() and not label.ignore[:height, :width].any()
        assert label.ignore.sum() == 40 * 48 - height * width


def test_parameter_free_controls_train_nothing():
    for control in (NearestPoint(categories(), 16), FullMasks(categories(), 16), OracleSemantics(categories(), 16)):
        assert not control.trainable and control.note
        images, points = two_sizes()
        assert control.predict_maps(None, point_batch(images, points)) is None
        assert control.losses(None, [], point_batch(images, points), DONE) == {}
        assert control.head_weights(Progress(0, 100)) == {}


def test_what_each_control_reads():
    assert [c.supervision for c in (NearestPoint, SemanticsNearest, FullMasks, OracleSemantics)] == [
        "points", "points", "masks", "masks",
    ]


def test_full_masks_are_the_ground_truth_and_need_it():
    images, points = two_sizes()
    ids = [torch.randint(0, 4, (32, 48)), torch.randint(0, 3, (40, 24))]
    batch = mask_batch(images, points, ids)
    assert FullMasks(categories(), 16).pseudo_labels(None, batch, DONE) is batch.targets
    with pytest.raises(AttributeError):
        FullMasks(categories(), 16).pseudo_labels(None, point_batch(images, points), DONE)


def small_semantics_nearest(**options):
    return SemanticsNearest(categories(), 16, layers=2, heads=4, feedforward=32, **options)


def test_semantics_nearest_follows_the_class_then_the_nearest_point():
    points = point_labels([(4, 32, 0), (60, 32, 1), (32, 4, 2), (32, 60, 3)], [0, 0, 1, 2])
    batch = point_batch([torch.rand(3, 64, 64)], [points])
    class_map = torch.zeros(64, 64, dtype=torch.int64)
    class_map[:16], class_map[48:] = 1, 2
    logits = 30 * F.avg_pool2d(F.one_hot(class_map, 4).permute(2, 0, 1)[None].float(), 8)
    labels = small_semantics_nearest().pseudo_labels(SemanticMaps([logits], []), batch, DONE)[0]
    ids = labels.segment_ids
    assert (ids[:12] == 3).all() and (ids[52:] == 4).all()
    assert (ids[20:44, :32] == 1).all() and (ids[20:44, 33:] == 2).all()


def test_semantics_nearest_never_predicts_an_absent_class_and_voids_unsure_stuff():
    points = point_labels([(4, 4, 0), (60, 60, 1)], [0, 2])
    batch = point_batch([torch.rand(3, 64, 64)], [points])
    logits = torch.zeros(1, 4, 8, 8)
    logits[:, 1] = 9  # absent thing
    logits[:, 2, :, 4:] = 1
    ids = small_semantics_nearest().pseudo_labels(SemanticMaps([logits], []), batch, DONE)[0].segment_ids
    assert set(ids.unique().tolist()) == {0, 1, 2}
    assert (ids[:, 40:58] == 0).all() and (ids[:, :24] == 1).all()


def test_semantics_nearest_trains_its_branch_with_the_recipe_of_psps():
    images, points = two_sizes()
    batch, labeler = point_batch([0.5 + i / 50 for i in images], points), small_semantics_nearest()
    maps = labeler.predict_maps(features_for(batch), batch)
    labels = labeler.pseudo_labels(maps, batch, DONE)
    losses = labeler.losses(maps, labels, batch, DONE)
    assert set(losses) == {"semantic_presence", "semantic_partial", "semantic_color"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in labeler.parameters())
    assert labeler.semantic_logits(maps) is maps.logits[-1]
    assert labeler.head_weights(Progress(25, 1000)) == dict.fromkeys(LOSS_GROUPS, pytest.approx(0.5))


def c_shape():
    """Two interleaved C-shaped instances of one class, divided by a strip of background."""
    ids = torch.full((96, 96), 3)
    ids[8:88, 8:88] = 1
    ids[24:72, 24:88] = 3
    ids[36:60, 36:96] = 2
    points = point_labels([(80, 16, 0), (40, 48, 1), (2, 2, 2)], [0, 0, 2])
    return torch.rand(3, 96, 96) * 0.1 + 0.4, points, ids


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_oracle_keeps_the_true_classes(assignment):
    image, points, ids = c_shape()
    batch = mask_batch([image], [points], [ids])
    labels = OracleSemantics(categories(), 16, assignment=assignment).pseudo_labels(None, batch, DONE)[0]
    assert torch.equal(labels.masks()[2], ids == 3)
    assert torch.equal(labels.masks()[:2].any(dim=0), ids < 3)


def test_the_geodesic_oracle_follows_the_shape_of_an_instance():
    image, points, ids = c_shape()
    batch = mask_batch([image], [points], [ids])
    correct = {}
    for assignment in ("nearest", "geodesic"):
        labels = OracleSemantics(categories(), 16, assignment=assignment).pseudo_labels(None, batch, DONE)[0]
        correct[assignment] = float((labels.segment_ids == ids).float().mean())
    assert correct["geodesic"] > 0.99 > 0.9 > correct["nearest"]


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_oracle_leaves_void_and_crowd_alone_in_a_padded_batch(assignment):
    images, points = two_sizes()
    ids = [torch.randint(1, 4, (32, 48)), torch.randint(1, 3, (40, 24))]
    ignore = [torch.zeros(32, 48, dtype=torch.bool), torch.zeros(40, 24, dtype=torch.bool)]
    ids[0][:4], ignore[0][:4] = 0, True
    batch = mask_batch(images, points, ids, ignore)
    labels = OracleSemantics(categories(), 16, assignment=assignment).pseudo_labels(None, batch, DONE)
    for label, truth, (height, width) in zip(labels, batch.targets, batch.sizes, strict=True):
        assert torch.equal(label.segment_ids == 0, truth.segment_ids == 0)
        assert torch.equal(label.ignore, truth.ignore)
        assert label.segment_ids.shape == batch.input_size and label.ignore[height:].all() and label.ignore[:, width:].all()
    # with one target per class the labels are exact
    assert torch.equal(labels[1].segment_ids, batch.targets[1].segment_ids)


def test_the_oracle_gives_nothing_to_a_target_without_a_point():
    image, _, ids = c_shape()
    points = point_labels([(80, 16, 0), (2, 2, 2)], [0, 0, 2])
    batch = mask_batch([image], [points], [ids])
    for assignment in ASSIGNMENTS:
        labels = OracleSemantics(categories(), 16, assignment=assignment).pseudo_labels(None, batch, DONE)[0]
        assert torch.equal(labels.masks()[0], ids < 3) and not labels.masks()[1].any()


def test_unknown_assignment_is_refused():
    with pytest.raises(ValueError, match="nearest, geodesic, transport"):
        OracleSemantics(categories(), 16, assignment="attention")
