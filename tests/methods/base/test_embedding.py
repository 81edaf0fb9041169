import torch

from methods.base.embedding import EmbeddingProjector
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]


def projector() -> EmbeddingProjector:
    torch.manual_seed(0)
    return EmbeddingProjector(channels=32, out=16)


def test_unit_vectors_at_the_finest_size():
    embeddings = projector()(random_features(SIZES))
    assert embeddings.shape == (2, 16, 8, 12)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, 8, 12))


def test_nothing_but_the_projector_gets_a_gradient():
    features = random_features(SIZES, requires_grad=True)
    features.level_embeddings.requires_grad_()
    model = projector()
    model(features)[:, 0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(m.grad is None for m in features.maps) and features.level_embeddings.grad is None


def test_position_and_level_embedding_are_added_to_the_map():
    """Moving them into the map changes nothing; a coarser level than the third is not read."""
    features, model = random_features(SIZES), projector()
    expected = model(features)
    for m, position, level in zip(features.maps, features.positions, features.level_embeddings, strict=True):
        m.add_(position).add_(level[:, None, None])
        position.zero_()
        level.zero_()
    features.maps[3].fill_(1e3)
    torch.testing.assert_close(model(features), expected)


def test_all_three_levels_count():
    model = projector()
    for level in range(3):
        features = random_features(SIZES)
        before = model(features)
        features.maps[level].mul_(-1)
        assert (model(features) - before).abs().max() > 1e-3
