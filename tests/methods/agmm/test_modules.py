"""Mixture, losses and moving centres of AGMM, against loops and against each other."""

import pytest
import torch
import torch.nn.functional as F

from methods.agmm.losses import (
    MixtureObjective,
    SparseLabels,
    absent_class_loss,
    centre_contrast,
    label_mixture_loss,
    pooled_centres,
)
from methods.agmm.memory import MovingCentres
from methods.agmm.mixture import (
    Mixture,
    adaptive_sigma,
    batch_means,
    class_counts,
    class_distances,
    class_means,
    gaussian_maps,
    self_supervision_loss,
)

K, D = 4, 6


def case(dtype=torch.float32):
    torch.manual_seed(0)
    features, logits = torch.randn(2, D, 5, 7, dtype=dtype), torch.randn(2, K, 5, 7, dtype=dtype)
    labels = torch.full((2, 5, 7), -1)
    labels[0, 0, :3], labels[0, 4, 2], labels[1, 2, 2], labels[1, 3, 3] = 0, 2, 0, 1
    valid = torch.ones(2, 5, 7, dtype=torch.bool)
    valid[1, :, 5:] = False
    classes = torch.tensor([[True, False, True, True], [True, True, False, False]])
    return features, logits, SparseLabels(labels, classes, valid)


def present_of(known):
    return class_counts(known.labels, K) > 0


def test_class_means_equal_a_loop_with_any_leading_dimensions():
    features, _, known = case()
    means = class_means(features, known.labels, K)
    for image in range(2):
        for label in range(K):
            members = features[image][:, known.labels[image] == label]
            expected = members.mean(dim=1) if members.shape[1] else torch.zeros(D)
            torch.testing.assert_close(means[image, label], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(class_means(features[image], known.labels[image], K), means[image])
    torch.testing.assert_close(class_means(features[None], known.labels[None], K), means[None])


def test_batch_means_are_over_all_labelled_pixels():
    features, _, known = case()
    both = batch_means(features, known.labels, K)
    pixels = features.permute(1, 0, 2, 3)[:, known.labels == 0]
    torch.testing.assert_close(both[0], pixels.mean(dim=1), atol=1e-5, rtol=1e-5)
    assert (both[3] == 0).all()


@pytest.mark.parametrize(
    ("distance", "formula"),
    [
        ("euclidean", lambda f, mu: (f - mu).norm()),
        ("mean_absolute", lambda f, mu: (f - mu).abs().mean()),
        ("cosine", lambda f, mu: 1 - F.cosine_similarity(f, mu, dim=0)),
    ],
)
def test_distances_equal_their_formula_and_have_its_gradient(distance, formula):
    features, _, known = case(torch.float64)
    present, means = present_of(known), class_means(features, known.labels, K)
    found = class_distances(features, means, present, distance)
    assert found.shape == (2, K, 5, 7) and (found[~present] == 0).all()
    for image, label, r, c in ((0, 0, 3, 4), (0, 2, 1, 1), (1, 1, 0, 6)):
        torch.testing.assert_close(found[image, label, r, c], formula(features[image, :, r, c], means[image, label]))
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: class_distances(f[:1, :, :2, :3], means[:1], present[:1], distance), features
    )


