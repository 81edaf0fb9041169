"""The numeric checks of AGMM that concern mixture, losses and the port. Each test carries the number of its check."""

import math

import pytest
import torch
import torch.nn.functional as F

from methods.agmm.losses import absent_class_loss, centre_contrast, label_mixture_loss, pooled_centres
from methods.agmm.mixture import (
    DISTANCES,
    adaptive_sigma,
    bernoulli_cross_entropy,
    class_distances,
    class_means,
    gaussian_maps,
    self_supervision_loss,
)
from methods.base.types import Progress
from tests.methods.agmm.scene import batch_of, small_agmm
from tests.methods.stand_ins import features_for

F64 = torch.float64
UNLABELLED = -1


def row(values):
    """(1, K, 1, pixels) maps from one list per pixel."""
    return torch.tensor(values, dtype=F64).T[None, :, None]


def pixels(values):
    """(D, 1, pixels) features from one list per pixel."""
    return torch.tensor(values, dtype=F64).T[:, None]


def value(number, tolerance=1e-6):
    return pytest.approx(number, abs=tolerance)


def test_check_1_centres_are_means_with_an_epsilon():
    features = pixels([[1, 3], [3, 5], [90, 90]])
    means = class_means(features, torch.tensor([[0, 0, UNLABELLED]]), 2)
    assert means.tolist() == [[value(2 * 2 / (2 + 1e-6), 1e-12), value(4 * 2 / (2 + 1e-6), 1e-12)], [0, 0]]
    for padding in (255, 2, UNLABELLED):  # whatever stands for "no label"
        assert torch.equal(means, class_means(features, torch.tensor([[0, 0, padding]]), 2))


def test_check_2_distance_and_gaussian_of_the_released_code():
    features, means = pixels([[1, 0, 0, 0]]), torch.tensor([[0, 1, 0, 0]], dtype=F64)
    present = torch.ones(1, dtype=torch.bool)
    distances = class_distances(features, means, present, "mean_absolute")
    assert distances.tolist() == [[[0.5]]]
    assert gaussian_maps(distances, 0.5**0.5).item() == value(0.778801)
    assert class_distances(features, means, present, "euclidean").item() == value(math.sqrt(2))
    assert class_distances(features, means, present, "cosine").item() == value(1)


def four_pixels():
    return torch.tensor([0, 0.2, 0.4, 1], dtype=F64)[None, None], torch.tensor([0.9, 0.6, 0.3, 0.2], dtype=F64)[None, None]


@pytest.mark.parametrize(("normalizer", "sigma"), [("mass", 0.368782), ("count", 0.260768)])
def test_check_3_adaptive_sigma(normalizer, sigma):
    distances, probs = four_pixels()
    assert adaptive_sigma(distances, probs, None, normalizer, epsilon=0).item() == value(sigma)


def test_check_3_gaussians_of_the_slides_and_of_the_code():
    distances, probs = four_pixels()
    slides = gaussian_maps(distances, adaptive_sigma(distances, probs, epsilon=0))
    assert slides.flatten().tolist() == [value(v) for v in (1, 0.863243, 0.555306, 0.025312)]
    assert gaussian_maps(distances, 0.5**0.5).flatten().tolist() == [value(v) for v in (1, 0.960789, 0.852144, 0.367879)]


def test_check_4_the_slides_formula_with_sigma_of_one_over_root_two_is_the_code():
    distances = torch.rand(2, 3, 5, 7, dtype=F64) * 3
    sigma = torch.full((2, 3), 1 / math.sqrt(2), dtype=F64)
    torch.testing.assert_close(gaussian_maps(distances, sigma), torch.exp(-(distances**2)))


PROBS = [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]]
GAUSSIANS = [[0.9, 0.3, 0], [0.6, 0.5, 0]]
PRESENT = torch.tensor([[True, True, False]])


def test_check_5_self_supervision_loss():
    for pixel, expected in enumerate((0.270108, 0.361812)):
        probs, gaussians = row(PROBS[pixel : pixel + 1]), row(GAUSSIANS[pixel : pixel + 1])
        assert self_supervision_loss(probs, gaussians, PRESENT).item() == value(expected, 2e-6)
    both = self_supervision_loss(row(PROBS), row(GAUSSIANS), PRESENT)
    assert both.item() == value(0.315960, 2e-6)
    assert self_supervision_loss(row(PROBS), row(GAUSSIANS), PRESENT, factor=1.0).item() == value(2 * both.item())


def test_check_5_label_mixture_loss():
    labels = torch.tensor([[[0, UNLABELLED]]])
    on_labels = label_mixture_loss(row(GAUSSIANS), labels, PRESENT)
    assert on_labels.item() == value(0.115508, 2e-6)
    assert (on_labels + self_supervision_loss(row(PROBS), row(GAUSSIANS), PRESENT)).item() == value(0.431468, 2e-6)


