import pytest
import torch
import torch.nn.functional as F

from methods import build_labeler
from methods.base.head import LOSS_GROUPS
from methods.base.losses import Focal
from methods.base.point_losses import presence_loss
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import Progress
from methods.controls.nearest_point import NearestPoint
from methods.controls.semantics_nearest import SemanticsNearest
from methods.ops.assignment import DistanceScale
from methods.ops.edges import Sobel
from methods.psps.labeler import PSPS, PSPSMaps
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

DONE = Progress.finished()
SMALL = {"layers": 2, "heads": 4, "feedforward": 32}


def small(**options):
    return PSPS(categories(), 16, **SMALL, embedding_channels=8, **options)


def perfect_semantics(class_map, num_classes=4):
    """Maps whose softmax at 1/8 is nearly one-hot for a class map (H, W), and an embedding that says nothing."""
    one_hot = F.one_hot(class_map, num_classes).permute(2, 0, 1)[None].float()
    logits = 20 * F.avg_pool2d(one_hot, 8)
    return PSPSMaps(SemanticMaps([logits], []), torch.full((1, 4, *logits.shape[-2:]), 0.5))


def intersection_over_union(a, b):
    return float((a & b).sum() / (a | b).sum())


def touching_discs():
    """Two touching discs of one class and of different colour, on a flat background; their points are near the contact."""
    rows, cols = torch.meshgrid(torch.arange(128), torch.arange(192), indexing="ij")
    left = (rows - 64) ** 2 + (cols - 50) ** 2 <= 40**2
    right = (rows - 64) ** 2 + (cols - 126) ** 2 <= 35**2
    image = torch.full((3, 128, 192), 0.2)
    image[:, left] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    image[:, right] = torch.tensor([0.1, 0.2, 0.9])[:, None]
    points = point_labels([(20, 64, 0), (100, 64, 1), (180, 10, 2)], [0, 0, 2])
    class_map = torch.full((128, 192), 2)
    class_map[left | right] = 0
    return image, points, class_map, left, right


def test_geodesics_split_touching_discs_that_the_nearest_point_mixes_up():
    image, points, class_map, left, right = touching_discs()
    batch, maps = point_batch([image], [points]), perfect_semantics(class_map)
    ours = small().pseudo_labels(maps, batch, DONE)[0].masks()
    plain = SemanticsNearest(categories(), 16, **SMALL).pseudo_labels(maps.semantic, batch, DONE)[0].masks()
    for index, disc in enumerate((left, right)):
        assert intersection_over_union(ours[index], disc) > 0.8
        assert intersection_over_union(ours[index], disc) > intersection_over_union(plain[index], disc) + 0.05


def test_without_edges_objects_with_a_long_common_border_cannot_be_told_apart():
    image, class_map = torch.full((3, 128, 192), 0.2), torch.full((128, 192), 2)
    left, right = torch.zeros(2, 128, 192, dtype=torch.bool)
    left[16:112, 16:80], right[16:112, 80:176] = True, True
    image[0, left], image[2, right], class_map[left | right] = 0.9, 0.9, 0
    points = point_labels([(70, 64, 0), (88, 64, 1), (180, 8, 2)], [0, 0, 2])
    batch, maps = point_batch([image], [points]), perfect_semantics(class_map)
    split = small().pseudo_labels(maps, batch, DONE)[0].masks()
    assert all(intersection_over_union(split[i], mask) > 0.85 for i, mask in enumerate((left, right)))
    for options in ({"edge_source": "none"}, {"lambda_edge": 0.0}):
        blind = small(**options).pseudo_labels(maps, batch, DONE)[0].masks()
        assert min(intersection_over_union(blind[i], mask) for i, mask in enumerate((left, right))) < 0.6


def random_case():
    torch.manual_seed(0)
    images = [torch.rand(3, 64, 96), torch.rand(3, 80, 64)]
    points = [
        point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2), (90, 60, 0)], [1, 0, 3]),
        point_labels([(63, 79, 1), (0, 0, 0), (30, 30, 2)], [2, 0, 0]),
    ]
    maps = [
        PSPSMaps(
            SemanticMaps([3 * torch.randn(1, 4, h, w)], []), F.normalize(torch.randn(1, 8, h, w), dim=1)
        )
        for h, w in ((8, 12), (10, 8))
    ]
    return images, points, maps


