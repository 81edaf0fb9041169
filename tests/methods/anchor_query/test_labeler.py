import math

import pytest
import torch
import torch.nn.functional as F

from methods.anchor_query.anchors import a_target_per_point
from methods.anchor_query.branch import AnchorMaps
from methods.anchor_query.labeler import AnchorQuery
from methods.base.head import LOSS_GROUPS
from methods.base.types import Progress
from methods.controls.nearest_point import NearestPoint
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

HALF, DONE = Progress(5, 10), Progress.finished()
SWITCHES = [
    {}, {"rounds": 1}, {"rounds": 2}, {"shared_rounds": True}, {"aggregation": False}, {"enhancement": False},
    {"aggregation": False, "enhancement": False}, {"anchor_start": "mean"}, {"anchor_start": "embedding"},
    {"anchor_per": "point"}, {"learn_temperature": True, "temperature": 0.5}, {"spatial_prior": "learned"},
    {"spatial_prior": "learned", "anchor_per": "point"}, {"hinge_weight": 0.1}, {"lambda_sem": 0.0}, {"lambda_sem": 0.5},
    {"self_training_weight": 0.0}, {"color_weight": 0.0, "semantic_color_weight": 0.0}, {"mask_border": False},
    {"distance": "euclidean"}, {"distance": "geodesic"}, {"distance": "geodesic", "lambda_edge": 0.0},
    {"distance": "transport"}, {"color_warmup": 1.0, "warmup": 0.5, "distance_stage": 0.25}, {"form": "softplus"},
    {"form": "softplus", "spatial_prior": "learned"}, {"self_training_warmup": 1.0},
]  # fmt: skip


def small(**options):
    torch.manual_seed(0)
    return AnchorQuery(categories(), 16, heads=4, feedforward=32, **options)


def cases():
    """Images of different sizes and smooth colours, four targets in all ways: P1, P10, stuff only, one target, none."""
    p10 = [(x, y, t) for t, (x0, y0) in enumerate(((5, 5), (40, 30), (60, 10))) for x, y in zip(
        range(x0, x0 + 20, 2), range(y0, y0 + 10), strict=True)]  # fmt: skip
    return {
        "P1": ([(64, 96), (80, 64)], [
            point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2)], [1, 0, 3]),
            point_labels([(63, 79, 1), (0, 0, 0)], [2, 0])]),
        "P10": ([(64, 96)], [point_labels(p10, [0, 0, 3])]),
        "stuff": ([(64, 64), (64, 96)], [
            point_labels([(5, 5, 0), (60, 60, 1)], [2, 3]), point_labels([(50, 20, 0)], [2])]),
        "none": ([(64, 64), (48, 64)], [point_labels([], []), point_labels([(5, 5, 0)], [1])]),
    }  # fmt: skip


def smooth(size):
    rows, cols = torch.meshgrid(torch.linspace(0.3, 0.5, size[0]), torch.linspace(0.4, 0.6, size[1]), indexing="ij")
    return torch.stack([rows, cols, rows * cols])


def batch_of(name):
    sizes, points = cases()[name]
    return point_batch([smooth(size) for size in sizes], points)