def test_the_gradient_is_finite_at_the_centre_itself():
    """One labelled pixel is its own centre: d = 0, where a norm has no derivative."""
    for distance in ("euclidean", "mean_absolute", "cosine"):
        features = torch.ones(1, D, 1, 1, requires_grad=True)
        labels, present = torch.zeros(1, 1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
        means = class_means(features, labels, 1)
        gaussians = gaussian_maps(class_distances(features, means, present, distance), 0.7, present)
        label_mixture_loss(gaussians, labels, present).backward()
        assert torch.isfinite(features.grad).all()


def test_sigma_has_no_gradient_and_reads_the_counted_pixels_only():
    features, logits, known = case()
    features.requires_grad_()
    present = present_of(known)
    distances = class_distances(features, class_means(features, known.labels, K), present)
    probs = logits.softmax(dim=1).requires_grad_()
    counted = known.valid & (known.labels < 0)
    sigma = adaptive_sigma(distances, probs, counted)
    assert not sigma.requires_grad and sigma.shape == (2, K)
    for image in range(2):
        for label in range(K):
            p, d = probs[image, label][counted[image]], distances[image, label][counted[image]]
            torch.testing.assert_close(sigma[image, label], ((p * d**2).sum() / p.sum() + 1e-6).sqrt().detach())
    nothing = torch.zeros_like(counted)
    for normalizer in ("mass", "count"):
        torch.testing.assert_close(adaptive_sigma(distances, probs, nothing, normalizer), torch.full((2, K), 1e-3))


def test_adaptive_gaussians_do_not_depend_on_the_scale_of_the_features():
    features, logits, known = case(torch.float64)
    present, probs = present_of(known), logits.softmax(dim=1)

    def gaussians(scale):
        distances = class_distances(scale * features, class_means(scale * features, known.labels, K), present)
        return gaussian_maps(distances, adaptive_sigma(distances, probs, epsilon=0), present)

    torch.testing.assert_close(gaussians(1.0), gaussians(37.0), rtol=1e-4, atol=1e-6)


def test_losses_equal_loops():
    features, logits, known = case()
    probs, present = logits.softmax(dim=1), present_of(known)
    gaussians = gaussian_maps(class_distances(features, class_means(features, known.labels, K), present), 1.5, present)
    own, label, absent = [], [], []
    for image, r, c in known.valid.nonzero().tolist():
        p, g, here = probs[image, :, r, c], gaussians[image, :, r, c], present[image].nonzero()[:, 0].tolist()
        own.append(sum(-g[k] * p[k].log() - (1 - g[k]) * (1 - p[k]).log() for k in here) / len(here) / 2)
        absent.append(sum(-(1 - p[k]).log() for k in range(K) if not known.image_classes[image, k]))
        if (labelled := int(known.labels[image, r, c])) >= 0:
            terms = (-(g[k] + 1e-6).log() if k == labelled else -(1 - g[k] + 1e-6).log() for k in here)
            label.append(sum(terms) / len(here) / 2)
    for found, loop in (
        (self_supervision_loss(probs, gaussians, present, known.valid), own),
        (label_mixture_loss(gaussians, known.labels, present), label),
        (absent_class_loss(probs, known.image_classes, known.valid), absent),
    ):
        torch.testing.assert_close(found, torch.stack(loop).mean(), atol=1e-4, rtol=1e-4)


def test_contrast_is_a_mean_over_pairs_and_pushes_centres_apart():
    centres = torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    present = torch.ones(3, dtype=torch.bool)
    pairs = [torch.exp(-(centres[i] - centres[j]).abs().mean() ** 2) for i, j in ((0, 1), (0, 2), (1, 2))]
    loss = centre_contrast(centres, present)
    torch.testing.assert_close(loss, sum(pairs) / 3)
    loss.backward()
    moved = centres.detach() - 0.1 * centres.grad
    assert centre_contrast(moved, present) < loss


def test_pooled_centres_are_over_the_images_that_have_the_class():
    features, _, known = case()
    present, means = present_of(known), class_means(features, known.labels, K)
    mean, total = (pooled_centres(means, present, how) for how in ("mean", "sum"))
    torch.testing.assert_close(mean[0], (means[0, 0] + means[1, 0]) / 2)
    torch.testing.assert_close(total[0], means[0, 0] + means[1, 0])
    for only in (1, 2):
        torch.testing.assert_close(mean[only], total[only])


def test_nothing_labelled_is_zero_and_not_nan():
    features, logits, known = case()
    empty = SparseLabels(torch.full_like(known.labels, -1), torch.zeros_like(known.image_classes), known.valid)
    for sigma in ("adaptive", "fixed"):
        losses = MixtureObjective(Mixture(sigma=sigma)).losses([logits.requires_grad_()], features.requires_grad_(), empty)
        assert list(losses) == ["self", "label", "contrast", "absent"] and all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert torch.isfinite(logits.grad).all()


def test_an_image_without_labels_changes_no_mean_but_that_over_all_pixels():
    features, logits, known = case()
    silent = SparseLabels(known.labels.clone(), known.image_classes.clone(), known.valid)
    silent.labels[1], silent.image_classes[1] = -1, False
    objective = MixtureObjective()
    both = objective.losses([logits], features, silent)
    first = SparseLabels(*(part[:1] for part in (silent.labels, silent.image_classes, silent.valid)))
    alone = objective.losses([logits[:1]], features[:1], first)
    for name in ("label", "contrast", "absent"):
        torch.testing.assert_close(both[name], alone[name])
    torch.testing.assert_close(both["self"] * known.valid.sum(), alone["self"] * known.valid[0].sum())


def test_layers_are_summed_where_they_have_a_part():
    features, logits, known = case()
    one, two = (MixtureObjective().losses([logits] * n, features, known) for n in (1, 2))
    for name, factor in (("self", 2), ("absent", 2), ("label", 1), ("contrast", 1)):
        torch.testing.assert_close(two[name], factor * one[name])


def test_a_loss_of_weight_zero_is_left_out():
    features, logits, known = case()
    weights = {"self": "self_weight", "label": "label_weight", "contrast": "contrast_weight", "absent": "absent_weight"}
    full = MixtureObjective().losses([logits], features, known)
    for name, weight in weights.items():
        assert set(MixtureObjective(**{weight: 0.0}).losses([logits], features, known)) == set(weights) - {name}
        doubled = MixtureObjective(**{weight: 2.0}).losses([logits], features, known)
        torch.testing.assert_close(doubled[name], 2 * full[name])


def test_centres_of_the_batch_and_of_the_image_agree_for_one_image():
    features, logits, known = case()
    one = SparseLabels(*(part[:1] for part in (known.labels, known.image_classes, known.valid)))
    image, batch = (
        MixtureObjective(Mixture(centre=centre)).losses([logits[:1]], features[:1], one) for centre in ("image", "batch")
    )
    for name in image:
        torch.testing.assert_close(image[name], batch[name])
    moving = MovingCentres(K, D).update(features[:1], one.labels)
    found = MixtureObjective(Mixture(centre="moving")).losses([logits[:1]], features[:1], one, moving)
    for name in image:
        torch.testing.assert_close(image[name], found[name], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="give it as 'moving'"):
        MixtureObjective(Mixture(centre="moving")).losses([logits], features, known)


def test_moving_centres_start_at_the_first_batch_and_then_move_slowly():
    features, _, known = case()
    memory = MovingCentres(K, D, momentum=0.9)
    first = memory.update(features, known.labels)
    torch.testing.assert_close(first, batch_means(features, known.labels, K), atol=1e-5, rtol=1e-5)
    assert memory.seen.tolist() == [True, True, True, False]
    other = torch.full((2, 5, 7), -1)
    other[0, 1, 1], other[1, 1, 1] = 0, 3
    second = memory.update(features + 1, other)
    torch.testing.assert_close(second[0], 0.9 * first[0] + 0.1 * (features[0, :, 1, 1] + 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second[3], features[1, :, 1, 1] + 1, atol=1e-5, rtol=1e-5)
    assert torch.equal(second[1:3], first[1:3]) and memory.seen.all()
    copy = MovingCentres(K, D)
    copy.load_state_dict(memory.state_dict())
    assert torch.equal(copy.centres, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": "learned"}, "no sigma 'learned'; it is one of adaptive, fixed"),
        ({"normalizer": "sum"}, "no normalizer 'sum'; it is one of mass, count"),
        ({"distance": "l1"}, "no distance 'l1'; it is one of euclidean, mean_absolute, cosine"),
        ({"centre": "ema"}, "no centre 'ema'; it is one of image, batch, moving"),
        ({"fixed_variance": 0.0}, "fixed_variance must be positive, got 0.0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
    ],
)
def test_a_wrong_mixture_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**options)


def test_an_unknown_contrast_lists_the_known_ones():
    with pytest.raises(ValueError, match="no contrast 'off'; it is one of mean, sum"):
        MixtureObjective(contrast="off")