def test_labels_do_not_depend_on_the_padding():
    images, points, maps = random_case()
    labeler = small()
    alone = [labeler.pseudo_labels(m, point_batch([i], [p]), DONE)[0] for i, p, m in zip(images, points, maps, strict=True)]
    size = (10, 12)

    def joined(parts, fill):
        return torch.cat([F.pad(p, (0, size[1] - p.shape[3], 0, size[0] - p.shape[2]), value=fill) for p in parts])

    together = PSPSMaps(
        SemanticMaps([joined([m.semantic.logits[-1] for m in maps], 50.0)], []), joined([m.embedding for m in maps], 1.0)
    )
    batch = point_batch(images, points)
    assert batch.input_size == (80, 96)
    labels = labeler.pseudo_labels(together, batch, DONE)
    for found, expected, (height, width) in zip(labels, alone, batch.sizes, strict=True):
        same = found.segment_ids[:height, :width] == expected.segment_ids
        assert same.float().mean() > 0.999  # bilinear weights are rounded differently
        assert found.ignore[:height, :width].sum() == 0
        assert found.ignore.sum() == batch.padding[0].numel() - height * width
        assert (found.segment_ids[found.ignore] == 0).all()


def test_targets_keep_the_order_of_the_points_and_hold_their_points():
    images, points, maps = random_case()
    for image, p, m in zip(images, points, maps, strict=True):
        labels = small(dilation=9, reference_side=None).pseudo_labels(m, point_batch([image], [p]), DONE)[0]
        assert torch.equal(labels.classes, p.classes) and torch.equal(labels.is_thing, p.is_thing)
        assert labels.segment_ids.max() <= p.num_targets
        stuff = ~p.is_thing[p.target]
        found = labels.segment_ids[p.xy[:, 1], p.xy[:, 0]]
        assert torch.equal(found[stuff], p.target[stuff] + 1)
        assert (p.is_thing[found[~stuff] - 1]).all()


def test_unsure_stuff_is_void_but_not_ignored():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([(5, 5, 0), (60, 60, 1)], [2, 3])])
    flat = PSPSMaps(SemanticMaps([torch.zeros(1, 4, 8, 8)], []), torch.zeros(1, 8, 8, 8))
    labels = small().pseudo_labels(flat, batch, DONE)[0]
    assert (labels.segment_ids == 0).float().mean() > 0.9
    assert labels.segment_ids[5, 5] == 1 and labels.segment_ids[60, 60] == 2
    assert not labels.ignore.any()
    assert (small(stuff_threshold=0.0).pseudo_labels(flat, batch, DONE)[0].segment_ids > 0).all()


def test_an_image_without_a_target_is_ignored_and_trains_nothing():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([], [])])
    labeler = small()
    maps = labeler.predict_maps(features_for(batch), batch)
    labels = labeler.pseudo_labels(maps, batch, DONE)
    assert labels[0].num_targets == 0 and labels[0].ignore.all()
    losses = labeler.losses(maps, labels, batch, DONE)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["semantic_partial"] == 0 and losses["metric"] == 0 and losses["semantic_presence"] == 0


def test_an_image_without_a_target_does_not_teach_that_every_class_is_absent():
    logits, present = torch.randn(2, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert presence_loss(logits[:1], present[:1]) > 0
    torch.testing.assert_close(presence_loss(logits, present), presence_loss(logits[:1], present[:1]))


def test_a_target_that_lost_its_points_stays_a_target():
    points = point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2])
    batch = point_batch([torch.rand(3, 64, 64)], [points])
    maps = PSPSMaps(SemanticMaps([torch.randn(1, 4, 8, 8)], []), F.normalize(torch.randn(1, 8, 8, 8), dim=1))
    labels = small().pseudo_labels(maps, batch, DONE)[0]
    assert labels.num_targets == 3 and labels.boxes.shape == (3, 4)


def test_a_network_step_gives_finite_losses_with_gradient_everywhere():
    torch.manual_seed(0)
    images, points, _ = random_case()
    batch, labeler = point_batch([0.5 + i / 50 for i in images], points), small()
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    untrained = [name for name, p in labeler.named_parameters() if p.grad is None]
    assert not untrained
    assert labeler.semantic_logits(maps) is maps.semantic.logits[-1]


def test_semantic_losses_scale_with_the_share_of_things():
    images, points, _ = random_case()
    batch = point_batch([0.5 + i / 50 for i in images], points)  # 2 + 2 things, 1 + 1 stuff
    torch.manual_seed(0)
    scaled = small()
    torch.manual_seed(0)
    plain = small(scale_semantic_by_things=False)
    features = features_for(batch)
    results = []
    for labeler in (scaled, plain):
        labeler.eval()
        maps = labeler.predict_maps(features, batch)
        results.append(labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE))
    for name in ("semantic_presence", "semantic_partial", "semantic_color"):
        assert results[0][name].item() == pytest.approx(results[1][name].item() * 4 / 6, rel=1e-5)
    assert results[0]["metric"].item() == pytest.approx(results[1]["metric"].item(), rel=1e-5)


