"""DeepLabV3+ (Chen et al., ECCV 2018): a dilated backbone, atrous spatial pyramid pooling, a decoder at 1/4.

The pyramid is torchvision's, dilation of backbones timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from methods.base.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, _downloaded, efficientnet_lite0_weights
from methods.base.options import call_with_options
from methods.base.semantic_method import SegmentationMaps

LOW_STRIDE = 4
OUTPUT_STRIDES = (8, 16, 32)


def dilated_backbone(
    name: str, pretrained: bool = True, output_stride: int = 8, multi_grid: Sequence[int] | None = None,
    frozen_norm: bool = False,
) -> Backbone:
    """A convolutional timm network whose last maps stay at ``output_stride``: strides are replaced by dilation.

    Args:
        name: ``efficientnet_lite0`` (ImageNet weights of an ordinary package) or a timm model, weights by timm's tag:
            ``resnet101s.gluon_in1k`` has the deep stem (64, 64, 128) of the AGMM released code, ``resnet101.tv_in1k`` are
            torchvision's.
        pretrained: load ImageNet weights.
        output_stride: 8, 16 or 32.
        multi_grid: factors of the dilation in the blocks of a ResNet's last stage, (2, 2, 4) for Cityscapes in the AGMM
            released code; None for none.
        frozen_norm: see `Backbone`.

    Returns:
        A backbone with two maps, at 1/4 and at ``1 / output_stride``.

    Raises:
        ValueError: unknown network or stride, or a multi-grid that does not fit the last stage.
        RuntimeError: weights that can be neither found nor downloaded.
    """
    if output_stride not in OUTPUT_STRIDES:
        known = ", ".join(map(str, OUTPUT_STRIDES))
        raise ValueError(f"model.backbone.output_stride is {output_stride}; it is one of {known}.")
    lite0 = name == "efficientnet_lite0"
    timm_name = "tf_efficientnet_lite0" if lite0 else name
    if not timm.is_model(timm_name):
        raise ValueError(f"Unknown backbone '{name}'; model.backbone.name is efficientnet_lite0 or a timm model's name.")
    create = partial(timm.create_model, timm_name, features_only=True, output_stride=output_stride)
    reductions = create(pretrained=False).feature_info.reduction()
    indices = (reductions.index(LOW_STRIDE), len(reductions) - 1)
    network = _downloaded(partial(create, pretrained=pretrained and not lite0, out_indices=indices), name)
    if lite0 and pretrained:
        weights = efficientnet_lite0_weights()
        classifier = ("conv_head.", "bn2.", "classifier.")
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(classifier)})
    if multi_grid is not None:
        _apply_multi_grid(network, multi_grid, name)
    channels = dict(zip((LOW_STRIDE, output_stride), network.feature_info.channels(), strict=True))
    if lite0:
        return Backbone(network, channels, (127 / 255,) * 3, (128 / 255,) * 3, frozen_norm)
    config = timm.get_pretrained_cfg(timm_name)
    mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
    return Backbone(network, channels, mean, std, frozen_norm)


def _apply_multi_grid(network: nn.Module, factors: Sequence[int], name: str) -> None:
    """Multiply the dilation of the 3x3 convolution of each block of a ResNet's last stage with its factor, in place."""
    blocks = list(getattr(network, "layer4", []))
    if len(blocks) != len(factors):
        raise ValueError(
            f"model.backbone.multi_grid has {len(factors)} factors, the last stage of '{name}' has "
            f"{len(blocks) or 'no'} residual blocks; give one factor per block or null."
        )
    for block, factor in zip(blocks, factors, strict=True):
        dilation = block.conv2.dilation[0] * factor
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ as in the AGMM released code.

    Args:
        backbone: of `dilated_backbone`.
        num_classes: K.
        rates: dilation of the pyramid's three 3x3 convolutions: 6, 12, 18 on VOC, 12, 24, 36 on Cityscapes.
        channels: D, width of the pyramid, the decoder and the fused map f.
        low_channels: width that the map at 1/4 is reduced to.
        dropout: probability of a channel of the pyramid to be dropped.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, *, rates: Sequence[int] = (6, 12, 18), channels: int = 256,
        low_channels: int = 48, dropout: float = 0.5,
    ):
        super().__init__()
        low, high = backbone.channels.values()
        self.backbone = backbone
        self.channels = channels
        self.pyramid = ASPP(high, list(rates), channels)
        self.pyramid.project[-1] = nn.Dropout2d(dropout)  # torchvision drops single values
        self.reduce = _convolution(low, low_channels, 1)
        self.fuse = nn.Sequential(
            _convolution(low_channels + channels, channels, 3), _convolution(channels, channels, 3)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor, padding: Tensor) -> SegmentationMaps:
        """Class logits and f at 1/4.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1].
            padding: (B, H, W) bool, True where padded.
        """
        low, high = self.backbone(images, padding)
        context = F.interpolate(self.pyramid(high), low.shape[-2:], mode="bilinear", align_corners=True)
        features = self.fuse(torch.cat([self.reduce(low), context], dim=1))
        return SegmentationMaps(self.classifier(features), features)


def build_deeplab(config: Mapping[str, Any], num_classes: int) -> DeepLabV3Plus:
    """The network of a ``model`` config: ``backbone`` (see `dilated_backbone`) and the options of `DeepLabV3Plus`.

    Raises:
        ValueError: unknown backbone, or an option that is not DeepLabV3+'s, with the valid ones.
    """
    options = {key: value for key, value in config.items() if key != "name"}
    backbone = options.pop("backbone", None)
    if backbone is None:
        raise ValueError("The model config has no 'backbone'; give model.backbone.name at least.")
    what = f"semantic model '{config.get('name')}'"
    foreign = sorted(set(options) - {"rates", "channels", "low_channels", "dropout"})
    if foreign:  # before any weights are fetched
        raise ValueError(f"The {what} has no option {', '.join(foreign)}; choose one of DeepLabV3+, as model=deeplab_tiny.")
    built = call_with_options(dilated_backbone, backbone, f"backbone '{backbone.get('name')}'")
    return call_with_options(DeepLabV3Plus, options, what, built, num_classes)
