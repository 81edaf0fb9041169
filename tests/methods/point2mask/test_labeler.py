import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods import build_labeler
from methods.base.edge_maps import SobelEdgeMaker
from methods.base.head import LOSS_GROUPS
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import Progress
from methods.ops.assignment import DistanceScale
from methods.ops.edges import Sobel
from methods.point2mask.boundary import BoundaryProjection
from methods.point2mask.labeler import CHOICES, Point2Mask, Point2MaskMaps
from methods.point2mask.low_boundary import StructuredEdgeMaker, StructuredEdges, structured_edge_detector
from tests.methods.stand_ins import categories, features_for, point_batch, point_labels

DONE = Progress.finished()
SMALL = {"layers": 2, "heads": 4, "feedforward": 32}


def small(**options):
    return Point2Mask(categories(), 16, **SMALL, embedding_channels=8, **options)


def smooth(channels, height, width, kernel=5):
    return kernel * F.avg_pool2d(torch.randn(1, channels, height + kernel - 1, width + kernel - 1), kernel, stride=1)


def smooth_image(height, width):
    return (0.03 * smooth(3, height, width, 21)[0] + 0.5).clamp(0, 1)


def smooth_maps(height, width):
    """Maps of an image with smooth semantics, sparse boundaries and a smooth embedding."""
    h, w = -(-height // 8), -(-width // 8)
    embedding = F.normalize(smooth(8, h, w), dim=1)
    return Point2MaskMaps(SemanticMaps([3 * smooth(4, h, w)], []), 2 * smooth(1, h, w, 3)[:, 0] - 2, embedding)


def random_case():
    torch.manual_seed(0)
    sizes = ((64, 96), (80, 64))
    images = [smooth_image(*size) for size in sizes]
    points = [
        point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2), (90, 60, 0), (60, 30, 3)], [1, 0, 3, 0]),
        point_labels([(63, 79, 1), (0, 0, 0), (30, 30, 2)], [2, 0, 0]),
    ]
    return images, points, [smooth_maps(*size) for size in sizes]


# --- what the labels are ----------------------------------------------------------------------------------------------


