"""The numeric checks of Point2Mask. Each test carries the number of its check; transport and tree filter have their own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods import method_class
from methods.base.semantic_branch import SemanticMaps
from methods.base.types import Progress, PseudoLabels
from methods.ops.geodesic import NEIGHBOURS, geodesic_distances
from methods.ops.transport import sinkhorn
from methods.point2mask.boundary import boundary_loss
from methods.point2mask.cost import path_costs
from methods.point2mask.labeler import Point2MaskMaps
from methods.point2mask.transport_labels import Solver, transport_offsets, transported_owners
from methods.point2mask.tree_loss import color_tree_loss
from methods.point2mask.units import centroid_sources
from tests.methods.stand_ins import categories, point_batch, point_labels

COSTS = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.45, 0.3, 0.25, 0.1, 0.0]])


def decoded(costs, supply, solver=Solver(resolution="full")):
    """Suppliers of the pixels of one row, by offsets."""
    grid = costs[:, None]
    (offsets,) = transport_offsets([grid], [torch.tensor(supply)], [torch.ones(1, costs.shape[1]).bool()], solver)
    return transported_owners(grid, offsets, (1, costs.shape[1]))[0]


# --- checks 2, 3, 5 and 6: decoding by offsets -------------------------------------------------------------------------


@pytest.mark.parametrize("supply, expected", [((3.0, 3.0), "000111"), ((4.0, 2.0), "000011"), ((5.0, 1.0), "000011")])
def test_checks_2_and_3_labels_by_offsets(supply, expected):
    assert "".join(map(str, decoded(COSTS, supply).tolist())) == expected


@pytest.mark.parametrize("supply, expected", [((4.0, 2.0), "000011"), ((5.0, 1.0), "000001")])
def test_check_3_converged(supply, expected):
    assert "".join(map(str, decoded(COSTS, supply, Solver("converged", resolution="full")).tolist())) == expected


@pytest.mark.parametrize("seed", range(5))
def test_check_6_the_argmax_of_the_plan_is_the_argmin_of_cost_minus_offset(seed):
    costs = torch.from_numpy(np.random.default_rng(seed).random((4, 200))).float()
    supply = torch.full((4,), 50.0)
    plan = sinkhorn(costs.double(), supply.double(), torch.ones(200).double()).plan()
    found = decoded(costs, supply.tolist())
    assert (plan.argmax(dim=0) == found).float().mean() > 0.99  # float32 against float64


def test_check_5_pixels_without_demand_do_not_matter():
    costs = torch.rand(3, 2, 10, generator=torch.Generator().manual_seed(0))
    wanted = torch.ones(2, 10).bool()
    wanted[:, 6:] = False
    changed = costs.clone()
    changed[:, :, 6:] = 7.0
    solver = Solver(resolution="full")
    supply = torch.tensor([2.0, 4.0, 6.0])
    found, same = (transport_offsets([c], [supply], [wanted], solver)[0] for c in (costs, changed))
    torch.testing.assert_close(found, same)


# --- check 10 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalizer", ["all", "unlabelled"])
def test_check_10_the_tree_loss_of_constant_probabilities_is_zero(normalizer):
    torch.manual_seed(0)
    images = [0.5 + torch.rand(3, 64, 96) / 20, 0.5 + torch.rand(3, 80, 64) / 20]
    batch = point_batch(images, [point_labels([(5, 5, 0)], [0])] * 2)
    logits = [torch.tensor([0.3, -1.0, 2.0, 0.0])[None, :, None, None].expand(2, 4, 10, 12)]
    assert float(color_tree_loss(logits, batch, normalizer=normalizer)) < 1e-4
    assert float(color_tree_loss([torch.randn(2, 4, 10, 12)], batch, normalizer=normalizer)) > 0.05


# --- checks 11 and 12 -------------------------------------------------------------------------------------------------


def one_stuff_label(strength):
    logit = math.log(strength / (1 - strength)) if strength else -200.0
    labels = PseudoLabels.from_segment_ids(torch.ones(4, 4).long(), torch.tensor([0]), torch.tensor([False]), (4, 4))
    return float(boundary_loss(torch.full((1, 4, 4), logit), [labels]))


def test_check_11_one_stuff_label_with_the_frame_masked():
    assert one_stuff_label(0.2) == pytest.approx(0.111572, abs=1e-5)


def two_halves(is_thing):
    ids = torch.ones(4, 4, dtype=torch.int64)
    ids[:, 2:] = 2
    return PseudoLabels.from_segment_ids(ids, torch.tensor([0, 1]), torch.tensor(is_thing), (4, 4))


def test_check_12_no_boundary_anywhere():
    assert one_stuff_label(0.0) == pytest.approx(-0.5e-5, abs=1e-6)
    for is_thing in ([True, True], [False, False], [True, False]):
        loss = float(boundary_loss(torch.full((1, 4, 4), -200.0), [two_halves(is_thing)]))
        assert loss == pytest.approx(11.5129, abs=1e-4)


def test_check_12_an_image_without_things_does_not_fail():
    nothing = PseudoLabels.from_segment_ids(torch.zeros(4, 4).long(), torch.zeros(0).long(), torch.zeros(0).bool(), (4, 4))
    assert float(boundary_loss(torch.zeros(1, 4, 4), [nothing])) == 0


# --- checks 13 to 15 --------------------------------------------------------------------------------------------------


def test_check_13_the_gate_keeps_the_point_of_a_c_and_moves_that_of_a_disc():
    rows, cols = torch.meshgrid(torch.arange(40), torch.arange(80), indexing="ij")
    ring = (rows - 20) ** 2 + (cols - 20) ** 2
    owners = torch.zeros(40, 80, dtype=torch.int64)
    owners[(ring <= 15**2) & (ring >= 10**2) & (cols < 24)] = 1  # a C whose centroid is in its opening
    owners[(rows - 20) ** 2 + (cols - 60) ** 2 <= 12**2] = 2
    points = [torch.tensor([[40, 2]]), torch.tensor([[8, 20]]), torch.tensor([[52, 20]])]
    everything = torch.ones(40, 80, dtype=torch.bool)
    gated = centroid_sources(owners, everything, points, (40, 80), gate=True)
    assert gated[1].tolist() == [[20, 8]] and gated[2].tolist() == [[20, 60]]
    taken = centroid_sources(owners, everything, points, (40, 80), gate=False)
    assert taken[1].tolist() != [[20, 8]] and owners[tuple(taken[1][0])] == 0


@pytest.mark.parametrize("suppliers, units", [("things", "centroid"), ("things", "equal"), ("all", "centroid")])
def test_check_14_units_sum_to_the_consumers(suppliers, units, monkeypatch):
    import methods.point2mask.labeler as module

    seen = []

    def recorded(costs, supplies, consumers, solver):
        seen.append((supplies, consumers))
        return transport_offsets(costs, supplies, consumers, solver)

    monkeypatch.setattr(module, "transport_offsets", recorded)
    labeler = method_class("point2mask")(
        categories(), 16, layers=1, heads=4, feedforward=16, suppliers=suppliers, units=units, lambda_manifold=0.0
    )
    torch.manual_seed(0)
    maps = Point2MaskMaps(SemanticMaps([3 * torch.randn(1, 4, 8, 12)], []), torch.randn(1, 8, 12), None)
    batch = point_batch(
        [torch.rand(3, 64, 96)], [point_labels([(5, 5, 0), (60, 30, 1), (90, 60, 2), (30, 50, 3)], [0, 1, 2, 0])]
    )
    things = int((labeler._semantics(maps, batch, 0).pixel_classes().clamp(min=-1) % 4 < 2).sum())
    void = int((labeler._semantics(maps, batch, 0).pixel_classes() == -1).sum())
    for progress, expected in (
        (Progress(0, 100), 64 * 96),
        (Progress.finished(), 64 * 96 if suppliers == "all" else things),
    ):
        labeler.pseudo_labels(maps, batch, progress)
        (supply,), (consumers,) = seen.pop()
        assert float(supply.sum()) == pytest.approx(expected, rel=1e-5) and int(consumers.sum()) == expected
        assert (supply >= 0).all()
    assert 0 < things < 64 * 96 and void > 0


def swapped(costs):
    """The cost of every step in the opposite direction; the steps that leave the grid are left out."""
    height, width = costs.shape[:2]
    there, back = [], []
    for row in range(height):
        for col in range(width):
            for k, (down, right) in enumerate(NEIGHBOURS):
                if 0 <= row + down < height and 0 <= col + right < width:
                    there.append(costs[row, col, k])
                    back.append(costs[row + down, col + right, 7 - k])
    return torch.stack(there), torch.stack(back)


def test_check_15_only_the_directed_low_level_term_changes_when_a_step_is_reversed():
    torch.manual_seed(0)
    probs, strength = torch.rand(3, 5, 6), torch.rand(5, 6)
    embedding = F.normalize(torch.randn(4, 5, 6), dim=0)
    flat = torch.zeros(3, 5, 6)
    for terms in ({"probs": probs}, {"high": strength}, {"low": strength}, {"embedding": embedding}):
        torch.testing.assert_close(*swapped(path_costs(**{"probs": flat, **terms})))
    there, back = swapped(path_costs(flat, low=strength, low_directed=True))
    assert not torch.allclose(there, back)


def test_distances_pass_a_boundary_once_in_each_direction():
    """On a path of three cells with a boundary of 0.9 in the middle both steps at it cost β 0.9 (Point2Mask Eq. 2-3)."""
    costs = path_costs(torch.zeros(1, 1, 3), high=torch.tensor([[0.0, 0.9, 0.0]]), beta=0.1)
    np.testing.assert_allclose(geodesic_distances(costs, [np.array([[0, 0]])])[0], [[0, 0.09, 0.18]], atol=1e-6)
