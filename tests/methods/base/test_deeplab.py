"""DeepLabV3+: the networks of the model configs, their strides and dilations, and what gradient reaches."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from benchmark.configs import CONF, compose_run, names_in
from methods.base.deeplab import DeepLabV3Plus, build_deeplab, dilated_backbone
from methods.base.semantic_method import enlarged

CONFIGS = [name for name in names_in("model") if name.startswith("deeplab_")]


def config_of(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    config["backbone"]["pretrained"] = False
    return config


def images_of(sizes, side=96):
    images, padding = torch.rand(len(sizes), 3, side, side), torch.ones(len(sizes), side, side, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        padding[i, :height, :width] = False
    return images, padding


@pytest.mark.parametrize("name", ["deeplab_tiny", "deeplab_lite0"])
def test_the_small_networks_give_maps_at_a_quarter_and_train_every_parameter(name):
    torch.manual_seed(0)
    network = build_deeplab(config_of(name), num_classes=5)
    assert names_in("model").count(name) == 1
    images, padding = images_of([(96, 96), (70, 80)])
    maps = network(images, padding)
    assert maps.logits.shape == (2, 5, 24, 24) and maps.features.shape == (2, network.channels, 24, 24)
    maps.logits.square().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplab_r50", "deeplab_r101"])
def test_the_papers_networks_take_a_step(name):
    torch.manual_seed(0)
    network = build_deeplab(config_of(name), num_classes=21)
    maps = network(*images_of([(64, 64), (50, 64)], side=64))
    assert maps.logits.shape == (2, 21, 16, 16) and maps.features.shape[1] == 256
    maps.logits.square().mean().backward()
    assert all(p.requires_grad and p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    low, high = network.backbone.channels.items()
    assert (low, high) == ((4, 256), (8, 2048))
    assert network.reduce[0].out_channels == 48 and isinstance(network.pyramid.project[-1], nn.Dropout2d)


def test_all_networks_are_tested():
    assert set(CONFIGS) == {"deeplab_tiny", "deeplab_lite0", "deeplab_r50", "deeplab_r101"}


@pytest.mark.parametrize("name", ["test_resnet", "efficientnet_lite0"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_output_stride_holds_for_odd_sizes(name, stride):
    backbone = dilated_backbone(name, pretrained=False, output_stride=stride).eval()
    images, padding = torch.rand(1, 3, 97, 130), torch.zeros(1, 97, 130, dtype=torch.bool)
    low, high = backbone(images, padding)
    assert low.shape == (1, backbone.channels[4], 25, 33)
    assert high.shape == (1, backbone.channels[stride], math.ceil(97 / stride), math.ceil(130 / stride))


@pytest.mark.slow
def test_resnets_have_the_deep_stem_and_dilation_instead_of_strides():
    body = dilated_backbone("resnet50s.gluon_in1k", pretrained=False, multi_grid=(2, 2, 4)).body
    stem = [m for m in body["conv1"].modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size) for m in stem] == [(64, (3, 3)), (64, (3, 3)), (128, (3, 3))]
    assert [block.conv2.stride for block in [*body["layer3"], *body["layer4"]]] == [(1, 1)] * 9
    assert [block.conv2.dilation for block in body["layer4"]] == [(4, 4), (8, 8), (16, 16)]  # 2, 4, 4 without the grid
    assert all(block.conv2.padding == block.conv2.dilation for block in body["layer4"])


def test_enlarged_maps_have_corner_cells_on_corner_pixels():
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    large = enlarged(maps, (9, 13))
    torch.testing.assert_close(large[..., ::4, ::4], maps)


def test_what_the_padding_holds_does_not_matter():
    backbone = dilated_backbone("test_resnet", pretrained=False)
    network = DeepLabV3Plus(backbone, 3, channels=16, low_channels=8, rates=(2,)).eval()
    images, padding = images_of([(60, 50)])
    other = images.masked_fill(padding[:, None], 7.0)
    assert torch.equal(network(images, padding).logits, network(other, padding).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {"name": "resnet5000"}}, "Unknown backbone 'resnet5000'"),
        ({"backbone": {"name": "test_resnet", "depth": 3}}, "has no option depth; its options are name, pretrained, outp"),
        ({"backbone": {"name": "test_resnet", "pretrained": False, "output_stride": 4}}, "output_stride is 4; it is one of"),
        (
            {"backbone": {"name": "test_resnet", "pretrained": False, "multi_grid": [2, 2, 4]}},
            "multi_grid has 3 factors, the last stage of 'test_resnet' has 1 residual blocks",
        ),
        (
            {"backbone": {"name": "efficientnet_lite0", "pretrained": False, "multi_grid": [2]}},
            "the last stage of 'efficientnet_lite0' has no residual blocks",
        ),
    ],
)
def test_a_wrong_network_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        build_deeplab({**config_of("deeplab_tiny"), **change}, 3)


def test_a_panoptic_network_is_refused_before_anything_is_fetched():
    with pytest.raises(ValueError, match=r"semantic model 'r50' has no option branch, .*DeepLabV3\+, as model=deeplab_tiny"):
        build_deeplab(compose_run(["model=r50"])["model"], 3)