def step(labeler, batch, progress=HALF):
    features = features_for(batch, requires_grad=True)
    maps = labeler.predict_maps(features, batch)
    with torch.no_grad():
        labels = labeler.pseudo_labels(maps, batch, progress)
    return features, maps, labels, labeler.losses(maps, labels, batch, progress)


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("options", SWITCHES, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_a_training_step_under_every_switch(options, name):
    labeler, batch = small(**options), batch_of(name)
    features, _, labels, losses = step(labeler, batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in labeler.parameters())
    if name == "P1":
        assert not [n for n, p in labeler.named_parameters() if p.requires_grad and p.grad is None]
        assert features.maps[0].grad.abs().sum() > 0
    for label, points, (height, width) in zip(labels, batch.points, batch.sizes, strict=True):
        assert torch.equal(label.classes, points.classes)
        inside = label.segment_ids[:height, :width]
        assert (inside > 0).all() == (points.num_targets > 0) and inside.max() <= points.num_targets
        assert (label.segment_ids[height:] == 0).all() and label.ignore[height:].all() and label.ignore[:, width:].all()


def test_losses_are_named_weighted_and_summed_over_the_rounds():
    batch = batch_of("P1")
    names = {"instance_partial", "instance_color", "instance_self_training", "semantic_partial", "semantic_color"}
    labeler = small()
    _, maps, _, losses = step(labeler, batch)
    assert set(losses) == names and len(maps.instance) == len(maps.semantic) == 3
    assert set(step(small(hinge_weight=0.1), batch)[3]) == names | {"instance_hinge"}
    assert not [k for k in step(small(lambda_sem=0.0), batch)[3] if k.startswith("semantic")]
    one = AnchorMaps(maps.instance[-1:], maps.semantic[-1:], maps.labels, maps.present, maps.temperature)
    last = labeler.losses(one, [], batch, HALF)
    assert last["instance_self_training"] == losses["instance_self_training"]
    assert last["instance_partial"] < losses["instance_partial"]
    labels = maps.labels
    expected = sum(
        F.cross_entropy(-d[i, :, labels[i] >= 0].T[:, : p.num_targets], labels[i][labels[i] >= 0], reduction="sum")
        for d in maps.instance for i, p in enumerate(batch.points)
    ) / (labels >= 0).sum()  # fmt: skip
    torch.testing.assert_close(losses["instance_partial"], expected)
    early = labeler.losses(maps, [], batch, Progress(0, 10))
    assert early["instance_self_training"] == 0 and early["instance_partial"] == losses["instance_partial"]


def test_the_auxiliary_branch_weighs_less_with_more_points():
    for name, weight in (("P1", 1.0), ("P10", 0.1)):
        batch = batch_of(name)
        labeler, plain = small(), small(lambda_sem=1.0)
        maps = labeler.predict_maps(features_for(batch), batch)
        ours, whole = (each.losses(maps, [], batch, HALF) for each in (labeler, plain))
        torch.testing.assert_close(ours["semantic_partial"], weight * whole["semantic_partial"])
        assert ours["instance_partial"] == whole["instance_partial"]


def test_a_single_target_teaches_its_class_but_no_choice():
    batch = point_batch([smooth((64, 64))], [point_labels([(20, 20, 0)], [2])])
    losses = step(small(), batch)[3]
    assert losses["instance_partial"] == losses["instance_self_training"] == losses["instance_color"] == 0
    assert losses["semantic_partial"] > 0


def forged(batch, distances, semantic=()):
    """Maps of an image with given distances (n, h, w) to targets or classes."""
    targets = batch.points[0].num_targets
    present = torch.ones(1, targets, dtype=torch.bool)
    grid = (distances if distances is not None else semantic).shape[-2:]
    return AnchorMaps(
        [] if distances is None else [distances[None]], [semantic[None]] if len(semantic) else [],
        torch.full((1, *grid), -1), present, torch.tensor(1.0),
    )  # fmt: skip


def test_each_pixel_takes_the_target_at_the_smallest_distance():
    batch = point_batch([smooth((16, 24))], [point_labels([(1, 1, 0), (20, 1, 1), (9, 9, 2)], [0, 0, 3])])
    distances = torch.rand(3, 2, 3)
    (labels,) = small().pseudo_labels(forged(batch, distances), batch, DONE)
    full = F.interpolate(distances[None], size=(16, 24), mode="bilinear", align_corners=False)[0]
    assert torch.equal(labels.segment_ids, full.argmin(dim=0) + 1)
    maps = forged(batch, distances)
    rounds = AnchorMaps([torch.rand_like(distances)[None], *maps.instance], [], maps.labels, maps.present, maps.temperature)
    assert torch.equal(small().pseudo_labels(rounds, batch, DONE)[0].segment_ids, labels.segment_ids)


def test_a_target_that_lost_its_points_gets_no_pixel_and_no_loss():
    points = point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2])
    batch = point_batch([smooth((64, 64))], [points])
    for options in ({}, {"anchor_per": "point"}, {"distance": "geodesic"}, {"distance": "transport"}):
        _, maps, labels, losses = step(small(**options), batch)
        assert maps.present.tolist() == [[True, False, True]]
        assert labels[0].num_targets == 3 and set(labels[0].segment_ids.unique().tolist()) <= {1, 3}
        assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize("anchor_per", ["target", "point"])