def test_check_5_absent_class_loss():
    assert absent_class_loss(row(PROBS), PRESENT).item() == value(0.105359)


def test_check_6_self_supervision_is_least_where_both_agree():
    gaussians = torch.rand(200, dtype=F64) * 0.9 + 0.05
    probs = gaussians.clone().requires_grad_()
    least = bernoulli_cross_entropy(gaussians, probs)
    (gradient,) = torch.autograd.grad(least.sum(), probs)
    assert gradient.abs().max() < 1e-4  # not exactly 0 because of the epsilon in the logarithms
    for step in (-0.04, 0.04):
        assert (bernoulli_cross_entropy(gaussians, gaussians + step) > least).all()


def test_check_7_contrast_of_two_centres():
    present = torch.ones(2, dtype=torch.bool)
    centres = torch.tensor([[0.0, 0.0], [0.25, 0.75]], dtype=F64)
    assert centre_contrast(centres, present).item() == value(0.778801)
    assert centre_contrast(centres[:1].expand(2, -1), present).item() == 1
    assert centre_contrast(centres, torch.tensor([True, False])).item() == 0


@pytest.mark.parametrize(("labels", "printed"), [([0] + 3 * [UNLABELLED], 2.999996), ([0] * 4, 2.999998)])
def test_check_8_the_sum_of_centres_is_the_released_code(labels, printed):
    """Three images with the centre 1; the released code multiplies its sum with images / (images + 1e-6)."""
    means = class_means(torch.ones(3, 1, 1, 4, dtype=F64), torch.tensor([[labels]] * 3), 1)
    present = torch.ones(3, 1, dtype=torch.bool)
    assert pooled_centres(means, present, "sum").item() * 3 / (3 + 1e-6) == value(printed, 5e-7)
    assert pooled_centres(means, present, "mean").item() == means[0].item()
    assert pooled_centres(means[:1], present[:1], "sum").item() == means[0].item()


@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_check_9_absent_channels_are_zero_and_padding_is_in_no_mean(distance):
    torch.manual_seed(0)
    features, labels = torch.randn(1, 4, 3, 5), torch.full((1, 3, 5), UNLABELLED)
    labels[0, 0, 0], labels[0, 2, 1] = 0, 2
    present = torch.tensor([[True, False, True]])
    valid = torch.ones(1, 3, 5, dtype=torch.bool)
    valid[..., 3:] = False
    probs = torch.rand(1, 3, 3, 5).softmax(dim=1)

    def everything(features, probs):
        means = class_means(features, labels, 3)
        distances = class_distances(features, means, present, distance)
        gaussians = gaussian_maps(distances, adaptive_sigma(distances, probs, valid & (labels < 0)), present)
        assert (gaussians[:, 1] == 0).all() and (gaussians[:, [0, 2]] > 0).any()
        losses = self_supervision_loss(probs, gaussians, present, valid), absent_class_loss(probs, present, valid)
        return [*losses, label_mixture_loss(gaussians, labels, present)]

    changed_features, changed_probs = features.clone(), probs.clone()
    changed_features[..., 3:], changed_probs[..., 3:] = 9.0, 1 / 3
    torch.testing.assert_close(everything(features, probs), everything(changed_features, changed_probs))


@pytest.mark.parametrize("sigma", ["adaptive", "fixed"])
def test_check_10_self_supervision_trains_the_features_unless_it_is_detached(sigma):
    """Gradient of L_1 with respect to f; with detach it comes through p only."""
    found = {}
    for detach in (False, True):
        labeler = small_agmm(
            mixture={"sigma": sigma, "detach": detach, "distance": "mean_absolute"}, label_weight=0.0, contrast_weight=0.0,
            absent_weight=0.0,
        )
        batch = batch_of()
        torch.manual_seed(1)
        maps = labeler.predict_maps(features_for(batch), batch)
        maps.features.requires_grad_()
        loss = labeler.losses(maps, [], batch, Progress.finished())["mixture_self"]
        through_features, through_probs = torch.autograd.grad(
            loss, (maps.features, maps.semantic.logits[-1]), allow_unused=True
        )
        found[detach] = 0.0 if through_features is None else float(through_features.abs().sum())
        assert float(through_probs.abs().sum()) > 0
    assert found[False] > 0 and found[True] == 0


def test_softmax_couples_the_classes_of_check_6():
    """p = G cannot hold in a pixel whose Gaussians do not sum to 1, however well it is trained."""
    gaussians = torch.tensor([0.9, 0.6], dtype=F64)[None, :, None, None]
    present = torch.ones(1, 2, dtype=torch.bool)
    logits = torch.zeros(1, 2, 1, 1, dtype=F64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        self_supervision_loss(F.softmax(logits, dim=1), gaussians, present).backward()
        optimizer.step()
    assert F.softmax(logits, dim=1).flatten().tolist() == [value((0.9 + 0.4) / 2, 1e-3), value((0.6 + 0.1) / 2, 1e-3)]
