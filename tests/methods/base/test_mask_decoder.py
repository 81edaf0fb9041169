import pytest
import torch
import torch.nn.functional as F

from methods.base.mask_decoder import ClassMaskDecoder, LogitsToMasks, MaskAttention, MaskDecoder
from methods.base.memory import Memory
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]


def decoder(**options) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(channels=32, layers=2, heads=4, feedforward=48, **options).eval()


def test_shapes_and_one_mask_per_layer():
    features = random_features(SIZES)
    decoding = decoder()(features, torch.randn(2, 5, 32))
    assert [tuple(m.shape) for m in decoding.masks] == [(2, 5, 8, 12)] * 2
    assert [tuple(q.shape) for q in decoding.queries] == [(2, 5, 32)] * 2


def test_last_only_equals_the_last_of_all():
    features, queries = random_features(SIZES), torch.randn(2, 5, 32)
    model = decoder(self_attention=True)
    full, last = model(features, queries), model(features, queries, last_only=True)
    assert len(last.masks) == len(last.queries) == 1
    torch.testing.assert_close(last.masks[0], full.masks[-1])
    torch.testing.assert_close(last.queries[0], full.queries[-1])


@pytest.mark.parametrize("rectify", [True, False])
def test_masks_equal_the_literal_formulation(rectify):
    """Resize all heads, concatenate, fuse: what is computed after exchanging the fusion and the resize."""
    torch.manual_seed(1)
    features = random_features(SIZES)
    memory = Memory.of(features, 3)
    to_masks = LogitsToMasks(heads=4, levels=3, rectify=rectify)
    logits = torch.randn(2, 4, 5, memory.tokens.shape[1]).masked_fill(memory.padding[:, None, None], 0)
    parts = []
    for i, (part, (h, w)) in enumerate(zip(logits.split([96, 24, 6], dim=-1), memory.sizes, strict=True)):
        per_query = part.transpose(1, 2).reshape(10, 4, h, w)
        parts.append(F.interpolate(to_masks.per_level[i](per_query).relu(), size=(8, 12), mode="bilinear"))
    fused = to_masks.fuse(torch.cat(parts, dim=1))
    expected = (fused.relu() if rectify else fused).view(2, 5, 8, 12) * ~features.padding[0][:, None]
    assert expected.max() > 0 and (expected.min() < 0) != rectify
    torch.testing.assert_close(to_masks(logits, memory), expected)


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("count", [1, 8, 9, 20])  # up to 8 queries, keys and values are not made: 4 heads, 32 channels
def test_attention_equals_torch_multihead_attention(count, placed):
    torch.manual_seed(2)
    features = random_features(SIZES)
    memory = Memory.of(features, 3, placed)
    keys = torch.cat([m.flatten(2) for m in features.maps[:3]], dim=2).transpose(1, 2)
    if placed:
        keys = keys + torch.cat([p.flatten(2) for p in features.positions[:3]], dim=2).transpose(1, 2)
    attention, queries = MaskAttention(32, 4), torch.randn(2, count, 32)
    oracle = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([m.weight for m in (attention.query, attention.key, attention.value)]))
        oracle.in_proj_bias.copy_(torch.cat([m.bias for m in (attention.query, attention.key, attention.value)]))
        # A padded key is zeroed before the logits, and masked: neither changes what the others get.
    oracle.out_proj = attention.output
    expected, weights = oracle(
        queries, keys, memory.tokens, key_padding_mask=memory.padding, average_attn_weights=False
    )
    attended, logits = attention(queries, memory)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)
    masked = logits.masked_fill(memory.padding[:, None, None], -torch.inf)
    torch.testing.assert_close(masked.softmax(-1), weights, atol=1e-5, rtol=1e-5)


def test_few_queries_have_the_gradients_of_many():
    """Eight queries move the projections to their side, nine do not; a query does not see the others."""
    torch.manual_seed(3)
    attention, queries = MaskAttention(32, 4), torch.randn(2, 8, 32)
    memory = Memory.of(random_features(SIZES), 3)
    tokens = memory.tokens.requires_grad_()
    found = []
    for given in (queries, F.pad(queries, (0, 0, 0, 1))):
        attended, logits = attention(given, memory)
        assert logits.masked_select(memory.padding[:, None, None]).count_nonzero() == 0
        objective = attended[:, :8].square().sum() + logits[:, :, :8].square().mean()
        gradients = torch.autograd.grad(objective, [tokens, *attention.parameters()])
        found.append([attended[:, :8], logits[:, :, :8], *gradients])
    for few, many in zip(*found, strict=True):
        assert many.abs().max() > 1e-6
        torch.testing.assert_close(few, many, atol=2e-5, rtol=1e-4)


def test_few_queries_do_not_read_padding():
    torch.manual_seed(4)
    attention, queries = MaskAttention(32, 4), torch.randn(2, 3, 32)
    memory = Memory.of(random_features(SIZES), 3)
    before = attention(queries, memory)
    memory.tokens.masked_fill_(memory.padding[..., None], 1e3)
    after = attention(queries, memory)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("key_positions", [False, True])
