import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from methods.base.backbones import STRIDES, Backbone
from methods.base.build import build_encoder
from methods.base.encoder import Encoder, SinePositions

MODELS = Path(__file__).parents[3] / "benchmark/conf/model"


class Subsampled(nn.Module):
    """Every stride-th pixel, so that maps at all four strides cost nothing."""

    def forward(self, images):
        return [images[:, :, ::stride, ::stride] for stride in STRIDES]


def small_encoder(**options):
    options = {"channels": 32, "layers": 2, "heads": 4, "feedforward": 32, **options}
    return Encoder(Backbone(Subsampled(), dict.fromkeys(STRIDES, 3)), **options).eval()


def padding_mask(batch, height, width, valid_height, valid_width):
    padding = torch.ones(batch, height, width, dtype=torch.bool)
    padding[:, :valid_height, :valid_width] = False
    return padding


def randomised(encoder):
    """All parameters of the transformer random: at initialisation its sampling offsets and weights ignore the query."""
    for parameter in encoder.transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder


def test_neck_levels_of_a_512_px_image():
    """Base check 1."""
    encoder = small_encoder(channels=256, layers=1, heads=8)
    seen = []
    encoder.neck.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    features = encoder(torch.rand(1, 3, 512, 512), torch.zeros(1, 512, 512, dtype=torch.bool))
    (inputs, outputs), = seen
    assert [tuple(o.shape) for o in outputs] == [(1, 256, side, side) for side in (64, 32, 16, 8)]
    assert [m.shape[-1] for m in features.maps] == [64, 32, 16, 8]
    extra = encoder.neck.extra_convs[0]
    coarsest = F.conv2d(inputs[-1], extra.conv.weight, stride=2, padding=1)
    torch.testing.assert_close(outputs[3], F.group_norm(coarsest, 32, extra.gn.weight, extra.gn.bias))
    assert extra.conv.bias is None and {c.gn.num_groups for c in encoder.neck.convs} == {32}


def test_sine_encoding_of_four_valid_rows():
    """Base check 2: the angle at the first frequency; the y half comes first."""
    encoder = small_encoder(channels=256, layers=0, heads=8)
    features = encoder(torch.rand(1, 3, 64, 48), padding_mask(1, 64, 48, 32, 48))
    expected = torch.tensor([0.785398, 2.356194, 3.926990, 5.497786])
    position = features.positions[0][0]
    rows = torch.atan2(position[0], position[1])[:4, 0] % (2 * math.pi)
    columns = torch.atan2(position[128], position[129])[0] % (2 * math.pi)
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns, (torch.arange(6) + 0.5) / (6 + 1e-6) * 2 * math.pi, atol=1e-5, rtol=0)


