import pytest
import torch

from benchmark.configs import compose_run
from methods import build_labeler
from methods.base.head import LOSS_GROUPS
from methods.base.instance_losses import among_present, one_point_weight
from methods.base.panoptic_segformer import PanopticSegFormerHead
from methods.base.types import Progress
from methods.fdd.labeler import FDD
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

DONE = Progress.finished()
SMALL = {"layers": 2, "heads": 4, "feedforward": 32}
P1 = [[(10, 10, 0), (50, 50, 1), (30, 12, 2)], [(63, 70, 0), (5, 5, 1)]]
P10 = [[*P1[0], (12, 28, 0), (55, 40, 1)], P1[1]]


def small(**options):
    torch.manual_seed(0)
    return build_labeler("fdd", categories(), 16, {**SMALL, **options})


def batch_of(places=P1, classes=([0, 0, 3], [1, 2]), sizes=((64, 96), (80, 64))):
    torch.manual_seed(1)
    points = [point_labels(p, c) for p, c in zip(places, classes, strict=True)]
    images = [0.5 + 0.02 * torch.rand(3, *size) for size in sizes]
    for image in images:
        image[:, :, :16] = 0.0  # black at the border, which is what `mask_border` is about
    return point_batch(images, points)


def step(labeler, batch, progress=DONE):
    torch.manual_seed(2)
    maps = labeler.predict_maps(features_for(batch), batch)
    labels = labeler.pseudo_labels(maps, batch, progress)
    return maps, labels, labeler.losses(maps, labels, batch, progress)


SWITCHES = [
    {}, {"self_attention": False}, {"intermediate": False}, {"generator": {"levels": 3, "inputs": ["map", "position"]}},
    {"generator_kernel": 3}, {"query_features": "learned", "learned_size": [4, 5]}, {"injection": "position"},
    {"share_layers": False}, {"share_positions": False}, {"share_layers": False, "share_positions": False},
    {"injection": "position", "share_layers": False, "share_positions": False},
    {"self_training_weight": 0.0, "semantic_self_training_weight": 1.0}, {"semantic_self_training_weight": 1.0},
    {"color_weight": 0.0}, {"semantic_color_weight": 0.0}, {"color_weight": 0.0, "semantic_color_weight": 0.0},
    {"lambda_sem": 0.5}, {"lambda_sem": 0.0}, {"panoptic_labels": "points"}, {"keep_points": True}, {"stuff_threshold": 0.9},
    {"dilation": 33}, {"reference_side": None}, {"mask_border": False}, {"color_warmup": 2.0},
    {"color_kernel": 3}, {"color_dilation": 30}, {"color_threshold": 0.9}, {"color_falloff": 3.0}, {"partial_weight": 2.0},
    {"semantic_partial_weight": 2.0}, {"levels": 2}, {"key_positions": True}, {"rectify": False},
    {"key_positions": True, "rectify": False, "generator": {"levels": 3, "inputs": ["map", "position"]}, "query_norm": True},
    {"query_norm": True}, {"self_training_warmup": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("places", [P1, P10], ids=["P1", "P10"])
@pytest.mark.parametrize("options", SWITCHES, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_a_training_step_is_finite_and_trains_every_parameter(options, places):
    labeler, batch = small(**options), batch_of(places)
    maps, labels, losses = step(labeler, batch, Progress(1, 2))
    assert losses and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in labeler.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in labeler.parameters())
    assert labeler.semantic_logits(maps).shape == (2, 4, 10, 12)
    for label, points, (height, width) in zip(labels, batch.points, batch.sizes, strict=True):
        assert torch.equal(label.classes, points.classes) and label.boxes.shape == (points.num_targets, 4)
        assert (label.segment_ids[label.ignore] == 0).all() and label.ignore.sum() >= 80 * 96 - height * width


@pytest.mark.parametrize("options", [o for o in SWITCHES if o], ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
def test_every_switch_changes_losses_or_labels(options):
    batch = batch_of(P10)
    (_, labels, losses), (_, other, changed) = (step(small(**o), batch, Progress(1, 2)) for o in ({}, options))
    same_labels = all(torch.equal(a.segment_ids, b.segment_ids) for a, b in zip(labels, other, strict=True))
    same_losses = losses.keys() == changed.keys() and all(abs(losses[k] - changed[k]) < 1e-6 for k in losses)
    assert not (same_labels and same_losses)


def test_labels_are_the_argmax_over_the_targets_of_the_image():
    labeler, batch = small(), batch_of()
    maps, labels, _ = step(labeler, batch)
    probabilities = among_present(maps.instances[-1], maps.present).softmax(dim=1)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 10, 12))
    assert (probabilities[1, 2:] == 0).all()
    assert labels[1].segment_ids.max() <= 2 and (labels[0].segment_ids[:64, :96] > 0).all()
    assert not labels[0].ignore[:64, :96].any()


def test_labels_and_losses_of_an_image_do_not_depend_on_its_neighbours_targets():
    """A second image with more targets pads the first one's, and nothing else."""
    labeler, sizes = small(), ((64, 64), (64, 64))
    few = batch_of([[*P1[1][1:], (60, 60, 0)], [(5, 5, 0)]], ([1, 2], [2]), sizes)
    many = batch_of([[*P1[1][1:], (60, 60, 0)], [(5 + 9 * i, 5, i) for i in range(6)]], ([1, 2], [0, 0, 1, 1, 2, 3]), sizes)
    torch.manual_seed(2)
    features = features_for(few)
    with torch.no_grad():
        first, second = (labeler.predict_maps(features, batch) for batch in (few, many))
    assert second.instances[-1].shape[1] == 6
    torch.testing.assert_close(first.instances[-1][0, :2], second.instances[-1][0, :2], atol=1e-5, rtol=1e-4)


def test_an_image_without_a_target_is_ignored_and_trains_nothing():
    labeler = small(semantic_self_training_weight=1.0)
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([], [])])
    _, labels, losses = step(labeler, batch)
    assert labels[0].num_targets == 0 and labels[0].ignore.all()
    assert len(losses) == 6 and all(loss == 0 for loss in losses.values())


