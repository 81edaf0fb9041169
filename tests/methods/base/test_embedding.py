import pytest
import torch

from methods.base.embedding import EmbeddingProjector, Projection
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


def test_only_the_asked_inputs_of_the_asked_levels_are_read():
    torch.manual_seed(0)
    features = random_features(SIZES)
    model = EmbeddingProjector(32, 16, Projection(levels=2, inputs=["map", "level"], hidden=8))
    expected = model(features)
    for position in features.positions:
        position.zero_()
    features.maps[2].fill_(1e3)
    torch.testing.assert_close(model(features), expected)
    features.level_embeddings.zero_()
    assert (model(features) - expected).abs().max() > 1e-3
    assert model.project[0].out_channels == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": []}, "inputs are none"), ({"inputs": ["map", "colour"]}, "map, position, level"),
        ({"inputs": ["map", "map"]}, "each once"), ({"levels": 0}, "at least one"),
    ],
)
def test_wrong_inputs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Projection(**options)


def test_too_few_encoder_levels_are_said():
    with pytest.raises(ValueError, match="reads 4 encoder levels but the features have 3"):
        EmbeddingProjector(32, 16, Projection(levels=4))(random_features(SIZES, levels=3))
