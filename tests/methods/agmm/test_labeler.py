"""AGMM in the common network: training under every switch, labels, and what the config says."""

import pytest
import torch

from benchmark.configs import compose_run
from methods.agmm.labeler import AGMM
from methods.base.head import LOSS_GROUPS
from methods.base.panoptic_segformer import PanopticSegFormerHead
from methods.base.types import Progress
from methods.controls.semantics_nearest import SemanticsNearest
from tests.methods.agmm.scene import P1, P10, SMALL, batch_of, small_agmm
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

DONE = Progress.finished()
OWN = {"mixture_self", "mixture_label", "mixture_contrast", "mixture_absent"}


def step(labeler, batch, progress=DONE):
    torch.manual_seed(2)
    features = features_for(batch, requires_grad=True)
    maps = labeler.predict_maps(features, batch)
    labels = labeler.pseudo_labels(maps, batch, progress)
    return maps, labels, labeler.losses(maps, labels, batch, progress)


SWITCHES = [
    {}, {"mixture": {"sigma": "fixed"}}, {"mixture": {"sigma": "fixed", "fixed_variance": 4.0}},
    {"mixture": {"sigma": "fixed", "distance": "mean_absolute"}}, {"mixture": {"normalizer": "count"}},
    {"mixture": {"distance": "mean_absolute"}}, {"mixture": {"distance": "cosine"}}, {"mixture": {"centre": "batch"}},
    {"mixture": {"centre": "moving"}}, {"mixture": {"centre": "moving", "momentum": 0.5}}, {"contrast": "sum"},
    {"factor": 1.0},
    {"self_weight": 0.0}, {"label_weight": 0.0}, {"contrast_weight": 0.0}, {"absent_weight": 0.0}, {"color_weight": 3.0},
    {"features": "projector"},
    {"features": "projector", "embedding_channels": 8, "projector": {"levels": 1, "inputs": ["map"]}},
    {"features": "projector", "mixture": {"centre": "moving"}}, {"presence_weight": 0.5}, {"partial_weight": 2.0},
    {"presence_focal": {"gamma": 1.0}}, {"scale_semantic_by_things": False}, {"dilation": 33}, {"reference_side": None},
    {"assignment": "geodesic"}, {"assignment": "geodesic", "lambda_edge": 2.0}, {"assignment": "geodesic", "stride": 4},
    {"assignment": "transport"}, {"assignment": "transport", "transport": {"name": "converged", "resolution": "full"}},
    {"stuff_threshold": 0.0}, {"levels": 2},
]  # fmt: skip


def name_of(options):
    return ",".join(f"{k}={v}" for k, v in options.items()) or "default"


@pytest.mark.parametrize("places", [P1, P10], ids=["P1", "P10"])
@pytest.mark.parametrize("options", SWITCHES, ids=name_of)
def test_a_training_step_is_finite_and_trains_every_parameter(options, places):
    """Two images of different size, hence padding in both."""
    labeler, batch = small_agmm(**options), batch_of(places)
    maps, labels, losses = step(labeler, batch, Progress(1, 2))
    assert set(losses) >= OWN - {f"mixture_{k.split('_')[0]}" for k, v in options.items() if v == 0.0}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in labeler.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in labeler.parameters())
    assert labeler.semantic_logits(maps).shape == (2, 4, 10, 12)
    for label, points, (height, width) in zip(labels, batch.points, batch.sizes, strict=True):
        assert torch.equal(label.classes, points.classes) and label.boxes.shape == (points.num_targets, 4)
        assert (label.segment_ids[label.ignore] == 0).all() and label.ignore.sum() == 80 * 96 - height * width


@pytest.mark.parametrize("options", [o for o in SWITCHES if o], ids=name_of)
def test_every_switch_changes_losses_or_labels(options):
    """Beside the switch alone, an option is measured within the setting that it belongs to; two steps, as averages move."""
    batch = batch_of(P10)
    results = []
    for chosen in (_without_last(options), options):
        labeler = small_agmm(**chosen)
        step(labeler, batch_of(P1))
        results.append(step(labeler, batch))
    (_, labels, losses), (_, other, changed) = results
    same_labels = all(torch.equal(a.segment_ids, b.segment_ids) for a, b in zip(labels, other, strict=True))
    same_losses = losses.keys() == changed.keys() and all(abs(losses[k] - changed[k]) < 1e-6 for k in losses)
    assert not (same_labels and same_losses)