def test_labels_of_an_image_do_not_depend_on_the_others_targets(anchor_per):
    """Anchors that fill up the batch, and an image of the same size beside it, change nothing."""
    image, points = smooth((64, 96)), point_labels([(10, 10, 0), (50, 50, 1)], [1, 3])
    other = point_labels([(x, 5, i) for i, x in enumerate(range(5, 90, 16))], [0, 0, 1, 2, 3, 1])
    alone, both = point_batch([image], [points]), point_batch([image, image], [points, other])
    labeler, features = small(anchor_per=anchor_per).eval(), features_for(both)
    first = type(features)(
        [m[:1] for m in features.maps], [m[:1] for m in features.positions], features.level_embeddings,
        [m[:1] for m in features.padding], None, features.input_size,
    )  # fmt: skip
    a, b = labeler.predict_maps(first, alone), labeler.predict_maps(features, both)
    for one, two in zip(a.instance, b.instance, strict=True):
        torch.testing.assert_close(two[:1, :2], one, rtol=1e-4, atol=1e-5)
    labels = labeler.pseudo_labels(a, alone, DONE)[0], labeler.pseudo_labels(b, both, DONE)[0]
    assert (labels[0].segment_ids == labels[1].segment_ids).float().mean() > 0.999


def test_padded_features_change_no_distance_inside():
    batch = point_batch([smooth((64, 96)), smooth((80, 64))], cases()["P1"][1])
    labeler, features = small().eval(), features_for(batch)
    before = labeler.predict_maps(features, batch)
    features.maps[0].masked_fill_(features.padding[0][:, None], 100.0)
    after = labeler.predict_maps(features, batch)
    inside = ~features.padding[0]
    for a, b in zip(before.instance + before.semantic, after.instance + after.semantic, strict=True):
        torch.testing.assert_close(a.movedim(1, -1)[inside], b.movedim(1, -1)[inside], rtol=1e-4, atol=1e-5)


def test_of_ten_anchors_the_nearest_counts():
    """The distance to a target with ten anchors is the smallest of ten targets with an anchor each."""
    batch = batch_of("P10")
    (points,) = batch.points
    features, labeler = features_for(batch), small(anchor_per="point")
    ten = labeler.predict_maps(features, batch)
    split = point_batch([smooth(batch.sizes[0])], [a_target_per_point(points)])
    alone = labeler.predict_maps(features, split)
    assert ten.present.shape == (1, 3) and alone.present.shape == (1, 30)
    for few, many in zip(ten.instance, alone.instance, strict=True):
        for target in range(3):
            torch.testing.assert_close(few[0, target], many[0, points.target == target].amin(dim=0))


# --- distances by rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lambda_sem", [0.0, 1.0])
def test_the_euclidean_distance_gives_the_labels_of_the_nearest_point(lambda_sem):
    for name in cases():
        batch, labeler = batch_of(name), small(distance="euclidean", lambda_sem=lambda_sem)
        assert labeler.trainable == bool(lambda_sem)
        maps = labeler.predict_maps(features_for(batch) if labeler.trainable else None, batch)
        found = labeler.pseudo_labels(maps, batch, DONE)
        expected = NearestPoint(categories(), 16).pseudo_labels(None, batch, DONE)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.segment_ids, b.segment_ids)
        if not lambda_sem:
            assert labeler.losses(maps, found, batch, DONE) == {} and labeler.semantic_logits(maps) is None


def touching_discs():
    rows, cols = torch.meshgrid(torch.arange(128), torch.arange(192), indexing="ij")
    left = (rows - 64) ** 2 + (cols - 50) ** 2 <= 40**2
    right = (rows - 64) ** 2 + (cols - 126) ** 2 <= 35**2
    image = torch.full((3, 128, 192), 0.2)
    image[:, left] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    image[:, right] = torch.tensor([0.1, 0.2, 0.9])[:, None]
    batch = point_batch([image], [point_labels([(20, 64, 0), (100, 64, 1), (180, 10, 2)], [0, 0, 2])])
    class_map = torch.where(left | right, 0, 2)
    one_hot = F.one_hot(class_map, 4).permute(2, 0, 1)[None].float()
    return batch, 20 * (1 - F.avg_pool2d(one_hot, 8))[0], (left, right)


