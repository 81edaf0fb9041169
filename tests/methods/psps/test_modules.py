import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.base.embedding import contrastive_loss, segment_prototypes
from methods.ops.assignment import (
    DistanceScale,
    class_compatibility,
    distance_likelihood,
    likeliest_instances,
    panoptic_segments,
)
from methods.psps.traversing import traversing_costs


def test_the_cost_is_the_weighted_sum_of_its_terms():
    torch.manual_seed(0)
    probs, edges, embedding = torch.rand(3, 5, 6), torch.rand(5, 6), F.normalize(torch.randn(4, 5, 6), dim=0)
    semantic = traversing_costs(probs, None, None)
    edge = traversing_costs(probs, edges, None, lambda_semantic=0, lambda_edge=1)
    manifold = traversing_costs(probs, None, embedding, lambda_semantic=0, lambda_manifold=1)
    found = traversing_costs(probs, edges, embedding, 0.7, 0.2, 0.05)
    torch.testing.assert_close(found, 0.7 * semantic + 0.2 * edge + 0.05 * manifold)
    assert found.shape == (5, 6, 8) and found.min() >= 0
    assert min(float(term.max()) for term in (semantic, edge, manifold)) > 0


def test_no_class_and_no_edges_cost_nothing():
    assert (traversing_costs(torch.zeros(0, 3, 4), None, None) == 0).all()


def test_likelihood_is_one_minus_the_distance_over_its_maximum():
    distances = torch.tensor([[[0.0, 2.0]], [[4.0, 1.0]]])
    likelihood = distance_likelihood(distances, (1, 2))
    torch.testing.assert_close(likelihood, torch.tensor([[[1.0, 0.5]], [[0.0, 0.75]]]), atol=1e-5, rtol=0)


def test_an_instance_without_a_point_is_at_a_constant_distance():
    distances = torch.tensor([[[0.0, 2.0]], [[torch.inf, torch.inf]]])
    likelihood = distance_likelihood(distances, (2, 4), DistanceScale(missing=5))
    assert likelihood.shape == (2, 2, 4) and torch.isfinite(likelihood).all()
    torch.testing.assert_close(likelihood[0, 0, -1], torch.tensor(1 - 2 / 5), atol=1e-5, rtol=0)
    assert likelihood[1].max() < 1e-5
    assert distance_likelihood(torch.zeros(0, 3, 3), (6, 6)).shape == (0, 6, 6)


@pytest.mark.parametrize("compatible", [True, False])
def test_the_likeliest_instance_has_the_largest_product(compatible):
    torch.manual_seed(0)
    distances, probs = torch.rand(4, 5, 7), torch.rand(3, 20, 28)
    distances[2] = torch.inf  # no labelled pixel
    present, is_stuff, classes = torch.tensor([1, 4, 6]), torch.tensor([False, False, True]), torch.tensor([4, 1, 4, 1])
    scale = DistanceScale(missing=0.4)
    found = likeliest_instances(distances, probs, present, is_stuff, classes, scale, compatible)
    product = distance_likelihood(distances, (20, 28), scale)
    if compatible:
        product = product * class_compatibility(probs, present, is_stuff, classes)
    assert set(found.flatten().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(product.gather(0, found[None])[0], product.max(dim=0).values)
    nothing = likeliest_instances(distances[:0], probs, present, is_stuff, classes[:0], scale, compatible)
    assert nothing.shape == (20, 28) and not nothing.any()


def test_segments_with_targets_in_any_order():
    classes, is_thing = torch.tensor([3, 0, 2, 1]), torch.tensor([False, True, False, True])
    instances = torch.tensor([[0, 1, 0, 0, 0]])
    pixel_classes = torch.tensor([[0, 0, 1, 2, -1]])
    # unsure stuff is void
    assert panoptic_segments(instances, pixel_classes, classes, is_thing).tolist() == [[2, 4, 2, 3, 0]]


def test_segments_without_things():
    found = panoptic_segments(torch.zeros(1, 3).long(), torch.tensor([[5, -1, 5]]), torch.tensor([5]), torch.tensor([False]))
    assert found.tolist() == [[1, 0, 1]]


def test_prototypes_are_weighted_means():
    torch.manual_seed(0)
    embedding, masks = torch.randn(4, 3, 5), torch.rand(2, 3, 5)
    for k, found in enumerate(segment_prototypes(embedding, masks)):
        expected = np.average(embedding.flatten(1).numpy(), axis=1, weights=masks[k].flatten().numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (segment_prototypes(embedding, torch.zeros(1, 3, 5)) == 0).all()


def test_contrastive_gradient_flows_into_pixels_and_prototypes():
    torch.manual_seed(0)
    raw = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    masks = torch.zeros(2, 3, 3, dtype=torch.float64)
    masks[0, 0], masks[1, 2] = 1, 1
    cells, target = torch.tensor([[0, 0], [2, 2]]), torch.tensor([0, 1])

    def loss(values):
        return contrastive_loss(F.normalize(values, dim=0), masks, cells, target, empty_slots=1)

    assert torch.autograd.gradcheck(loss, (raw,))
    loss(raw).backward()
    assert raw.grad[:, 0, 1].abs().sum() > 0  # reached through a prototype only
    assert raw.grad[:, 1].abs().sum() == 0  # in no segment


def test_contrastive_loss_without_points_is_a_zero_with_gradient():
    embedding = torch.randn(4, 2, 2, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = contrastive_loss(embedding, torch.zeros(0, 2, 2), none.view(0, 2), none)
    loss.backward()
    assert loss.item() == 0 and (embedding.grad == 0).all()


def test_contrastive_loss_equals_its_formula():
    torch.manual_seed(2)
    embedding, masks = F.normalize(torch.randn(6, 4, 4), dim=0), torch.rand(3, 4, 4)
    cells, target = torch.tensor([[0, 1], [3, 3], [2, 0]]), torch.tensor([1, 0, 2])
    prototypes = segment_prototypes(embedding, masks)
    terms = []
    for (row, col), own in zip(cells.tolist(), target.tolist(), strict=True):
        scores = torch.exp(torch.cat([prototypes @ embedding[:, row, col], torch.zeros(2)]) / 0.1)
        terms.append(-torch.log(scores[own] / scores.sum()))
    found = contrastive_loss(embedding, masks, cells, target, temperature=0.1, empty_slots=2)
    assert float(found) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