def test_images_of_stuff_alone():
    batch = batch_of([[(10, 10, 0), (50, 50, 1)], [(5, 5, 0)]], ([2, 3], [2]))
    _, labels, losses = step(small(), batch)
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses["instance_partial"] > 0
    assert set(labels[0].segment_ids[:64, :96].unique().tolist()) <= {1, 2}
    assert (labels[1].segment_ids[:80, :64] == 1).all()


def test_a_target_that_lost_its_points_stays_a_target():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2])])
    for options in ({}, {"panoptic_labels": "points"}):
        _, labels, losses = step(small(**options), batch)
        assert labels[0].num_targets == 3 and labels[0].boxes.shape == (3, 4)
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_ten_points_are_one_query():
    labeler, one, ten = small(dilation=1), batch_of(P1), batch_of(P10)
    torch.manual_seed(2)
    features = features_for(one)
    maps, more = (labeler.predict_maps(features, batch) for batch in (one, ten))
    assert maps.instances[-1].shape == more.instances[-1].shape
    assert (more.labels >= 0).sum() == (maps.labels >= 0).sum() + 2


def test_lambda_sem_follows_the_points_unless_it_is_given():
    assert one_point_weight(batch_of(P1).points) == 1.0 and one_point_weight(batch_of(P10).points) == 0.1
    assert one_point_weight([point_labels([], [])]) == 1.0
    semantic = {}
    for places, lambdas in ((P1, (None, 1.0)), (P10, (None, 0.1))):
        for value in lambdas:
            losses = step(small(lambda_sem=value), batch_of(places))[2]
            semantic[value, places is P1] = [float(v.detach()) for k, v in losses.items() if k.startswith("semantic")]
    assert semantic[None, True] == semantic[1.0, True] and semantic[None, False] == semantic[0.1, False]


def test_class_labels_are_the_classes_of_the_instance_labels():
    labeler, batch = small(dilation=33, reference_side=None), batch_of()
    maps, _, losses = step(labeler, batch)
    total = []
    for i, points in enumerate(batch.points):
        for row, col in (maps.labels[i] >= 0).nonzero().tolist():
            label = points.classes[maps.labels[i, row, col]]
            total += [-layer[i, :, row, col].log_softmax(dim=0)[label] for layer in maps.semantic]
    torch.testing.assert_close(losses["semantic_partial"], torch.stack(total).sum() / (maps.labels >= 0).sum())


def test_only_the_last_layer_is_supervised_without_intermediate():
    maps, _, _ = step(small(intermediate=False), batch_of())
    assert len(maps.instances) == len(maps.semantic) == 1
    full, last = small(), small(intermediate=False)
    last.load_state_dict(full.state_dict(), strict=False)
    (every, _, _), (one, _, _) = step(full, batch_of()), step(last, batch_of())
    torch.testing.assert_close(one.instances[0], every.instances[-1])
    torch.testing.assert_close(one.semantic[0], every.semantic[-1])


