"""The maps that labels are decided from: those of every method, and that they explain its labels."""

import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from methods import METHODS, build_labeler
from methods.base.evidence import (
    Evidence,
    distance_to_owner,
    distance_to_points,
    largest,
    least,
    step_cost,
    valid_part,
)
from methods.base.labeler import PseudoLabeler
from methods.base.model import PanopticModel
from methods.base.types import Progress
from methods.ops.assignment import assign
from methods.ops.geodesic import geodesic_distances
from methods.ops.instance_split import ASSIGNMENTS, ClassifiedImage, InstanceSplit
from methods.ops.rasterize import grid_size, point_cells, resample
from tests.methods.stand_ins import categories, features_for, mask_batch, point_batch, point_labels

DONE = Progress.finished()
BRANCH = {"layers": 2, "heads": 4, "feedforward": 32}
ANCHORS = {"heads": 4, "feedforward": 32}
SIZES = ((64, 96), (80, 64))
POINTS = [
    point_labels([(10, 10, 0), (50, 50, 1), (30, 12, 2), (90, 60, 3)], [0, 0, 3, 1]),
    point_labels([(60, 70, 1), (2, 2, 0), (30, 30, 2)], [2, 0, 0]),
]
FAR, SURE = "far", "sure"
PAID = ("transport cost", FAR)
EXPECTED = {
    ("psps",): (BRANCH, [("traversing distance", FAR), ("cost of a step", "costly")]),
    ("point2mask",): (BRANCH, [("boundary", "a boundary"), PAID]),
    ("point2mask", "no decoder"): (BRANCH | {"high_boundary": False}, [PAID]),
    ("point2mask", "minimum"): (BRANCH | {"assignment": "minimum_cost"}, [("boundary", "a boundary"), PAID]),
    ("point2mask", "things"): (BRANCH | {"suppliers": "things"}, [("boundary", "a boundary"), PAID]),
    ("fdd",): (BRANCH, [("probability of the target", SURE)]),
    ("fdd", "points"): (BRANCH | {"panoptic_labels": "points"}, []),
    ("anchor_query",): (ANCHORS, [("learned distance", FAR), ("soft assignment", SURE)]),
    ("anchor_query", "euclidean"): (ANCHORS | {"distance": "euclidean"}, [("distance to the nearest point", FAR)]),
    ("anchor_query", "geodesic"): (ANCHORS | {"distance": "geodesic"}, [("path distance", FAR)]),
    ("anchor_query", "transport"): (ANCHORS | {"distance": "transport"}, [("path distance", FAR)]),
    ("agmm",): (BRANCH, [("Gaussian mixture", "like a labelled pixel"), ("distance within the class", FAR)]),
    ("agmm", "geodesic"): (
        BRANCH | {"assignment": "geodesic", "mixture": {"centre": "moving"}},
        [("Gaussian mixture", "like a labelled pixel"), ("path distance", FAR)],
    ),
    ("nearest_point",): ({}, [("distance to the nearest point", FAR)]),
    ("semantics_nearest",): (BRANCH, [("probability of the class", SURE), ("distance within the class", FAR)]),
    ("full_masks",): ({}, []),
    ("oracle_semantics",): ({}, [("distance within the class", FAR)]),
    ("oracle_semantics", "geodesic"): ({"assignment": "geodesic"}, [("path distance", FAR)]),
    ("oracle_semantics", "transport"): ({"assignment": "transport"}, [("path distance", FAR)]),
}  # fmt: skip
"""Method and variant -> its options, and name and meaning of bright of its maps."""