def two_rooms(height=64, width=128, wall=44, points=((40, 32), (70, 32))):
    """Two things of one class in rooms with a wall between them, and their points near the wall; stuff has no room."""
    logits = torch.zeros(1, 4, height // 8, width // 8)
    logits[:, 0] = 20
    boundary = torch.full((1, height // 8, width // 8), -20.0)
    boundary[:, :, wall // 8] = 20
    maps = Point2MaskMaps(SemanticMaps([logits], []), boundary, None)
    targets = point_labels([(x, y, i) for i, (x, y) in enumerate(points)], [0, 0])
    truth = torch.ones(height, width, dtype=torch.int64)
    truth[:, (wall // 8) * 8 + 4 :] = 2
    return point_batch([torch.full((3, height, width), 0.5)], [targets]), maps, truth


def test_boundaries_separate_things_of_one_class():
    batch, maps, truth = two_rooms()
    found = small(lambda_manifold=0.0, low_boundary="none", beta=1.0).pseudo_labels(maps, batch, DONE)[0].segment_ids
    assert (found == truth).float().mean() > 0.95
    blind = small(lambda_manifold=0.0, low_boundary="none", high_boundary=False)
    nothing = Point2MaskMaps(maps.semantic, None, None)
    assert (blind.pseudo_labels(nothing, batch, DONE)[0].segment_ids == truth).float().mean() < 0.9


def uneven_slope(height=64, width=128):
    """Two points at the two ends of an image in which the cost of a step falls to the right."""
    logits = torch.zeros(1, 4, height // 8, width // 8)
    logits[:, 0] = 2 * torch.log1p(torch.arange(width // 8))
    points = point_labels([(2, 32, 0), (125, 32, 1)], [0, 0])
    maps = Point2MaskMaps(SemanticMaps([logits], []), None, None)
    return point_batch([torch.full((3, height, width), 0.5)], [points]), maps


def test_converged_transport_gives_every_supplier_its_units():
    batch, maps = uneven_slope()
    plain = {"lambda_manifold": 0.0, "low_boundary": "none", "high_boundary": False, "dilation": 1}
    sizes = {}
    for assignment in ("transport", "minimum_cost"):
        labeler = small(**plain, units="equal", solver="converged", assignment=assignment, resolution="full")
        sizes[assignment] = labeler.pseudo_labels(maps, batch, DONE)[0].masks().sum(dim=(1, 2)) / (64 * 128)
    assert abs(float(sizes["transport"][0]) - 0.5) < 0.02
    assert float(sizes["minimum_cost"][0]) < 0.3


def test_nearest_units_with_converged_transport_are_the_minimum_cost_assignment():
    images, points, maps = random_case()
    for image, p, m in zip(images, points, maps, strict=True):
        batch = point_batch([image], [p])
        options = {"stuff_threshold": 0.0, "resolution": "full"}
        moved = small(units="nearest", solver="converged", **options).pseudo_labels(m, batch, DONE)[0].segment_ids
        cheapest = small(assignment="minimum_cost", **options).pseudo_labels(m, batch, DONE)[0].segment_ids
        assert (moved == cheapest).float().mean() > 0.98


@pytest.mark.parametrize("options", [{}, {"suppliers": "things"}, {"units": "equal"}, {"centroid_iterations": 3}])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_transport_of_grid_cells_labels_as_transport_of_pixels(options, size):
    for seed in range(3):
        torch.manual_seed(seed)
        places = [(int(torch.randint(size[1], ())), int(torch.randint(size[0], ())), i) for i in range(6)]
        batch = point_batch([smooth_image(*size)], [point_labels(places, [0, 1, 0, 1, 2, 3])])
        maps = smooth_maps(*size)
        cells, pixels = (
            small(stuff_threshold=0.0, resolution=resolution, **options).pseudo_labels(maps, batch, DONE)[0].segment_ids
            for resolution in ("grid", "full")
        )
        assert (cells == pixels).float().mean() >= 0.995


def test_transport_warms_up_with_the_nearest_units_over_all_pixels():
    images, points, maps = random_case()
    batch = point_batch(images[:1], points[:1])
    nearest = small(units="nearest").pseudo_labels(maps[0], batch, DONE)[0].segment_ids
    labeler = small(units="equal", transport_warmup=0.5)
    for step, same in ((0, True), (49, True), (50, False), (100, False)):
        found = labeler.pseudo_labels(maps[0], batch, Progress(step, 100))[0].segment_ids
        assert torch.equal(found, nearest) == same


def test_with_things_as_suppliers_stuff_follows_the_semantic_branch():
    images, points, maps = random_case()
    for image, p, m in zip(images, points, maps, strict=True):
        batch = point_batch([image], [p])
        labeler = small(suppliers="things")
        classes = labeler._semantics(m, batch, 0).pixel_classes()
        found = labeler.pseudo_labels(m, batch, DONE)[0].segment_ids
        class_of = torch.cat([torch.tensor([-1]), p.classes])[found]
        stuff = classes >= 2
        assert torch.equal(class_of[stuff], classes[stuff]) and (found[classes == -1] == 0).all()
        assert (class_of[(classes >= 0) & ~stuff] < 2).all() and (found[(classes >= 0) & ~stuff] > 0).all()


def test_with_all_targets_as_suppliers_the_plan_decides_stuff_too():
    images, points, maps = random_case()
    batch = point_batch(images[:1], points[:1])
    everything = small(stuff_threshold=0.0).pseudo_labels(maps[0], batch, DONE)[0].segment_ids
    assert (everything > 0).all()
    strict = small(stuff_threshold=0.9).pseudo_labels(maps[0], batch, DONE)[0].segment_ids
    void = strict == 0
    assert void.any() and torch.equal(strict[~void], everything[~void])
    assert (~points[0].is_thing)[everything[void] - 1].all()


# --- images that lack something ---------------------------------------------------------------------------------------

VARIANTS = [
    {}, {"suppliers": "things"}, {"units": "equal"}, {"units": "nearest"}, {"assignment": "minimum_cost"},
    {"centroid_gate": True, "centroid_iterations": 2}, {"count_rule": "likelihood"},
    {"count_rule": "likelihood", "suppliers": "things", "transport_cost": "centroids"},
    {"resolution": "full"}, {"solver": "converged"}, {"cost_normalization": "max"},
]  # fmt: skip
ODD = {
    "no target": point_labels([], []),
    "stuff only": point_labels([(5, 5, 0), (60, 60, 1)], [2, 3]),
    "things only": point_labels([(5, 5, 0), (60, 60, 1)], [0, 1]),
    "one thing": point_labels([(5, 5, 0)], [0]),
    "two in one pixel": point_labels([(5, 5, 0), (5, 5, 1), (30, 30, 2)], [0, 0, 2]),
    "lost its points": point_labels([(10, 10, 0), (60, 60, 2)], [0, 1, 2]),
    "no point at all": point_labels([], [0, 1, 2]),
    "at the corners": point_labels([(0, 0, 0), (95, 0, 1), (0, 63, 2), (95, 63, 3)], [0, 0, 1, 2]),
    "ten points": point_labels([(i * 9, i * 6, i % 2) for i in range(10)] + [(90, 5, 2)], [0, 0, 3]),
}


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("name", ODD)
def test_odd_images_have_labels_and_finite_losses(name, options):
    torch.manual_seed(0)
    others = point_labels([(20, 20, 0), (40, 40, 1)], [1, 2])
    batch = point_batch([smooth_image(64, 96), smooth_image(80, 72)], [ODD[name], others])
    labeler = small(**options)
    maps = labeler.predict_maps(features_for(batch), batch)
    with torch.no_grad():
        labels = labeler.pseudo_labels(maps, batch, DONE)
    assert [label.num_targets for label in labels] == [ODD[name].num_targets, 2]
    for label, (height, width) in zip(labels, batch.sizes, strict=True):
        assert label.segment_ids.shape == batch.input_size and label.segment_ids.max() <= label.num_targets
        assert (label.segment_ids[label.ignore] == 0).all()
        assert label.ignore.all() if not label.num_targets else not label.ignore[:height, :width].any()
    losses = labeler.losses(maps, labels, batch, DONE)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


def test_an_image_without_a_target_teaches_nothing():
    batch = point_batch([torch.rand(3, 64, 64)], [point_labels([], [])])
    labeler = small(tree_weight=0)  # like the colour prior, the tree loss needs no label
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE)
    assert losses["boundary"] == 0 and losses["metric"] == 0 and losses["semantic_partial"] == 0


@pytest.mark.parametrize("options", [{}, {"suppliers": "things", "count_rule": "likelihood"}, {"resolution": "full"}])
def test_labels_do_not_depend_on_the_padding(options):
    images, points, maps = random_case()
    labeler = small(**options)
    alone = [labeler.pseudo_labels(m, point_batch([i], [p]), DONE)[0] for i, p, m in zip(images, points, maps, strict=True)]

    def joined(parts, fill):
        return torch.cat([F.pad(p, (0, 12 - p.shape[-1], 0, 10 - p.shape[-2]), value=fill) for p in parts])

    together = Point2MaskMaps(
        SemanticMaps([joined([m.semantic.logits[-1] for m in maps], 50.0)], []),
        joined([m.boundary for m in maps], 30.0), joined([m.embedding for m in maps], 1.0),
    )
    batch = point_batch(images, points)
    assert batch.input_size == (80, 96)
    for found, expected, (height, width) in zip(
        labeler.pseudo_labels(together, batch, DONE), alone, batch.sizes, strict=True
    ):
        same = found.segment_ids[:height, :width] == expected.segment_ids
        assert same.float().mean() > 0.998  # bilinear weights are rounded differently


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_step_gives_finite_losses_with_gradient_everywhere():
    images, points, _ = random_case()
    batch, labeler = point_batch(images, points), small()
    maps = labeler.predict_maps(features_for(batch), batch)
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE)
    sum(losses.values()).backward()
    assert set(losses) == {"semantic_presence", "semantic_partial", "semantic_color", "semantic_tree", "boundary", "metric"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    assert not [name for name, p in labeler.named_parameters() if p.grad is None]
    assert labeler.semantic_logits(maps) is maps.semantic.logits[-1]


@pytest.mark.parametrize("detach", [True, False])
def test_the_boundary_loss_reaches_the_encoder_only_if_it_is_not_detached(detach):
    images, points, _ = random_case()
    batch, labeler = point_batch(images, points), small(boundary_detach=detach)
    features = features_for(batch, requires_grad=True)
    maps = labeler.predict_maps(features, batch)
    labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE)["boundary"].backward()
    assert all((m.grad is None) == detach for m in features.maps)
    assert all(p.grad is not None for p in labeler.boundary.parameters())
    assert all(p.grad is None for p in labeler.semantic.parameters())


def test_maps_that_the_cost_does_not_read_are_not_made():
    images, points, _ = random_case()
    batch, labeler = point_batch(images, points), small(high_boundary=False, lambda_manifold=0.0)
    maps = labeler.predict_maps(features_for(batch), batch)
    assert maps.boundary is None and maps.embedding is None
    assert all(name.startswith("semantic.") for name, _ in labeler.named_parameters())
    losses = labeler.losses(maps, labeler.pseudo_labels(maps, batch, DONE), batch, DONE)
    assert not {"boundary", "metric"} & set(losses)


def test_losses_of_weight_zero_are_left_out():
    images, points, maps = random_case()
    labeler = small(presence_weight=0, color_weight=0, tree_weight=0, metric_weight=0, boundary_weight=0)
    assert list(labeler.losses(maps[0], [], point_batch(images[:1], points[:1]), DONE)) == ["semantic_partial"]


def losses_with(options, progress=DONE):
    images, points, maps = random_case()
    batch, labeler = point_batch(images[:1], points[:1]), small(presence_weight=0, **options)
    labels = small().pseudo_labels(maps[0], batch, DONE)
    return {name: float(loss) for name, loss in labeler.losses(maps[0], labels, batch, progress).items()}


def test_warm_ups_are_shares_of_the_run():
    assert small(warmup=0.25).head_weights(Progress(10, 100)) == dict.fromkeys(LOSS_GROUPS, pytest.approx(0.4))
    full, part = losses_with({}), losses_with({"warmup": 0.25, "tree_warmup": 0.5, "color_warmup": 1.0}, Progress(10, 100))
    shares = {"boundary": 0.4, "semantic_tree": 0.2, "semantic_color": 0.1, "semantic_partial": 1.0, "metric": 1.0}
    assert part == pytest.approx({name: share * full[name] for name, share in shares.items()}, rel=1e-5)


def test_semantic_losses_scale_with_the_share_of_things():
    scaled, plain = losses_with({}), losses_with({"scale_semantic_by_things": False})  # 3 things, 1 stuff
    for name in ("semantic_partial", "semantic_color", "semantic_tree"):
        assert scaled[name] == pytest.approx(0.75 * plain[name], rel=1e-5)
    assert scaled["boundary"] == plain["boundary"] and scaled["metric"] == plain["metric"]


def test_two_colour_kernels_are_the_weighted_sum_of_their_losses():
    three, five, both = (
        losses_with({"color_kernel_weights": weights})["semantic_color"] for weights in ((1.0,), (0.0, 1.0), (0.35, 0.65))
    )
    assert three != pytest.approx(five, rel=1e-3) and both == pytest.approx(0.35 * three + 0.65 * five, rel=1e-5)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"tree_sigma": 0.5}, "semantic_tree"),
        ({"tree_normalizer": "unlabelled"}, "semantic_tree"),
        ({"tree_weight": 1.0}, "semantic_tree"),
        ({"boundary_weight": 0.5}, "boundary"),
        ({"temperature": 0.5}, "metric"),
        ({"color_dilation": 30}, "semantic_color"),
        ({"color_threshold": 0.9}, "semantic_color"),
        ({"color_falloff": 2.0}, "semantic_color"),
        ({"dilation": 101}, "semantic_partial"),
    ],
)
def test_every_switch_of_the_losses_changes_its_loss_only(options, name):
    default, changed = losses_with({}), losses_with(options)
    assert changed[name] != pytest.approx(default[name], rel=1e-3)
    assert all(changed[other] == pytest.approx(default[other], rel=1e-5) for other in default if other != name)


@pytest.mark.parametrize(
    "options",
    [
        {"high_boundary": False},
        {"low_boundary": "none"},
        {"low_boundary_directed": True},
        {"sobel": Sobel(epsilon=1e6)},
        {"beta": 2.0},
        {"lambda_manifold": 0.0},
        {"stride": 16},
        {"distance": DistanceScale(missing=1e-3)},
        {"suppliers": "things"},
        {"units": "equal"},
        {"units": "nearest"},
        {"centroid_iterations": 4},
        {"count_rule": "likelihood"},
        {"transport_cost": "centroids"},
        {"transport_warmup": 2.0},
        {"assignment": "minimum_cost"},
        {"cost_normalization": "max"},
        {"solver": "converged"},
        {"epsilon": 0.05},
        {"iterations": 2},
        {"dilation": 401},
        {"reference_side": None},
        {"stuff_threshold": 0.9},
    ],
    ids=str,
)
def test_every_switch_of_the_labels_changes_them(options):
    images, _, maps = random_case()
    places = [(10, 10, 0), (50, 50, 1), (30, 12, 2), (90, 60, 0), (60, 30, 3)]
    batch = point_batch(images[:1], [point_labels(places, [1, 0, 3, 0, 1])])  # the last has no point
    read = [maps[0], maps[0]]
    if options.get("high_boundary") is False:
        read[1] = Point2MaskMaps(maps[0].semantic, None, maps[0].embedding)
    elif options.get("lambda_manifold") == 0:
        read[1] = Point2MaskMaps(maps[0].semantic, maps[0].boundary, None)
    labelers = (small(), small(**options))
    default, changed = (each.pseudo_labels(m, batch, DONE)[0] for each, m in zip(labelers, read, strict=True))
    assert not torch.equal(default.segment_ids, changed.segment_ids)


def test_the_centroid_gate_changes_labels():
    """A region whose point is at its end: the centroid of the other, ring-shaped one lies in it and is refused."""
    batch, maps = uneven_slope()
    logits = maps.semantic.logits[0].clone()
    rows, cols = torch.meshgrid(torch.arange(8), torch.arange(16), indexing="ij")
    logits[0, 0] = torch.where((rows - 4) ** 2 + (cols - 8) ** 2 < 6, 8.0, 0.0) + 0.05 * cols
    points = point_labels([(4, 4, 0), (68, 30, 1)], [0, 0])
    batch = point_batch([torch.full((3, 64, 128), 0.5)], [points])
    maps = Point2MaskMaps(SemanticMaps([logits], []), None, None)
    plain = {"lambda_manifold": 0.0, "low_boundary": "none", "high_boundary": False, "solver": "converged", "epsilon": 0.01}
    free, gated = (small(**plain, centroid_gate=gate).pseudo_labels(maps, batch, DONE)[0] for gate in (False, True))
    assert not torch.equal(free.segment_ids, gated.segment_ids)


def test_structured_edges_enter_the_cost(monkeypatch, tmp_path):
    class Detector:
        def detectEdges(self, pixels):
            return np.ascontiguousarray(pixels[..., 0])

    structured_edge_detector.cache_clear()
    fake = type("ximgproc", (), {"createStructuredEdgeDetection": staticmethod(lambda path: Detector())})
    monkeypatch.setattr(cv2, "ximgproc", fake, raising=False)
    model = tmp_path / "model.yml.gz"
    model.touch()
    images, points, maps = random_case()
    batch = point_batch(images, points)
    labeler = small(low_boundary="structured_edges", structured_edges=StructuredEdges(str(model)), beta=1.0)
    both = labeler.predict_maps(features_for(batch), batch)
    assert len(labeler.pseudo_labels(both, batch, DONE)) == 2
    single = point_batch(images[:1], points[:1])
    found = labeler.pseudo_labels(maps[0], single, DONE)[0].segment_ids
    assert not torch.equal(found, small(beta=1.0).pseudo_labels(maps[0], single, DONE)[0].segment_ids)
    structured_edge_detector.cache_clear()


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_word_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"'point2mask' has no {name} 'other'.*{CHOICES[name][-1]}"):
        small(**{name: "other"})


def test_groups_of_options_reach_their_parts():
    labeler = build_labeler(
        "point2mask", categories(), 16,
        {
            **SMALL, "boundary_decoder": {"levels": 2, "hidden": 5}, "distance": {"missing": 3.0}, "sobel": {"border": 1},
            "projector": {"levels": 1}, "stride": 4,
        },
    )  # fmt: skip
    assert labeler.boundary.levels == 2 and labeler.boundary.inputs == ("map",)
    assert labeler.boundary.project[0].out_channels == 5 and labeler.boundary.project[2].out_channels == 1
    assert labeler.edge_maker == SobelEdgeMaker(Sobel(border=1), 4)
    assert labeler.distance.missing == 3.0 and labeler.projector.levels == 1
    structured = {**SMALL, "low_boundary": "structured_edges", "structured_edges": {"bgr": True}}
    maker = build_labeler("point2mask", categories(), 16, structured).edge_maker
    assert maker == StructuredEdgeMaker(StructuredEdges(bgr=True))
    assert build_labeler("point2mask", categories(), 16, {**SMALL, "low_boundary": "none"}).edge_maker is None
    with pytest.raises(ValueError, match=r"group 'boundary_decoder', has no option level"):
        build_labeler("point2mask", categories(), 16, {"boundary_decoder": {"level": 1}})


def test_the_boundary_decoder_reads_positions_if_asked_to():
    images, points, _ = random_case()
    batch = point_batch(images, points)
    features = features_for(batch)
    torch.manual_seed(0)
    plain = small()
    torch.manual_seed(0)
    placed = small(boundary_decoder=BoundaryProjection(inputs=("map", "position")))
    found = [labeler.predict_maps(features, batch).boundary for labeler in (plain, placed)]
    assert found[0].shape == (2, 10, 12) and not torch.allclose(*found)