def test_losses_of_weight_zero_are_left_out():
    options = {"color_weight": 0.0, "self_training_weight": 0.0, "semantic_color_weight": 0.0}
    assert list(step(small(**options), batch_of())[2]) == ["instance_partial", "semantic_partial"]


# --- the panoptic branch (Table 8) --------------------------------------------------------------------------------------


def test_the_head_learns_from_points_at_once_and_from_pseudo_labels_later():
    start = Progress(0, 100)
    assert small().head_weights(start) == dict.fromkeys(LOSS_GROUPS, 0.0)
    assert small(warmup=0.5).head_weights(Progress(10, 100)) == dict.fromkeys(LOSS_GROUPS, pytest.approx(0.2))
    assert small(panoptic_labels="points").head_weights(start) == dict.fromkeys(LOSS_GROUPS, 1.0)


def test_the_box_around_a_point_shrinks_with_the_input():
    points = [point_labels([(300, 300, 0), (250, 250, 1), (260, 280, 1)], [0, 1])]
    labeler = small(panoptic_labels="points")
    for side, box in ((600, [100.5, 100.5, 500.5, 500.5]), (480, [100.5, 100.5, 480, 480]), (360, [180.5, 180.5, 360, 360])):
        batch = point_batch([torch.zeros(3, side, side)], points)
        maps = labeler.predict_maps(features_for(batch), batch)
        labels = labeler.pseudo_labels(maps, batch, DONE)[0]
        assert labels.boxes.tolist() == [box, [250, 250, 261, 281]]


@pytest.mark.parametrize("places", [P1, P10], ids=["P1", "P10"])
def test_a_head_trains_on_either_labels(places):
    batch = batch_of(places)
    torch.manual_seed(0)
    head = PanopticSegFormerHead(categories(), 16, 8, queries=5, location_layers=1, thing_layers=1, stuff_layers=1, heads=4,
                                 levels=3, feedforward=32)  # fmt: skip
    for kind in ("pseudo", "points"):
        labeler = small(panoptic_labels=kind)
        features = features_for(batch, requires_grad=True)
        labels = labeler.pseudo_labels(labeler.predict_maps(features, batch), batch, DONE)
        losses = head.losses(features, labels, labeler.head_weights(DONE))
        assert all(torch.isfinite(loss) for loss in losses.values()) and losses["masks/things"] > 0


# --- options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["query_features", "panoptic_labels", "injection"])
def test_an_unknown_value_lists_the_known_ones(option):
    with pytest.raises(ValueError, match=f"Method 'fdd' has no {option} 'x'; it is one of .*,"):
        FDD(categories(), 16, **SMALL, **{option: "x"})


def test_options_reach_their_parts():
    labeler = small(levels=2, norm_epsilon=1e-3, self_attention=False, generator={"hidden": 5}, color_kernel=3)
    assert labeler.branches.reader.decoder.levels == 2 and labeler.query_features.project[0].out_channels == 5
    assert {m.eps for m in labeler.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert not any(isinstance(m, torch.nn.MultiheadAttention) for m in labeler.modules())
    assert labeler.color_prior.kernel == 3


@pytest.mark.parametrize("scale, share", [("paper", 1 / 20), ("paper_coco", 1 / 12)])
def test_the_warm_up_is_one_epoch(scale, share):
    method = compose_run([f"scale={scale}", "method=fdd"])["method"]
    assert method["warmup"] == pytest.approx(share) and method["color_warmup"] == 0


@pytest.mark.parametrize("scale, shallow", [("demo", True), ("mini", True), ("paper", False), ("paper_coco", False)])
def test_targets_are_placed_and_maps_are_free_where_the_encoder_is_shallow(scale, shallow):
    config = compose_run([f"scale={scale}", "method=fdd"])
    method = config["method"]
    assert (config["model"]["layers"] < 6) == method["key_positions"] == (not method["rectify"]) == shallow
    generator = (method["generator"]["levels"], method["generator"]["inputs"], method["query_norm"])
    assert generator == ((3, ["map", "position"], True) if shallow else (1, ["map"], False))
    assert method["self_training_warmup"] == (0.6 if scale == "mini" else method["warmup"])