def batch_of(points=POINTS, sizes=SIZES):
    """With ground truth, which points alone do not read; two sizes, hence padding in both."""
    torch.manual_seed(1)
    images = [F.interpolate(torch.rand(1, 3, h // 8, w // 8), (h, w), mode="bilinear")[0] for h, w in sizes]
    ids = [torch.randint(0, p.num_targets + 1, (h // 16, w // 16)) for p, (h, w) in zip(points, sizes, strict=True)]
    truth = [each.repeat_interleave(16, 0).repeat_interleave(16, 1) for each in ids]
    return mask_batch(images, points, truth)


@torch.no_grad()
def explained(name, options, batch):
    """Labels and maps of an untrained labeler, which it leaves as it was."""
    torch.manual_seed(0)
    labeler = build_labeler(name, categories(), 16, options).eval()
    before = {key: value.clone() for key, value in labeler.state_dict().items()}
    torch.manual_seed(2)
    maps = labeler.predict_maps(features_for(batch), batch)
    evidence = labeler.evidence(maps, batch, DONE)
    assert all(torch.equal(before[key], value) for key, value in labeler.state_dict().items())
    return labeler.pseudo_labels(maps, batch, DONE), evidence


def test_every_method_is_looked_at():
    assert {name for name, *_ in EXPECTED} == {n for n, method in METHODS.items() if issubclass(method, PseudoLabeler)}


@pytest.mark.parametrize("case", EXPECTED, ids="-".join)
def test_a_method_has_its_maps_and_they_are_finite_where_labels_are(case):
    options, expected = EXPECTED[case]
    labels, evidence = explained(case[0], options, batch_of())
    assert len(evidence) == 2
    for label, maps, (height, width) in zip(labels, evidence, SIZES, strict=True):
        assert [(each.name, each.bright) for each in maps] == expected
        ids = label.segment_ids[:height, :width]
        for each in maps:
            values = each.values
            assert values.dtype == torch.float32 and values.dim() == 2 and not values.requires_grad and each.about
            assert abs(values.shape[0] / values.shape[1] - height / width) < 0.1
            at_cells = F.interpolate(ids[None, None].float(), tuple(values.shape), mode="nearest-exact")[0, 0]
            labelled = (at_cells > 0) if each.missing == "void" else torch.ones_like(at_cells, dtype=torch.bool)
            assert torch.isfinite(values[labelled]).all() and torch.isinf(values[~labelled]).all()
            assert values[labelled].min() >= 0 and values[labelled].max() > values[labelled].min()
            if each.bright != FAR and each.bright != "costly":
                assert values[labelled].max() <= 1 + 1e-6


@pytest.mark.parametrize("case", EXPECTED, ids="-".join)
def test_an_image_without_a_target_or_without_a_thing_has_maps_too(case):
    points = [point_labels([], []), point_labels([(5, 5, 0), (50, 60, 1)], [2, 3])]
    _, evidence = explained(case[0], EXPECTED[case][0], batch_of(points))
    for maps, expected in zip(evidence, [EXPECTED[case][1]] * 2, strict=True):
        assert [each.name for each in maps] == [name for name, _ in expected]
        assert not any(torch.isnan(each.values).any() for each in maps)
    by_name = {each.name: each.values for each in evidence[1]}
    if case == ("psps",):
        assert torch.isinf(by_name["traversing distance"]).all() and torch.isfinite(by_name["cost of a step"]).all()


def test_the_distance_to_the_nearest_point_is_that_of_scipy():
    _, evidence = explained("nearest_point", {}, batch_of())
    for (each,), points, size in zip(evidence, POINTS, SIZES, strict=True):
        away = torch.ones(size)
        away[points.xy[:, 1], points.xy[:, 0]] = 0
        expected = torch.from_numpy(scipy.ndimage.distance_transform_edt(away.numpy())).float()
        assert torch.allclose(each.values, expected, atol=1e-4) and each.unit == "px"


def test_within_a_class_only_its_points_count_and_void_has_no_distance():
    points, size = POINTS[0], SIZES[0]
    classes = torch.randint(-1, 4, size, generator=torch.Generator().manual_seed(0))
    found = distance_to_points(points, size, classes)
    for label in (-1, 2):  # void, and a class without a point
        assert torch.isinf(found[classes == label]).all()
    for label in (0, 1, 3):
        away = torch.ones(size)
        mine = points.xy[points.point_classes == label]
        away[mine[:, 1], mine[:, 0]] = 0
        expected = torch.from_numpy(scipy.ndimage.distance_transform_edt(away.numpy())).float()
        assert torch.allclose(found[classes == label], expected[classes == label], atol=1e-4)


def alone(index=0):
    """One image of the batch, without padding."""
    torch.manual_seed(3)
    height, width = SIZES[index]
    return point_batch([F.interpolate(torch.rand(1, 3, 8, 12), (height, width), mode="bilinear")[0]], [POINTS[index]])


@torch.no_grad()
def labeler_with_maps(name, options, batch):
    torch.manual_seed(0)
    labeler = build_labeler(name, categories(), 16, options).eval()
    return labeler, labeler.predict_maps(features_for(batch), batch)


def test_the_traversing_distance_is_the_least_of_the_things_and_decides_their_labels():
    """Without the weights of the classes, a thing pixel belongs to the thing at the smallest distance."""
    batch = alone()
    labeler, maps = labeler_with_maps("psps", BRANCH | {"class_compatibility": False}, batch)
    distance = labeler.evidence(maps, batch, DONE)[0][0].values
    _, (costs,), _ = labeler._paths(maps, batch)
    points, things = POINTS[0], torch.nonzero(POINTS[0].is_thing)[:, 0]
    sources = [point_cells(points.xy[points.target == thing], SIZES[0], tuple(costs.shape[:2])) for thing in things]
    each = torch.stack([geodesic_distances(costs, [source])[0] for source in sources])
    assert torch.equal(distance, each.min(dim=0).values)
    nearest = things[resample(each, SIZES[0], SIZES[0], SIZES[0]).argmin(dim=0)] + 1
    ids = labeler.pseudo_labels(maps, batch, DONE)[0].segment_ids
    on_thing = torch.isin(ids - 1, things)
    assert on_thing.any() and (nearest == ids)[on_thing].float().mean() > 0.999


def test_transport_pays_more_than_the_cheapest_supplier_where_that_has_given_all():
    batch = alone()
    labeler, maps = labeler_with_maps("point2mask", BRANCH, batch)
    paid = labeler.evidence(maps, batch, DONE)[0][1].values
    cheapest, _ = labeler_with_maps("point2mask", BRANCH | {"assignment": "minimum_cost"}, batch)
    cheapest.load_state_dict(labeler.state_dict())
    least_cost = cheapest.evidence(maps, batch, DONE)[0][1].values
    assert (paid >= least_cost).all() and (paid > least_cost).any()
    _, costs, offsets = labeler._supply(maps, batch, DONE)
    owner = (costs[0] - offsets[0][:, None, None]).argmin(dim=0)
    assert torch.equal(paid, torch.stack([costs[0][n, r, c] for r, row in enumerate(owner) for c, n in enumerate(row)])
                       .view(owner.shape))  # fmt: skip


def test_a_boundary_is_the_sigmoid_of_the_decoders_map():
    batch = alone()
    labeler, maps = labeler_with_maps("point2mask", BRANCH, batch)
    assert torch.equal(labeler.evidence(maps, batch, DONE)[0][0].values, maps.boundary[0].sigmoid())


def test_probabilities_of_targets_are_those_of_the_softmax():
    batch = alone()
    labeler, maps = labeler_with_maps("fdd", BRANCH, batch)
    ((each,),) = labeler.evidence(maps, batch, DONE)
    assert torch.allclose(each.values, maps.instances[-1][0].softmax(dim=0).max(dim=0).values)


def test_the_learned_distance_is_that_of_the_target_that_takes_the_cell():
    batch = alone()
    labeler, maps = labeler_with_maps("anchor_query", ANCHORS, batch)
    distance, share = labeler.evidence(maps, batch, DONE)[0]
    distances = maps.instance[-1][0]
    assert torch.equal(distance.values, distances.min(dim=0).values)
    winner = distances.argmin(dim=0, keepdim=True)
    assert torch.allclose(share.values, (-distances / maps.temperature).softmax(dim=0).gather(0, winner)[0])


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_distance_of_an_assignment_step_belongs_to_the_target_that_it_gave(assignment):
    """0 at the points of labelled cells; along paths, the least one of the class unless transport moves a pixel on."""
    batch = batch_of()
    labels, evidence = explained("oracle_semantics", {"assignment": assignment}, batch)
    nearest = explained("oracle_semantics", {"assignment": "geodesic"}, batch)[1]
    for label, (each,), (geodesic,), points, size in zip(labels, evidence, nearest, POINTS, SIZES, strict=True):
        values = each.values
        inside = label.segment_ids[: size[0], : size[1]]
        for (x, y), target in zip(points.xy.tolist(), points.target.tolist(), strict=True):
            if inside[y, x] == target + 1:
                row, column = y * values.shape[0] // size[0], x * values.shape[1] // size[1]
                assert values[row, column] == 0 or torch.isinf(values[row, column])  # the cell's centre may be void
        if assignment == "transport":
            both = torch.isfinite(values)
            assert torch.equal(both, torch.isfinite(geodesic.values))
            assert (values >= geodesic.values - 1e-6)[both].float().mean() > 0.98  # pixels between cells may differ


def test_paths_are_those_of_the_assignment_step():
    torch.manual_seed(4)
    size, points = SIZES[0], POINTS[0]
    classes = torch.randint(0, 4, size)
    image = ClassifiedImage(torch.rand(3, *size), classes, torch.rand(3, *size), points)
    split = InstanceSplit("geodesic", lambda_edge=0.3)
    distances = resample(split.path_distances([image])[0], size, size, size)
    assert torch.equal(assign(distances, size, points.classes, classes), split.segments([image])[0])


def test_the_step_cost_is_the_mean_over_the_neighbours_inside():
    costs = torch.rand(4, 5, 8)
    expected = torch.zeros(4, 5)
    offsets = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    for row in range(4):
        for column in range(5):
            inside = [k for k, (r, c) in enumerate(offsets) if 0 <= row + r < 4 and 0 <= column + c < 5]
            expected[row, column] = costs[row, column, inside].mean()
    assert torch.allclose(step_cost(costs), expected)
    assert step_cost(torch.rand(1, 1, 8)).tolist() == [[0.0]]


def test_extremes_over_no_target_are_infinite():
    maps = torch.rand(3, 2, 4)
    assert torch.equal(least(maps), maps.min(dim=0).values) and torch.equal(largest(maps), maps.max(dim=0).values)
    assert all(torch.isinf(found(maps[:0])).all() and found(maps[:0]).shape == (2, 4) for found in (least, largest))


def test_the_valid_part_of_a_map_reads_no_padding():
    inside = torch.rand(2, 8, 12)
    padded = F.pad(inside, (0, 4, 0, 2), value=1e6)
    assert torch.allclose(valid_part(padded, (64, 96), (80, 128)), inside, atol=1e-5)
    assert torch.equal(valid_part(inside, (64, 96), (64, 96)), inside)
    assert valid_part(padded, (3, 5), (80, 128)).shape == (2, 1, 1)


def test_the_distance_to_an_owner_is_read_at_the_centres_of_cells():
    distances = torch.rand(3, 4, 6)
    ids = torch.randint(0, 4, (4, 6))
    found = distance_to_owner(distances, ids.repeat_interleave(5, 0).repeat_interleave(3, 1))
    for row in range(4):
        for column in range(6):
            owner = int(ids[row, column])
            assert found[row, column] == (distances[owner - 1, row, column] if owner else torch.inf)


class Told(PseudoLabeler):
    """Says what it was called with."""

    def predict_maps(self, features, batch):
        return "maps"

    def pseudo_labels(self, maps, batch, progress):
        return batch.targets

    def losses(self, maps, labels, batch, progress):
        return {}

    def evidence(self, maps, batch, progress):
        self.told = (maps, progress, torch.is_grad_enabled())
        return [[Evidence("m", "a", "b", torch.zeros(grid_size(size, None)))] for size in batch.sizes]


def test_a_model_gives_evidence_when_asked_and_only_then():
    labeler = Told(categories(), 16)
    model = PanopticModel(categories(), torch.nn.Identity(), None, labeler)
    batch = batch_of()
    assert model.label(batch).evidence == () and not hasattr(labeler, "told")
    found = model.label(batch, list(SIZES), with_evidence=True)
    assert [[each.name for each in maps] for maps in found.evidence] == [["m"], ["m"]]
    assert labeler.told == ("maps", DONE, False)


def test_a_labeler_says_nothing_unless_it_is_written():
    assert PseudoLabeler.evidence(Told(categories(), 16), "maps", batch_of(), DONE) == [[], []]
