"""Assignment steps: who gets which pixels of a class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.ops.instance_split import ASSIGNMENTS, ClassifiedImage, InstanceSplit, class_markets, nearest_segments
from methods.ops.unit_transport import Solver
from tests.methods.stand_ins import point_labels

CONVERGED = Solver("converged", 1e-3, resolution="full")


def classified(classes, points, rgb=None, padded=None):
    rgb = torch.full((3, *(padded or classes.shape)), 0.5) if rgb is None else rgb
    probs = (classes == torch.unique(points.classes)[:, None, None]).float()
    return ClassifiedImage(rgb, classes, probs, points)


def segments(image, *args, **options):
    return InstanceSplit(*args, **options).segments([image])[0]


def bar(texture=0.0):
    """A bar of class 0 above ground of class 2; an edge splits it at column 20, one point is in each part."""
    torch.manual_seed(0)
    classes = torch.full((24, 64), 2)
    classes[4:16] = 0
    rgb = torch.full((3, 24, 64), 0.2)
    rgb[:, :, 20:] = 0.8
    rgb += texture * torch.rand(24, 64)
    return classified(classes, point_labels([(16, 9, 0), (40, 9, 1), (5, 20, 2)], [0, 0, 2]), rgb)


def shares(ids):
    return [int((ids[4:16] == i).any(dim=0).sum()) for i in (1, 2)]


def test_nearest_splits_half_way_and_paths_at_the_edge():
    image = bar()
    assert shares(segments(image, "nearest")) == [29, 35]  # the lower target has the tie
    ids = segments(image, "geodesic", lambda_edge=1.0, stride=1)
    assert abs(shares(ids)[0] - 20) <= 2 and sum(shares(ids)) in (64, 65, 66)


def test_transport_gives_each_target_its_number_of_pixels_along_paths():
    image = bar(texture=0.2)  # without texture all pixels beyond the edge cost the same, and none of them is decided
    units = [int(u) for u in class_markets(image)[0][1]]
    assert units == [29 * 12, 35 * 12]
    ids = segments(image, "transport", lambda_edge=1.0, stride=1, solver=CONVERGED)
    counts = [int((ids == i).sum()) for i in (1, 2)]
    assert sum(counts) == 64 * 12 and abs(counts[0] - units[0]) <= 12
    geodesic = segments(image, "geodesic", lambda_edge=1.0, stride=1)
    assert int((geodesic == 1).sum()) < units[0] - 60
    # the plan moves the border from the edge towards the middle: what geodesics give to target 0 it keeps
    assert (ids[geodesic == 1] == 1).all() and not torch.equal(ids, geodesic)


def test_a_plan_is_the_one_that_linear_programming_finds():
    """Total cost of the labels is that of scipy's optimum, up to the pixels that entropy leaves undecided."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    torch.manual_seed(0)
    classes = torch.zeros(8, 10, dtype=torch.int64)
    image = classified(classes, point_labels([(1, 1, 0), (3, 6, 1), (8, 2, 2)], [0, 0, 0]), torch.rand(3, 8, 10))
    split = InstanceSplit("transport", 1.0, stride=1, solver=Solver("converged", 1e-4, resolution="full"))
    (costs,) = split.path_distances([image])
    ((_, units, _),) = class_markets(image)
    n, m = 3, 80
    rows = torch.block_diag(*[torch.ones(1, m)] * n)
    columns = torch.eye(m).repeat(1, n)
    optimum = linprog(
        costs.flatten(), A_eq=torch.cat([rows, columns]), b_eq=torch.cat([units, torch.ones(m, dtype=torch.float64)])
    )
    ids = split.segments([image])[0]
    found = costs.gather(0, ids[None] - 1).sum()
    counts = torch.bincount(ids.flatten(), minlength=4)[1:]
    undecided = (counts - units).abs().sum()
    assert undecided <= 4 and abs(float(found) - optimum.fun) <= float(undecided + 1) * float(costs.max()) * 0.5
    cheapest = costs.amin(dim=0).sum()
    assert optimum.fun > float(cheapest) + 0.1  # units bind


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_pixel_goes_to_a_target_of_its_class_or_to_none(assignment, data):
    height, width = data.draw(st.integers(6, 20)), data.draw(st.integers(6, 20))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    count = data.draw(st.integers(1, 5))
    target_classes = [data.draw(st.integers(0, 3)) for _ in range(count)]
    places = [
        (data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, count - 1)))
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    points = point_labels(places, target_classes)
    classes = torch.randint(-1, 4, (height, width), generator=generator)
    image = classified(classes, points, torch.rand(3, height + 3, width + 5, generator=generator))
    ids = segments(image, assignment, stride=2)
    labelled = set(points.point_classes.tolist())
    assert ids.shape == classes.shape and ids.dtype == torch.int64
    assert torch.equal(ids > 0, torch.isin(classes, torch.tensor(sorted(labelled))))
    assert torch.equal(points.classes[ids[ids > 0] - 1], classes[ids > 0])
    assert set(ids.unique().tolist()) <= {0} | {t + 1 for t in points.target.tolist()}


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_images_do_not_depend_on_their_neighbours_or_their_padding(assignment):
    torch.manual_seed(0)
    first = bar()
    other = classified(torch.zeros(16, 16, dtype=torch.int64), point_labels([(3, 3, 0), (12, 12, 1)], [0, 0]))
    split = InstanceSplit(assignment)
    together = split.segments([first, other])
    for image, ids in zip((first, other), together, strict=True):
        assert torch.equal(split.segments([image])[0], ids)
    empty = classified(torch.full((6, 6), -1), point_labels([], []))
    assert (segments(empty, assignment) == 0).all()


def test_markets_have_as_many_units_as_pixels():
    points = point_labels([(2, 2, 0), (9, 9, 1), (5, 5, 3), (1, 9, 4)], [0, 0, 0, 1, 2])  # target 2 lost its points
    torch.manual_seed(0)
    image = classified(torch.randint(-1, 4, (12, 12)), points)
    ((targets, units, pixels),) = class_markets(image)
    assert targets.tolist() == [0, 1] and units.sum() == pixels.sum()
    assert torch.equal(pixels, image.classes == 0)
    assert units.tolist() == [int((nearest_segments(image) == i).sum()) for i in (1, 2)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: InstanceSplit("euclidean"), "no assignment 'euclidean'; it is one of nearest, geodesic, transport"),
        (lambda: Solver("newton"), "Transport has no name 'newton'; it is one of sinkhorn, converged"),
        (lambda: Solver(resolution="half"), "Transport has no resolution 'half'"),
    ],
)
def test_an_unknown_word_lists_the_known_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()