def test_a_query_tells_equal_cells_apart_by_their_place_alone(key_positions):
    features = random_features([(64, 96), (64, 96)])
    for each in features.maps:
        each.copy_(each[:, :, :1, :1].clone().expand_as(each))
    masks = decoder(key_positions=key_positions, rectify=False)(features, torch.randn(2, 5, 32)).masks[-1]
    assert (masks.flatten(2).std(dim=2) > 1e-3).all() == key_positions
    assert key_positions or (masks.flatten(2).std(dim=2) < 1e-5).all()


def test_a_map_below_zero_has_a_gradient_unless_it_is_rectified():
    """With a bias far below zero the rectified map is zero everywhere, and so is its gradient."""
    features = random_features(SIZES)
    for rectify in (True, False):
        model = decoder(rectify=rectify)
        with torch.no_grad():
            for layer in model.layers:
                layer.to_masks.fuse.bias.fill_(-1e3)
        masks = model(features, torch.randn(2, 5, 32)).masks[-1]
        masks.square().sum().backward()
        dead = bool(masks.count_nonzero() == 0)
        assert dead == rectify == bool(model.layers[-1].to_masks.fuse.weight.grad.count_nonzero() == 0)


def test_content_of_padding_is_not_read():
    features, queries, model = random_features(SIZES), torch.randn(2, 5, 32), decoder()
    before = model(features, queries)
    for m, p in zip(features.maps, features.padding, strict=True):
        m.masked_fill_(p[:, None], 1e3)
    after = model(features, queries)
    torch.testing.assert_close(after.masks, before.masks)
    torch.testing.assert_close(after.queries, before.queries)


def test_padding_queries_change_nothing_and_have_zero_masks():
    features, queries = random_features(SIZES), torch.randn(2, 5, 32)
    model = decoder(self_attention=True)
    padding = torch.tensor([[False] * 3 + [True] * 2] * 2)
    padded = model(features, queries, query_padding=padding).masks[-1]
    torch.testing.assert_close(padded[:, :3], model(features, queries[:, :3]).masks[-1])
    assert padded[:, 3:].count_nonzero() == 0


@pytest.mark.parametrize("self_attention", [False, True])
def test_an_image_of_padding_queries_only_stays_finite(self_attention):
    features = random_features(SIZES, requires_grad=True)
    model = decoder(self_attention=self_attention)
    padding = torch.tensor([[False] * 3, [True] * 3])
    queries = torch.randn(2, 3, 32)
    with torch.no_grad():  # another attention kernel than with gradient
        assert all(m.isfinite().all() for m in model(features, queries, query_padding=padding).masks)
    masks = model(features, queries, query_padding=padding).masks[-1]
    masks.square().sum().backward()
    assert masks[0].max() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in [*model.parameters(), *features.maps])


def test_query_position_accumulates_over_layers():
    """Two layers with positions are one layer on q + pos, then a second on its output + pos."""
    features, queries, positions = random_features(SIZES), torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    model = decoder()
    memory = Memory.of(features, 3)
    first, _ = model.layers[0](queries + positions, memory, None, False)
    _, expected = model.layers[1](first + positions, memory, None, True)
    torch.testing.assert_close(model(features, queries, positions).masks[-1], expected)


def test_without_update_last_every_parameter_gets_a_gradient_from_the_masks():
    model = decoder(update_last=False)
    decoding = model(random_features(SIZES), torch.randn(2, 5, 32))
    assert len(decoding.masks) == 2 and len(decoding.queries) == 1
    sum(m.square().sum() for m in decoding.masks).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_class_decoder_gives_a_mask_and_a_presence_logit_per_class_and_layer():
    torch.manual_seed(0)
    model = ClassMaskDecoder(3, channels=32, layers=2, heads=4, feedforward=48).eval()
    features = random_features(SIZES)
    masks, presence = model(features)
    assert [tuple(m.shape) for m in masks] == [(2, 3, 8, 12)] * 2
    assert [tuple(p.shape) for p in presence] == [(2, 3)] * 2
    last_masks, last_presence = model(features, last_only=True)
    torch.testing.assert_close(last_masks, masks[-1:])
    torch.testing.assert_close(last_presence, presence[-1:])


@pytest.mark.parametrize("options", [{}, {"key_positions": True, "rectify": False}], ids=["plain", "placed, not rectified"])
def test_bfloat16_autocast_is_near_float32(options):
    model, features, queries = decoder(self_attention=True, **options), random_features(SIZES), torch.randn(2, 5, 32)
    expected = model(features, queries).masks[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = model(features, queries).masks[-1]
    assert masks.isfinite().all() and masks.max() > 0
    torch.testing.assert_close(masks.float(), expected, rtol=0.1, atol=0.05)


def test_too_few_levels_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"reads 3 encoder levels .* have 2"):
        decoder()(random_features(SIZES, levels=2), torch.randn(2, 5, 32))


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="30 channels do not divide into 4 heads"):
        MaskAttention(30, 4)
