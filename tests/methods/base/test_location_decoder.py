import math

import pytest
import torch

from methods.base.location_decoder import LocationDecoder, valid_extent
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]


def decoder(levels: int = 4, layers: int = 3) -> LocationDecoder:
    torch.manual_seed(0)
    return LocationDecoder(5, channels=32, queries=7, layers=layers, levels=levels, heads=4, points=2, feedforward=48).eval()


@pytest.mark.parametrize("levels", [3, 4])
def test_shapes_and_ranges(levels):
    locations = decoder(levels)(random_features(SIZES))
    assert locations.queries.shape == (2, 7, 32)
    assert locations.logits.shape == (3, 2, 7, 5)
    assert locations.boxes.shape == (3, 2, 7, 4)
    assert ((locations.boxes > 0) & (locations.boxes < 1)).all()


def test_valid_extent_covers_the_image_and_at_most_one_cell_more():
    sizes = [(61, 97), (33, 50), (7, 9)]
    extent = valid_extent(random_features(sizes))
    for (height, width), (w, h) in zip(sizes, extent.tolist(), strict=True):
        assert width - 1e-3 <= w <= width + 8 and height - 1e-3 <= h <= height + 8


def test_content_of_padding_is_not_read():
    features = random_features(SIZES)
    before = decoder()(features)
    for m, p in zip(features.maps, features.padding, strict=True):
        m.masked_fill_(p[:, None], 1e3)
    after = decoder()(features)
    torch.testing.assert_close(before.logits, after.logits)
    torch.testing.assert_close(before.boxes, after.boxes)


@torch.no_grad()
def test_a_padded_image_gets_the_boxes_it_gets_alone():
    """Normalised boxes refer to the valid part: for sizes that fit the coarsest grid, padding changes nothing."""
    together = random_features([(128, 128), (64, 64)])
    alone = random_features([(64, 64)])
    for level, m in enumerate(alone.maps):
        h, w = m.shape[-2:]
        m.copy_(together.maps[level][1:, :, :h, :w])
    model = decoder()
    for head in model.box_heads:
        torch.nn.init.normal_(head[-1].weight)
    # Sampling beyond the image sees zeros alone and zeroed values in the padding.
    padded, expected = model(together), model(alone)
    torch.testing.assert_close(padded.boxes[:, 1], expected.boxes[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded.logits[:, 1], expected.logits[:, 0], atol=1e-5, rtol=1e-5)


def test_references_are_detached_between_layers():
    model = decoder()
    model(random_features(SIZES)).boxes[1].sum().backward()
    assert model.box_heads[0][-1].bias.grad.count_nonzero() == 0
    assert model.box_heads[1][-1].bias.grad.abs().sum() > 0


def test_gradient_reaches_every_parameter_and_all_levels():
    features = random_features(SIZES, requires_grad=True)
    model = decoder()
    with torch.no_grad():  # zero at the start: the box heads would hide their hidden layers
        for head in model.box_heads:
            head[-1].weight.normal_()
    locations = model(features)
    (locations.logits.square().sum() + locations.boxes.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(m.grad.abs().sum() > 0 for m in features.maps)


def test_parameter_names_of_the_low_learning_rate_group():
    names = [name for name, _ in decoder().named_parameters()]
    assert sum("sampling_offsets" in n for n in names) == 2 * 3
    assert sum("reference_points" in n for n in names) == 2


def test_too_few_levels_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"reads 4 encoder levels .* have 3"):
        decoder()(random_features(SIZES, levels=3))


def test_prior_and_first_size_are_the_configured_ones():
    decoder = LocationDecoder(5, 32, queries=4, layers=2, heads=4, feedforward=48, prior=0.2, size_bias=-1.0)
    for head in decoder.class_heads:
        torch.testing.assert_close(head.bias.sigmoid(), torch.full((5,), 0.2))
    sizes = decoder.eval()(random_features(SIZES)).boxes[..., 2:]
    torch.testing.assert_close(sizes, torch.full_like(sizes, 1 / (1 + math.e)), atol=1e-6, rtol=1e-5)