@pytest.mark.parametrize("distance", ["geodesic", "transport"])
def test_paths_split_touching_discs_that_the_nearest_point_mixes_up(distance):
    batch, semantic, discs = touching_discs()
    maps = forged(batch, None, semantic)
    masks = small(distance=distance, stride=4).pseudo_labels(maps, batch, DONE)[0].masks()
    plain = small(distance="euclidean").pseudo_labels(maps, batch, DONE)[0].masks()
    for index, disc in enumerate(discs):
        ours, theirs = (float((m[index] & disc).sum() / (m[index] | disc).sum()) for m in (masks, plain))
        assert ours > 0.75 and ours > theirs + 0.05


# --- the rest -------------------------------------------------------------------------------------------------------------


def test_semantic_logits_are_those_of_the_last_round():
    batch = batch_of("P1")
    labeler = small(temperature=2.0)
    _, maps, _, _ = step(labeler, batch)
    torch.testing.assert_close(labeler.semantic_logits(maps), -maps.semantic[-1] / 2)
    assert small(lambda_sem=0.0).semantic_logits(step(small(lambda_sem=0.0), batch)[1]) is None


def test_the_head_waits_for_the_distance_stage_and_warms_up_after_it():
    labeler = small(distance_stage=0.4, warmup=0.2)
    factors = [labeler.head_weights(Progress(s, 10)) for s in (0, 3, 4, 5, 6, 10)]
    assert all(set(each) == set(LOSS_GROUPS) for each in factors)
    assert [each["masks"] for each in factors] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert small(warmup=0.0).head_weights(Progress(0, 10))["masks"] == 1
    assert small(warmup=0.5).head_weights(Progress(1, 10))["masks"] == pytest.approx(0.2)


def test_a_learned_temperature_starts_at_the_given_one_and_is_trained():
    labeler = small(learn_temperature=True, temperature=0.5)
    step(labeler, batch_of("P1"))[3]["instance_partial"].backward()
    rounds = labeler.branch.rounds
    assert float(rounds.temperature.detach()) == pytest.approx(0.5) and rounds.log_temperature.grad.abs() > 0
    assert not small().branch.rounds.log_temperature.requires_grad
    assert math.isclose(float(small().branch.rounds.temperature), 1.0)


@pytest.mark.parametrize("form", ["squared", "softplus"])
def test_a_learned_spatial_prior_makes_far_cells_far(form):
    batch = batch_of("P1")
    labeler, features = small(spatial_prior="learned", form=form), features_for(batch)
    plain = labeler.predict_maps(features, batch).instance[0]
    with torch.no_grad():
        labeler.branch.rounds.distances[0].spatial.fill_(50.0)
    far = labeler.predict_maps(features, batch).instance[0]
    assert torch.equal(far[0, 0].flatten().argmax(), torch.tensor(far[0, 0].numel() - 1)) and (far >= plain).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "manhattan"}, "no distance 'manhattan'; it is one of attention, euclidean, geodesic, transport"),
        ({"form": "cosine"}, "no form 'cosine'; it is one of squared, softplus"),
        ({"anchor_start": "min"}, "no anchor_start 'min'.*max, mean, embedding"),
        ({"anchor_per": "pixel"}, "no anchor_per 'pixel'"),
        ({"spatial_prior": "fixed"}, "no spatial_prior 'fixed'"),
        ({"distance": "geodesic", "lambda_sem": 0}, "distance=geodesic follows paths.*lambda_sem must not be 0"),
        ({"rounds": 0}, "at least one round, got 0"),
        ({"temperature": 0.0}, "must be positive, got 0"),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
    with pytest.raises(ValueError, match="16 channels do not divide into 5 heads"):
        AnchorQuery(categories(), 16, heads=5)


def test_reports_say_that_it_is_our_reading():
    assert "our reading" in AnchorQuery.note