def test_features_describe_the_batch():
    encoder = small_encoder()
    features = encoder(torch.rand(2, 3, 72, 100), padding_mask(2, 72, 100, 40, 64))
    sizes = [(9, 13), (5, 7), (3, 4), (2, 2)]
    assert [tuple(m.shape) for m in features.maps] == [(2, 32, *size) for size in sizes]
    assert [tuple(p.shape) for p in features.positions] == [(2, 32, *size) for size in sizes]
    assert features.fine.shape == (2, 3, 18, 25) and encoder.fine_channels == 3
    assert features.level_embeddings.shape == (4, 32) and features.input_size == (72, 100)
    valid_columns = sum(column * 100 // 13 < 64 for column in range(13))  # nearest resize from 100 to 13 columns
    assert torch.equal(features.padding[0], padding_mask(2, 9, 13, 5, valid_columns))


@pytest.mark.parametrize("levels", [3, 4])
def test_padded_cells_are_never_read(levels):
    """Exact part: the attention. The neck's GroupNorm statistics do include the padding, as in the papers."""
    torch.manual_seed(0)
    encoder = randomised(small_encoder(levels=levels))
    sizes, valid = [(8, 8), (4, 4), (2, 2), (1, 1)][:levels], [(8, 4), (4, 2), (2, 1), (1, 1)][:levels]
    maps = [torch.randn(1, 32, *size) for size in sizes]
    padding = [padding_mask(1, *size, *v) for size, v in zip(sizes, valid, strict=True)]
    positions = [encoder.positional_encoding(p) for p in padding]
    garbage = [torch.where(p[:, None], 100 * torch.randn_like(m), m) for m, p in zip(maps, padding, strict=True)]
    once, again = encoder.attend(maps, positions, padding), encoder.attend(garbage, positions, padding)
    for a, b, (height, width) in zip(once, again, valid, strict=True):
        torch.testing.assert_close(a[..., :height, :width], b[..., :height, :width], rtol=0, atol=0)


def test_a_padded_map_gives_what_the_unpadded_one_gives():
    torch.manual_seed(0)
    encoder = randomised(small_encoder(levels=3))
    maps = [torch.randn(1, 32, size, size) for size in (8, 4, 2)]
    none = [torch.zeros(1, *m.shape[-2:], dtype=torch.bool) for m in maps]
    alone = encoder.attend(maps, [encoder.positional_encoding(p) for p in none], none)
    padded = [F.pad(m, (0, m.shape[-1], 0, m.shape[-2] // 2)) for m in maps]
    masks = [padding_mask(1, *p.shape[-2:], *m.shape[-2:]) for p, m in zip(padded, maps, strict=True)]
    together = encoder.attend(padded, [encoder.positional_encoding(p) for p in masks], masks)
    for a, b, m in zip(alone, together, maps, strict=True):
        torch.testing.assert_close(a, b[..., : m.shape[-2], : m.shape[-1]], rtol=1e-4, atol=1e-4)


def test_the_image_under_the_padding_does_not_matter():
    encoder = randomised(small_encoder())
    images, padding = torch.rand(1, 3, 64, 64), padding_mask(1, 64, 64, 33, 50)
    other = torch.where(padding[:, None], torch.rand_like(images), images)
    for a, b in zip(encoder(images, padding).maps, encoder(other, padding).maps, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_every_trained_parameter_gets_a_gradient(layers):
    """A parameter without one would stop distributed training."""
    encoder = small_encoder(layers=layers).train()
    features = encoder(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool))
    sum(m.square().sum() for m in features.maps).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_no_layers_gives_the_neck():
    encoder = small_encoder(layers=0)
    images, padding = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    features = encoder(images, padding)
    expected = encoder.neck(encoder.backbone(images, padding)[1:])
    assert all(torch.equal(a, b) for a, b in zip(features.maps, expected, strict=True))
    assert features.level_embeddings.shape == (3, 32) and not features.level_embeddings.any()


def test_learning_rate_groups_have_their_names():
    names = [name for name, _ in build_encoder(load("tiny")).named_parameters()]
    assert sum("sampling_offsets" in name for name in names) == 4  # weight and bias of two layers
    assert any(name.startswith("backbone.") for name in names)
    assert any(not name.startswith("backbone.") and "sampling_offsets" not in name for name in names)


def load(name):
    config = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    config["backbone"]["pretrained"] = False
    return config


PANOPTIC = sorted(path.stem for path in MODELS.glob("*.yaml") if "levels" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("name", PANOPTIC)  # the others are semantic networks without an encoder (test_deeplab.py)
def test_every_model_config_builds_and_runs(name):
    config = load(name)
    encoder = build_encoder(config).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 3, 64, 80), torch.zeros(1, 64, 80, dtype=torch.bool))
    sizes = [(8, 10), (4, 5), (2, 3), (1, 2)][: config["levels"]]
    assert [tuple(m.shape) for m in features.maps] == [(1, config["channels"], *size) for size in sizes]
    assert features.fine.shape == (1, encoder.fine_channels, 16, 20)
    assert all(torch.isfinite(m).all() for m in features.maps)


def test_paper_scale_models_are_the_papers():
    for name in ("r50", "r101", "swin_l"):
        config = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
        assert config["backbone"]["pretrained"]
        values = [config[k] for k in ("channels", "layers", "heads", "points", "levels", "feedforward", "dropout")]
        assert values == [256, 6, 8, 4, 4, 1024, 0.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 5}, "model.levels is 5"),
        ({"channels": 36, "heads": 4}, "model.channels is 36"),
        ({"width": 8}, "model has no option width; its options are channels, layers"),
        ({"backbone": None}, "no 'backbone'"),
    ],
)
def test_wrong_configs_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        build_encoder({"backbone": {"name": "mobilenetv3_small_050"}, **change})


def test_constants_of_the_positions_and_the_neck_are_used():
    positions = SinePositions(offset=0.0, scale=1.0, temperature=4, epsilon=0.0)
    encoder = small_encoder(layers=0, norm_groups=2, positions=positions)
    features = encoder(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    rows = features.positions[0][0, :16, :, 0]  # sine and cosine of each frequency, one value per row
    angles = (torch.arange(8) + 1) / 8
    torch.testing.assert_close(rows[0], angles.sin())
    torch.testing.assert_close(rows[2], (angles / 4 ** (2 / 16)).sin())
    assert {m.num_groups for m in encoder.neck.modules() if isinstance(m, torch.nn.GroupNorm)} == {2}
