"""The modules of Point2Mask on their own: costs, unit numbers, boundary loss, structured edges."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from scipy.special import expit

from methods.base.types import PseudoLabels
from methods.ops.assignment import DistanceScale
from methods.ops.geodesic import NEIGHBOURS, batched_geodesic_distances
from methods.point2mask.boundary import boundary_loss, boundary_losses, boundary_losses_plain
from methods.point2mask.cost import path_costs, supply_costs
from methods.point2mask.low_boundary import StructuredEdges, structured_edge_detector, structured_edges
from methods.point2mask.transport_labels import claimed_segments, sure_segments_plain
from methods.point2mask.units import (
    Counting,
    Market,
    centroid_sources,
    centroids,
    equal_counts,
    likeliest_owners,
    nearest_owners,
    owned_counts,
    region_sums_plain,
    unit_numbers,
)


def everywhere(owners):
    return torch.ones_like(owners, dtype=torch.bool)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_a_step_costs_what_eq_3_says():
    torch.manual_seed(0)
    probs, high, low = torch.rand(3, 5, 6), torch.rand(5, 6), torch.rand(5, 6)
    embedding = F.normalize(torch.randn(4, 5, 6), dim=0)
    costs = path_costs(probs, high, low, embedding, beta=0.3, lambda_manifold=0.2)
    for row, col, k in ((0, 0, 7), (2, 3, 1), (4, 5, 0), (3, 1, 5)):
        there = (row + NEIGHBOURS[k][0], col + NEIGHBOURS[k][1])
        expected = (probs[:, row, col] - probs[:, *there]).abs().sum()
        expected += 0.3 * max(high[row, col], high[there]) + 0.3 * max(low[row, col], low[there])
        expected += 0.2 * max(0.0, 1 - float(embedding[:, row, col] @ embedding[:, *there]))
        assert float(costs[row, col, k]) == pytest.approx(float(expected), rel=1e-5)


def test_a_map_that_is_not_given_costs_nothing():
    probs, strength = torch.rand(2, 4, 4), torch.rand(4, 4)
    torch.testing.assert_close(path_costs(probs, high=strength), path_costs(probs, low=strength))
    assert (path_costs(probs, high=strength) >= path_costs(probs)).all()
    assert (path_costs(torch.zeros(0, 3, 4)) == 0).all()


def test_supply_costs_are_sums_or_shares_of_their_maximum():
    distances = torch.tensor([[[0.0, 2.0]], [[torch.inf, torch.inf]]])
    scale = DistanceScale(missing=4.0, epsilon=1e-5)
    assert supply_costs(distances, scale).tolist() == [[[0.0, 2.0]], [[4.0, 4.0]]]
    torch.testing.assert_close(supply_costs(distances, scale, normalise=True).max(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert supply_costs(torch.zeros(0, 2, 2), normalise=True).shape == (0, 2, 2)


# --- unit numbers -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**16))
def test_counts_are_not_negative_and_sum_to_the_consumers(suppliers, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    owners = torch.randint(suppliers, (height, width), generator=generator)
    consumers = torch.rand(height, width, generator=generator) < 0.6
    counts = owned_counts(owners, consumers, suppliers)
    assert (counts >= 0).all() and counts.sum() == consumers.sum()
    assert counts.tolist() == [int(((owners == i) & consumers).sum()) for i in range(suppliers)]
    sums = region_sums_plain(owners, consumers, suppliers)
    assert torch.equal(sums[:, 0], counts)
    centres = torch.where(counts[:, None] > 0, sums[:, 1:] / counts[:, None].clamp(min=1), -1).long()
    assert torch.equal(centres, centroids(owners, consumers, suppliers))
    equal = equal_counts(consumers, suppliers)
    assert float(equal.sum()) == pytest.approx(int(consumers.sum()), rel=1e-5) and (equal == equal[0]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 2**16))
def test_centroids_are_centres_of_mass_rounded_down(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    owners = torch.randint(3, (height, width), generator=generator)
    consumers = torch.rand(height, width, generator=generator) < 0.7
    found = centroids(owners, consumers, 4)
    for index in range(4):
        region = ((owners == index) & consumers).numpy()
        expected = np.floor(np.round(center_of_mass(region), 9)) if region.any() else (-1, -1)
        assert found[index].tolist() == list(expected)


def test_owners_are_the_nearest_or_the_likeliest():
    distances = torch.tensor([[[0.0, 1.0, 4.0]], [[4.0, 2.0, 0.0]], [[torch.inf] * 3]])
    assert nearest_owners(distances, (1, 3)).tolist() == [[0, 0, 1]]
    weights = torch.tensor([[[1.0, 0.1, 1.0]], [[1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]])
    assert likeliest_owners(distances, weights).tolist() == [[0, 1, 1]]
    none = torch.zeros(0, 1, 3)
    assert (nearest_owners(none, (1, 3)) == -1).all() and (likeliest_owners(none, none) == -1).all()
    assert owned_counts(nearest_owners(none, (1, 3)), torch.ones(1, 3).bool(), 0).shape == (0,)


def test_an_empty_region_keeps_its_points_and_a_target_without_either_has_no_source():
    owners = torch.zeros(8, 8, dtype=torch.int64)
    points = [torch.tensor([[1, 1]]), torch.tensor([[6, 2], [7, 7]]), torch.zeros(0, 2, dtype=torch.int64)]
    for gate in (False, True):
        sources = centroid_sources(owners, everywhere(owners), points, (4, 4), gate)
        assert sources[0].tolist() == [[1, 1]] and sources[1].tolist() == [[1, 3], [3, 3]] and sources[2].shape == (0, 2)


def test_the_gate_wants_the_point_in_its_region():
    owners = torch.zeros(9, 9, dtype=torch.int64)
    owners[2:7, 2:7] = 1
    elsewhere = [torch.tensor([[0, 0]]), torch.tensor([[8, 8]])]
    assert centroid_sources(owners, everywhere(owners), elsewhere, (9, 9), gate=False)[1].tolist() == [[4, 4]]
    assert centroid_sources(owners, everywhere(owners), elsewhere, (9, 9), gate=True)[1].tolist() == [[8, 8]]
    one_of_two = [torch.tensor([[0, 0]]), torch.tensor([[8, 8], [2, 2]])]
    assert centroid_sources(owners, everywhere(owners), one_of_two, (9, 9), gate=True)[1].tolist() == [[4, 4]]


def test_more_centroid_iterations_move_two_off_centre_points_to_the_true_sizes():
    """Two flat regions with a ridge between them. Both points are left of the ridge, so that the first split is wrong."""
    high = torch.zeros(24, 48)
    high[:, 16] = 1.0
    probs = torch.zeros(1, 24, 48)
    costs = path_costs(probs, high=high + 0.01, beta=1.0)
    points = [torch.tensor([[1, 12]]), torch.tensor([[15, 12]])]
    market = Market(points, torch.ones(24, 48, dtype=torch.bool))
    distances = batched_geodesic_distances([costs], [[torch.tensor([[12, 1]]), torch.tensor([[12, 15]])]])
    truth = 24 * 16
    errors = []
    for iterations in (0, 1, 4, 8):
        (counts,), _ = unit_numbers([market], [costs], distances, Counting("centroid", iterations))
        assert counts.sum() == 24 * 48
        errors.append(abs(float(counts[0]) - truth))
    assert errors[1] < errors[0] and errors[-1] <= 48


def test_nearest_units_are_the_sizes_of_the_argmin_regions_whatever_the_rule():
    torch.manual_seed(0)
    distances, costs = torch.rand(3, 4, 6), torch.rand(4, 6, 8)
    market = Market([torch.zeros(1, 2).long()] * 3, torch.ones(8, 12).bool(), torch.rand(3, 8, 12))
    (counts,), (same,) = unit_numbers([market], [costs], [distances], Counting("nearest", rule="likelihood"))
    argmin = F.interpolate(distances[None], size=(8, 12), mode="bilinear")[0].argmin(0)
    assert counts.tolist() == torch.bincount(argmin.flatten(), minlength=3).tolist() and same is distances


def test_an_image_without_suppliers_has_no_units():
    market = Market([], torch.ones(8, 12).bool())
    for units in ("equal", "nearest", "centroid"):
        (counts,), _ = unit_numbers([market], [torch.rand(4, 6, 8)], [torch.zeros(0, 4, 6)], Counting(units))
        assert counts.shape == (0,)


# --- segments ---------------------------------------------------------------------------------------------------------


def test_claimed_stuff_is_void_where_its_class_is_unlikely():
    costs = torch.tensor([[[0.0, 1.0, 1.0]], [[0.5, 0.5, 0.5]]])  # the thing owns pixel 0, the stuff pixels 1 and 2
    offsets = torch.tensor([0.0, 0.25])
    probs = torch.tensor([[[0.1, 0.7, 0.2]], [[0.9, 0.3, 0.8]]])
    rows, is_thing = torch.tensor([0, 1]), torch.tensor([True, False])
    assert claimed_segments(costs, offsets, probs, rows, is_thing, 0.5).tolist() == [[1, 0, 2]]
    assert claimed_segments(costs, offsets, probs, rows, is_thing, 0.0).tolist() == [[1, 2, 2]]
    assert (claimed_segments(costs[:0], offsets[:0], probs[:0], rows[:0], is_thing[:0], 0.5) == 0).all()


def test_the_compiled_pass_over_the_owners_equals_the_plain_one():
    torch.manual_seed(1)
    costs, offsets, probs = torch.rand(5, 6, 7), torch.rand(5) / 2, torch.rand(3, 12, 14)
    rows, is_thing = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([True, True, True, False, False])
    segments = claimed_segments(costs, offsets, probs, rows, is_thing, 0.5)
    owners = claimed_segments(costs, offsets, probs, rows, is_thing, 0.0) - 1
    assert torch.equal(segments, sure_segments_plain(owners, probs, rows, is_thing, 0.5))
    assert (segments == 0).any() and len(segments.unique()) > 3


# --- boundary loss ----------------------------------------------------------------------------------------------------


def labels_of(segment_ids, is_thing, ignore=None):
    classes = torch.arange(len(is_thing))
    size = tuple(segment_ids.shape)
    return PseudoLabels.from_segment_ids(segment_ids, classes, torch.tensor(is_thing), size, ignore=ignore)


def brute_force(logits, labels):
    """Eq. 7 pair by pair, both directions."""
    strength, ids = expit(logits.double().numpy()), labels.segment_ids.numpy()
    thing = np.concatenate([[False], labels.is_thing.numpy()])
    height, width = ids.shape
    found = {"thing": [], "stuff": [], "negative": []}
    for row in range(height):
        for col in range(width):
            for down, right in NEIGHBOURS:
                i, j = row + down, col + right
                if not (0 <= i < height and 0 <= j < width) or labels.ignore[row, col] or labels.ignore[i, j]:
                    continue
                k, m, affinity = ids[row, col], ids[i, j], 1 - max(strength[row, col], strength[i, j])
                if k == m and k > 0:
                    found["thing" if thing[k] else "stuff"].append(-np.log(affinity + 1e-5))
                elif k != m and (thing[k] or thing[m] or (k > 0 and m > 0)):
                    found["negative"].append(-np.log(1 + 1e-5 - affinity))
    thing_mean, stuff_mean, negative_mean = (sum(v) / (len(v) + 1e-5) for v in found.values())
    return thing_mean / 2 + stuff_mean / 2 + negative_mean


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16))
def test_the_boundary_loss_equals_a_loop_over_pairs(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(height, width, generator=generator)
    ids = torch.randint(5, (height, width), generator=generator)
    ignore = torch.rand(height, width, generator=generator) < 0.2
    labels = labels_of(ids, [True, True, False, False], ignore)
    assert float(boundary_loss(logits[None], [labels])) == pytest.approx(brute_force(logits, labels), rel=1e-4, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_counting_by_pixels_equals_going_through_the_pairs(seed, height, width):
    """Values and gradients, with ties (whose gradient both ends share), void and ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, (2, height, width), generator=generator)
    ignore = torch.rand(2, height, width, generator=generator) < 0.2
    labels = [labels_of(each, [True, True, False], unknown) for each, unknown in zip(ids, ignore, strict=True)]
    if seed % 4 == 0:
        labels[1] = labels_of(torch.zeros_like(ids[1]), [], torch.ones_like(ignore[1]))
    strength = (torch.randint(1, 10, (2, height, width), generator=generator) / 10).requires_grad_()
    weights = torch.tensor([1.0, 2.0])
    found, expected = boundary_losses(strength, labels), boundary_losses_plain(strength, labels)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((each * weights).sum(), strength)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_unsure_pixels_are_no_boundary_to_stuff_but_are_one_to_things():
    ids = torch.tensor([[0, 1]])
    logits = torch.zeros(1, 1, 2)
    assert boundary_loss(logits, [labels_of(ids, [False])]) == 0
    assert float(boundary_loss(logits, [labels_of(ids, [True])])) == pytest.approx(-np.log(0.5), rel=1e-4)