def _without_last(options):
    """The same options without the last one, of a group without its last."""
    *others, (key, value) = options.items()
    if isinstance(value, dict) and len(value) > 1 and key == "mixture":
        return dict(others) | {key: dict(list(value.items())[:-1])}
    return dict(others)


def test_detaching_changes_gradients_and_no_loss():
    gradients, values = [], []
    for detach in (False, True):
        batch = batch_of()
        torch.manual_seed(2)
        features = features_for(batch, requires_grad=True)
        labeler = small_agmm(mixture={"detach": detach})
        maps = labeler.predict_maps(features, batch)
        losses = labeler.losses(maps, [], batch, DONE)
        sum(losses.values()).backward()
        gradients.append(features.maps[0].grad)
        values.append(losses)
    assert all(torch.equal(values[0][k], values[1][k]) for k in values[0])
    assert not torch.allclose(gradients[0], gradients[1])


def test_it_is_the_semantic_branch_of_psps_with_other_losses():
    """Without its own losses and with the colour prior it is the control that has the nearest point of the class."""
    torch.manual_seed(0)
    control = SemanticsNearest(categories(), 16, **SMALL)
    off = dict.fromkeys(("self_weight", "label_weight", "contrast_weight", "absent_weight"), 0.0)
    same = small_agmm(color_weight=3.0, **off)
    same.load_state_dict(control.state_dict())
    batch = batch_of(P10)
    (_, labels, losses), (_, other, found) = step(control, batch), step(same, batch)
    assert losses.keys() == found.keys() and all(torch.equal(losses[k], found[k]) for k in losses)
    assert all(torch.equal(a.segment_ids, b.segment_ids) for a, b in zip(labels, other, strict=True))


@pytest.mark.parametrize("assignment", ["nearest", "geodesic", "transport"])
def test_the_class_map_does_not_depend_on_the_assignment_step(assignment):
    batch = batch_of(P10)
    (_, first, _), (_, other, _) = (step(small_agmm(assignment=a), batch) for a in ("nearest", assignment))
    for a, b in zip(first, other, strict=True):
        table = torch.cat([torch.tensor([-1]), a.classes])
        assert torch.equal(table[a.segment_ids], table[b.segment_ids])


def test_the_mixture_learns_to_tell_classes_apart():
    """Gradient steps on encoder maps and branch: each loss of the mixture falls."""
    labeler, batch = small_agmm(scale_semantic_by_things=False), batch_of(P10)
    torch.manual_seed(2)
    features = features_for(batch, requires_grad=True)
    optimizer = torch.optim.Adam([*labeler.parameters(), *features.maps], lr=0.02)
    values = []
    for _ in range(40):
        losses = labeler.losses(labeler.predict_maps(features, batch), [], batch, DONE)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        values.append({name: float(loss.detach()) for name, loss in losses.items()})
    for name in ("mixture_label", "mixture_contrast", "mixture_absent", "mixture_self", "semantic_partial"):
        assert values[-1][name] < 0.95 * values[0][name], name


def test_images_of_stuff_alone():
    batch = batch_of([[(10, 10, 0), (50, 50, 1)], [(5, 5, 0)]], ([2, 3], [2]))
    for options in ({}, {"scale_semantic_by_things": False}, {"assignment": "geodesic"}, {"assignment": "transport"}):
        _, labels, losses = step(small_agmm(stuff_threshold=0.0, **options), batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        # as in PSPS the share of things scales all semantic losses
        assert (losses["mixture_self"] > 0) == (not options.get("scale_semantic_by_things", True))
        assert set(labels[0].segment_ids[:64, :96].unique().tolist()) <= {1, 2}
        assert (labels[1].segment_ids[:80, :64] == 1).all()


def test_an_image_without_a_target_is_ignored_and_trains_nothing():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([], [])])
    for options in ({}, {"mixture": {"centre": "moving"}}, {"assignment": "transport"}):
        _, labels, losses = step(small_agmm(scale_semantic_by_things=False, **options), batch)
        assert labels[0].num_targets == 0 and labels[0].ignore.all()
        assert set(losses) >= OWN and all(loss == 0 for loss in losses.values())


