import math

import pytest
import torch
import torch.nn.functional as F

from methods.base.instance_losses import (
    ColorPrior,
    PointObjective,
    Supervision,
    among_present,
    color_prior_loss,
    has_choice,
    self_training_loss,
)
from methods.base.point_losses import partial_cross_entropy
from methods.ops.rasterize import UNLABELLED
from tests.methods.stand_ins import point_batch, point_labels


def ragged():
    """Three images with 3, 1 and 2 targets: logits, present, labels and a batch of flat images of two sizes."""
    torch.manual_seed(0)
    present = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    logits = torch.randn(3, 3, 6, 6)
    labels = torch.full((3, 6, 6), UNLABELLED)
    labels[0, 0, :3] = torch.arange(3)
    labels[1, 2, 2] = 0
    labels[2, 4, :2] = torch.tensor([1, 0])
    images = [torch.full((3, 48, 48), 0.5), torch.full((3, 48, 48), 0.5), torch.full((3, 48, 32), 0.5)]
    return logits, present, labels, point_batch(images, [point_labels([], [])] * 3)


def supervision_of(labels, batch, images):
    pairs, valid = ColorPrior(reference_side=None).of(batch, tuple(labels.shape[-2:]))
    return Supervision.of(labels, pairs, valid, images)


def test_padded_targets_change_nothing():
    logits, present, labels, batch = ragged()
    other = torch.where(present[..., None, None], logits, 1e4 * torch.randn_like(logits))
    supervision = supervision_of(labels, batch, has_choice(present))
    objective = PointObjective(self_training=1.0)
    found = [objective.losses([among_present(z, present)], supervision) for z in (logits, other)]
    assert found[0].keys() == {"partial", "color", "self_training"}
    for name in found[0]:
        assert found[0][name] == found[1][name] and found[0][name] > 0


def test_losses_of_a_padded_batch_are_those_of_its_images():
    """Image 1 has a single target: it is in no sum and in no count."""
    logits, present, labels, batch = ragged()
    supervision = supervision_of(labels, batch, has_choice(present))
    found = PointObjective(1.0, 1.0, 1.0).losses([among_present(logits, present)], supervision)
    cross_entropies, surprises, color = [], [], []
    for i, columns in ((0, 6), (2, 4)):
        log_probs = F.log_softmax(logits[i, : int(present[i].sum()), :, :columns], dim=0)
        cross_entropies += [-log_probs[labels[i, r, c], r, c] for r, c in (labels[i, :, :columns] >= 0).nonzero()]
        surprises.append(-log_probs.amax(dim=0).flatten())
        disagreements = []
        for r in range(6):
            for c in range(columns):
                for down in (-4, -2, 0, 2, 4):
                    for right in (-4, -2, 0, 2, 4):
                        inside = 0 <= r + down < 6 and 0 <= c + right < columns
                        if inside and (down, right) != (0, 0):
                            both = log_probs[:, r, c] + log_probs[:, r + down, c + right]
                            disagreements.append(-both.exp().sum().log())
        color.append(torch.stack(disagreements).mean())
    torch.testing.assert_close(found["partial"], torch.stack(cross_entropies).mean())
    torch.testing.assert_close(found["self_training"], torch.cat(surprises).mean())
    torch.testing.assert_close(found["color"], torch.stack(color).mean())


def test_images_with_one_target_and_padded_cells_get_no_gradient():
    logits, present, labels, batch = ragged()
    logits.requires_grad_()
    supervision = supervision_of(labels, batch, has_choice(present))
    sum(PointObjective(1.0, 1.0, 1.0).losses([among_present(logits, present)], supervision).values()).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all() and (logits.grad[~present] == 0).all() and (logits.grad[2, :, :, 4:] == 0).all()
    assert logits.grad[0].abs().sum() > 0 and logits.grad[2].abs().sum() > 0


def test_a_batch_without_any_choice_is_zero():
    logits, present, labels, batch = ragged()
    none = torch.zeros_like(present)
    supervision = supervision_of(labels, batch, has_choice(none))
    for z in (among_present(logits, none), among_present(logits, present)):
        assert all(loss == 0 for loss in PointObjective(1.0, 1.0, 1.0).losses([z], supervision).values())


@pytest.mark.parametrize("count", [2, 3, 7])
def test_uniform_maps(count):
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    batch = point_batch([torch.full((3, 32, 32), 0.5)], [point_labels([], [])])
    supervision = supervision_of(torch.zeros(1, 4, 4, dtype=torch.int64), batch, torch.tensor([True]))
    flat = torch.full((1, count, 4, 4), 0.3)
    assert self_training_loss(flat, valid).item() == pytest.approx(math.log(count))
    assert color_prior_loss(flat, supervision).item() == pytest.approx(math.log(count))
    assert partial_cross_entropy(flat, supervision.labels).item() == pytest.approx(math.log(count))


def test_self_training_is_the_cross_entropy_to_the_own_argmax():
    logits, valid = torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True), torch.rand(2, 4, 4) > 0.4
    found = self_training_loss(logits, valid)
    expected = F.cross_entropy(logits, logits.argmax(dim=1), reduction="none")[valid].mean()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    (gradient,) = torch.autograd.grad(found, logits, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], atol=1e-6, rtol=1e-6)
    assert self_training_loss(logits, torch.zeros_like(valid)) == 0


def test_the_colour_prior_keeps_to_similar_neighbours():
    """Two halves of different colour: maps that follow them are free, maps that cut across cost."""
    image = torch.zeros(3, 48, 48)
    image[0, :, :24], image[2, :, 24:] = 0.8, 0.8
    supervision = supervision_of(torch.full((1, 6, 6), UNLABELLED), point_batch([image], [point_labels([], [])]),
                                 torch.tensor([True]))  # fmt: skip
    left = torch.zeros(1, 2, 6, 6)
    left[:, 0, :, :3], left[:, 1, :, 3:] = 40, 40
    assert color_prior_loss(left, supervision) < 1e-6
    assert color_prior_loss(left.transpose(2, 3), supervision) > 1


def test_weights_factors_and_layers():
    logits, present, labels, batch = ragged()
    supervision, layer = supervision_of(labels, batch, has_choice(present)), among_present(logits, present)
    one = PointObjective(1.0, 1.0, 1.0).losses([layer], supervision)
    many = PointObjective(2.0, 3.0, 4.0).losses([layer, layer], supervision, color_factor=0.5, label_factor=0.25)
    for name, factor in (("partial", 4), ("color", 3), ("self_training", 2)):
        torch.testing.assert_close(many[name], factor * one[name])
    assert PointObjective(0.0, 0.0, 0.0).losses([layer], supervision) == {}