def test_losses_of_weight_zero_are_left_out():
    images, points, maps = random_case()
    labeler = small(presence_weight=0, color_weight=0, metric_weight=0)
    assert list(labeler.losses(maps[0], [], point_batch(images[:1], points[:1]), DONE)) == ["semantic_partial"]


@pytest.mark.parametrize(
    "options",
    [
        {"class_compatibility": False},
        {"lambda_semantic": 0.0},
        {"lambda_edge": 2.0},
        {"lambda_manifold": 2.0},
        {"edge_source": "none"},
        {"directed": False},
        {"stride": 16},
        {"dilation": 401},
        {"reference_side": None},
        {"stuff_threshold": 0.9},
        {"sobel": Sobel(border=0)},
    ],
)
def test_every_switch_of_the_labels_changes_them(options):
    images, points, maps = random_case()
    batch = point_batch(images[:1], points[:1])
    default, changed = (labeler.pseudo_labels(maps[0], batch, DONE)[0] for labeler in (small(), small(**options)))
    assert not torch.equal(default.segment_ids, changed.segment_ids)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5}, {"color_kernel": 3}, {"color_dilation": 30}, {"color_threshold": 0.9}, {"color_warmup": 2.0},
        {"color_falloff": 2.0},
    ],
)
def test_every_switch_of_the_losses_changes_them(options):
    images, points, maps = random_case()
    batch = point_batch([0.5 + i / 50 for i in images[:1]], points[:1])
    default, changed = small(presence_weight=0), small(presence_weight=0, **options)
    labels = default.pseudo_labels(maps[0], batch, DONE)
    totals = [float(sum(one.losses(maps[0], labels, batch, DONE).values())) for one in (default, changed)]
    assert abs(totals[0] - totals[1]) > 1e-4


@pytest.mark.parametrize("warmup, expected", [(0.0, 1.0), (0.05, 1.0), (0.25, 0.4), (1.0, 0.1)])
def test_warm_up_is_a_share_of_the_run(warmup, expected):
    weights = small(warmup=warmup).head_weights(Progress(100, 1000))
    assert weights == dict.fromkeys(LOSS_GROUPS, pytest.approx(expected))


def test_unknown_edge_source_is_refused():
    with pytest.raises(ValueError, match="none, sobel"):
        small(edge_source="canny")


def test_labels_are_better_than_the_floor_on_the_discs():
    image, points, class_map, left, right = touching_discs()
    batch = point_batch([image], [points])
    ours = small().pseudo_labels(perfect_semantics(class_map), batch, DONE)[0].masks()
    floor = NearestPoint(categories(), 16).pseudo_labels(None, batch, DONE)[0].masks()
    for index, disc in enumerate((left, right)):
        assert intersection_over_union(ours[index], disc) > intersection_over_union(floor[index], disc)


def test_groups_of_options_reach_their_parts():
    labeler = build_labeler(
        "psps", categories(), 16,
        {
            **SMALL, "levels": 2, "norm_epsilon": 1e-3, "presence_focal": {"gamma": 1.0}, "empty_box": 1.0,
            "projector": {"levels": 1, "inputs": ["map"], "hidden": 5}, "distance": {"missing": 3.0},
        },
    )  # fmt: skip
    assert labeler.semantic.decoder.decoder.levels == 2
    assert {m.eps for m in labeler.semantic.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert labeler.objective.presence_focal == Focal(0.25, 1.0)
    assert labeler.projector.project[0].out_channels == 5
    assert labeler.distance == DistanceScale(missing=3.0, epsilon=1e-5)
    batch = point_batch([torch.rand(3, 64, 96)], [point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2])])
    labels = labeler.pseudo_labels(labeler.predict_maps(features_for(batch), batch), batch, DONE)[0]
    assert not labels.masks()[1].any() and labels.boxes[1].tolist() == [0, 0, 96, 64]
    with pytest.raises(ValueError, match=r"method 'psps', group 'projector', has no option level;.*levels, inputs, hidden"):
        build_labeler("psps", categories(), 16, {"projector": {"level": 1}})


def test_the_focal_constants_of_presence_are_used():
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    logits, present = torch.randn(2, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    expected = py_sigmoid_focal_loss(logits, present, gamma=1.5, alpha=0.4, reduction="sum") / 3
    torch.testing.assert_close(presence_loss(logits, present, Focal(alpha=0.4, gamma=1.5)), expected)