def test_a_target_that_lost_its_points_stays_a_target_and_its_class_occurs():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2])])
    for assignment in ("nearest", "geodesic", "transport"):
        labeler = small_agmm(assignment=assignment)
        maps, labels, losses = step(labeler, batch)
        assert labels[0].num_targets == 3 and not (labels[0].segment_ids == 2).any()
        assert all(torch.isfinite(loss) for loss in losses.values())
        known = labeler._sparse_labels(maps, batch)
        assert known.image_classes.tolist() == [[True, True, True, False]] and not (known.labels == 1).any()


@pytest.mark.parametrize("centre", ["image", "moving"])
def test_mixed_precision_leaves_the_mixture_in_full_precision(centre):
    batch = batch_of(P10)
    torch.manual_seed(2)
    maps = small_agmm().predict_maps(features_for(batch), batch)
    found = []
    for enabled in (False, True):
        labeler = small_agmm(mixture={"centre": centre, "sigma": "fixed", "distance": "cosine"})
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(labeler.losses(maps, [], batch, DONE))
    for name in OWN:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_padding_changes_no_loss():
    """What the maps hold in the padding is read by no loss."""
    labeler, batch = small_agmm(), batch_of()
    torch.manual_seed(2)
    maps = labeler.predict_maps(features_for(batch), batch)
    before = labeler.losses(maps, [], batch, DONE)
    with torch.no_grad():
        maps.features.masked_fill_(maps.padding[:, None], 7.0)
        for logits in maps.semantic.logits:
            logits.masked_fill_(maps.padding[:, None], -3.0)
    after = labeler.losses(maps, [], batch, DONE)
    assert maps.padding.any()
    for name in before:
        torch.testing.assert_close(before[name], after[name])


@pytest.mark.parametrize("assignment", ["nearest", "transport"])
def test_a_head_trains_on_the_labels(assignment):
    batch, labeler = batch_of(P10), small_agmm(assignment=assignment)
    torch.manual_seed(0)
    head = PanopticSegFormerHead(categories(), 16, 8, queries=5, location_layers=1, thing_layers=1, stuff_layers=1, heads=4,
                                 levels=3, feedforward=32)  # fmt: skip
    features = features_for(batch, requires_grad=True)
    labels = labeler.pseudo_labels(labeler.predict_maps(features, batch), batch, DONE)
    losses = head.losses(features, labels, labeler.head_weights(DONE))
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses["masks/things"] > 0
    assert labeler.head_weights(Progress(25, 1000)) == dict.fromkeys(LOSS_GROUPS, pytest.approx(0.5))


def test_moving_centres_are_part_of_the_state():
    labeler, batch = small_agmm(mixture={"centre": "moving"}), batch_of()
    step(labeler, batch)
    assert labeler.moving.seen.tolist() == [True, True, False, True]
    assert torch.equal(labeler.state_dict()["moving.centres"], labeler.moving.centres)
    assert not any(name.startswith("moving") for name, _ in small_agmm().named_buffers())


@pytest.mark.parametrize(("scale", "warmup", "color", "edge"), [("paper", 0.05, 0, 0.1), ("demo", 0.5, 1.0, 1.0)])
def test_the_config_follows_the_scale_and_the_label_names_the_assignment(scale, warmup, color, edge):
    method = compose_run([f"scale={scale}", "method=agmm", "method.assignment=transport"])["method"]
    assert method["label"] == "agmm+transport"
    assert (method["warmup"], method["color_warmup"], method["lambda_edge"]) == (warmup, color, edge)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "image"}, "Method 'agmm' has no features 'image'; it is one of encoder, projector"),
        ({"assignment": "x"}, "no assignment 'x'; it is one of nearest, geodesic, transport"),
        ({"contrast": "x"}, "no contrast 'x'; it is one of mean, sum"),
    ],
)
def test_an_unknown_value_lists_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        AGMM(categories(), 16, **SMALL, **options)