def test_the_boundary_loss_is_the_mean_over_images_and_ignores_unknown_ones():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 6)
    known = labels_of(torch.randint(3, (6, 6)), [True, False])
    nothing = labels_of(torch.zeros(6, 6).long(), [], torch.ones(6, 6).bool())
    alone = boundary_loss(logits[:1], [known])
    torch.testing.assert_close(boundary_loss(logits, [known, nothing]), alone / 2)
    assert boundary_loss(logits[1:], [nothing]) == 0


def test_the_boundary_loss_learns_the_boundary():
    ids = torch.ones(16, 16, dtype=torch.int64)
    ids[:, 8:] = 2
    labels, logits = labels_of(ids, [True, False]), torch.zeros(1, 16, 16, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        boundary_loss(logits, [labels]).backward()
        optimizer.step()
    strength = torch.sigmoid(logits.detach())[0]
    assert torch.maximum(strength[:, 7], strength[:, 8]).min() > 0.6
    assert strength[:, :6].max() < 0.2 and strength[:, 10:].max() < 0.2


# --- structured edges -------------------------------------------------------------------------------------------------


class FakeDetector:
    """Returns the first channel, so that the channel order shows; thinning halves it."""

    def detectEdges(self, pixels):
        assert pixels.dtype == np.float32 and pixels.flags["C_CONTIGUOUS"] and pixels.shape[2] == 3
        return pixels[..., 0]

    def computeOrientation(self, edges):
        return np.zeros_like(edges)

    def edgesNms(self, edges, orientation):
        return edges / 2


@pytest.fixture
def contributed(monkeypatch, tmp_path):
    """A stand-in for OpenCV's contributed modules, and a model file."""
    structured_edge_detector.cache_clear()
    fake = type("ximgproc", (), {"createStructuredEdgeDetection": staticmethod(lambda path: FakeDetector())})
    monkeypatch.setattr(cv2, "ximgproc", fake, raising=False)
    model = tmp_path / "model.yml.gz"
    model.touch()
    yield str(model)
    structured_edge_detector.cache_clear()


def test_structured_edges_see_the_channels_in_the_order_that_is_asked_for(contributed):
    image = torch.stack([torch.full((4, 5), v) for v in (0.2, 0.4, 0.6)])
    for options, expected in (({}, 0.2), ({"bgr": True}, 0.6), ({"thinned": True}, 0.1)):
        edges = structured_edges(image, StructuredEdges(contributed, **options))
        torch.testing.assert_close(edges, torch.full((4, 5), expected))


def test_structured_edges_without_their_model_say_what_is_missing(contributed):
    for model in (None, "/nonexistent/model.yml.gz"):
        with pytest.raises(ValueError, match=r"structured_edges\.model is (null|/nonexistent).*sobel"):
            structured_edges(torch.zeros(3, 4, 4), StructuredEdges(model))


def test_structured_edges_without_opencv_contrib_say_what_to_install(monkeypatch, tmp_path):
    structured_edge_detector.cache_clear()
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    model = tmp_path / "model.yml.gz"
    model.touch()
    with pytest.raises(ValueError, match="opencv-contrib-python"):
        structured_edges(torch.zeros(3, 4, 4), StructuredEdges(str(model)))
