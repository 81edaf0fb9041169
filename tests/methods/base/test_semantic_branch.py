import torch

from methods.base.semantic_branch import SemanticBranch
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]


def branch() -> SemanticBranch:
    torch.manual_seed(0)
    return SemanticBranch(4, channels=32, layers=3, heads=4, feedforward=48)


def test_shapes():
    maps = branch()(random_features(SIZES))
    assert [tuple(z.shape) for z in maps.logits] == [(2, 4, 8, 12)] * 3
    assert [tuple(p.shape) for p in maps.presence] == [(2, 4)] * 3


def test_logits_are_masks_times_presence_at_the_start():
    model, features = branch(), random_features(SIZES)
    maps = model(features)
    masks, presence = model.decoder(features)
    for logits, mask, one in zip(maps.logits, masks, presence, strict=True):
        torch.testing.assert_close(logits, mask * one.sigmoid()[..., None, None])
        assert logits.max() > 0


def test_the_affine_acts_on_each_class_alone():
    model, features = branch(), random_features(SIZES)
    before = model(features)
    with torch.no_grad():
        model.affine.weight[2] = 3.0
        model.affine.bias[2] = 0.5
    after = model(features)
    others = [0, 1, 3]
    masks = model.decoder(features)[0][-1][:, 2]
    scale = before.presence[-1].sigmoid()[:, 2, None, None]
    torch.testing.assert_close(after.logits[-1][:, others], before.logits[-1][:, others])
    torch.testing.assert_close(after.logits[-1][:, 2], (3 * masks + 0.5) * scale)


def test_every_parameter_and_the_three_finest_maps_are_trained():
    model, features = branch(), random_features(SIZES, requires_grad=True)
    maps = model(features)
    sum(z.square().sum() for z in maps.logits).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(m.grad.abs().sum() > 0 for m in features.maps[:3])
    assert features.maps[3].grad is None
