"""Backbone, neck and deformable transformer encoder of Panoptic SegFormer, from mmdet's parts."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.models.necks import ChannelMapper
from torch import Tensor, nn

from methods.base.backbones import Backbone
from methods.base.types import Features

BACKBONE_LEVELS = 3
"""Levels at 1/8, 1/16 and 1/32 come from the backbone, a fourth one at 1/64 from a strided convolution."""


class Encoder(nn.Module):
    """Images to `Features`: backbone, 1x1 neck with GroupNorm, multi-scale deformable encoder.

    Args:
        backbone: gives maps at strides 4, 8, 16, 32.
        channels: width D of the output maps, divisible by ``heads`` and by 8.
        layers: encoder layers; 0 gives the neck's maps and no learned level embedding.
        heads, points: attention heads, and sampling points per head and level.
        levels: 3 (strides 8 to 32) or 4 (and 64, made from the raw stride-32 map by a strided 3x3 convolution).
        feedforward: hidden width of the feed-forward networks.
        dropout: in attention output and feed-forward networks.

    Attributes:
        channels: width D of the output maps.
        fine_channels: width of ``Features.fine``.
    """

    def __init__(
        self,
        backbone: Backbone,
        channels: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        levels: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        if levels not in (3, 4):
            raise ValueError(f"model.levels is {levels}; the encoder reads 3 levels (1/8 to 1/32) or 4 (and 1/64).")
        if channels % heads or channels % 8:
            raise ValueError(f"model.channels is {channels}; it must be divisible by 8 and by model.heads ({heads}).")
        self.channels = channels
        self.fine_channels = backbone.channels[4]
        self.backbone = backbone
        self.neck = _neck(backbone, channels, levels if layers else BACKBONE_LEVELS)
        self.positional_encoding = SinePositionalEncoding(channels // 2, normalize=True, offset=-0.5)
        if layers:
            attention = {"embed_dims": channels, "num_heads": heads, "num_levels": levels, "num_points": points}
            self.transformer = _transformer(attention, layers, feedforward, dropout)
            self.level_embeddings = nn.Parameter(torch.randn(levels, channels))
        else:
            self.transformer = None
            self.register_buffer("level_embeddings", torch.zeros(BACKBONE_LEVELS, channels), persistent=False)

    def forward(self, images: Tensor, padding: Tensor) -> Features:
        """The maps that heads and labelers read.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1].
            padding: (B, H, W) bool, True where padded; the valid part is the top left of each image.
        """
        fine, *maps = self.backbone(images, padding)
        maps = list(self.neck(maps))
        padded = [_resized_padding(padding, m.shape[-2:]) for m in maps]
        positions = [self.positional_encoding(p) for p in padded]
        if self.transformer is not None:
            maps = self.attend(maps, positions, padded)
        return Features(maps, positions, self.level_embeddings, padded, fine, tuple(images.shape[-2:]))

    def attend(self, maps: list[Tensor], positions: list[Tensor], padding: list[Tensor]) -> list[Tensor]:
        """The transformer encoder on the neck's maps; padded cells are never read by valid ones.

        Args:
            maps: one (B, D, h_l, w_l) per encoder level.
            positions: their sine encodings.
            padding: (B, h_l, w_l) bool, True where padded.

        Returns:
            Maps of the same shapes.
        """
        shapes = [m.shape[-2:] for m in maps]
        sizes = [h * w for h, w in shapes]
        starts = [sum(sizes[:level]) for level in range(len(sizes))]
        embedded = [p + e[:, None, None] for p, e in zip(positions, self.level_embeddings, strict=True)]
        device = maps[0].device
        memory = self.transformer(
            query=_flattened(maps),
            query_pos=_flattened(embedded),
            key_padding_mask=torch.cat([p.flatten(1) for p in padding], dim=1),
            spatial_shapes=torch.tensor(shapes, device=device),
            level_start_index=torch.tensor(starts, device=device),
            valid_ratios=torch.stack([_valid_ratio(p) for p in padding], dim=1),
        )
        parts = memory.transpose(1, 2).split(sizes, dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


def group_norm(channels: int) -> dict[str, Any]:
    """mmcv's norm config: 32 groups at the papers' 256 channels, fewer at smaller widths.

    A group keeps at least 8 channels: a 1x1 map normalised over very few values would lose what it says.
    """
    return {"type": "GN", "num_groups": math.gcd(32, channels // 8)}


def _neck(backbone: Backbone, channels: int, levels: int) -> ChannelMapper:
    """1x1 convolutions and GroupNorm on C3, C4, C5; the level at 1/64 is a 3x3 stride-2 convolution of the raw C5."""
    neck = ChannelMapper(
        [backbone.channels[stride] for stride in (8, 16, 32)],
        channels,
        kernel_size=1,
        norm_cfg=group_norm(channels),
        act_cfg=None,
        num_outs=levels,
    )
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return neck


def _transformer(attention: dict[str, int], layers: int, feedforward: int, dropout: float) -> nn.Module:
    """Post-norm deformable encoder, Xavier-uniform but for the attention's own initialisation of its sampling grid."""
    layer = {
        "self_attn_cfg": {**attention, "dropout": dropout, "batch_first": True},
        "ffn_cfg": {
            "embed_dims": attention["embed_dims"], "feedforward_channels": feedforward, "num_fcs": 2, "ffn_drop": dropout,
        },
    }  # fmt: skip
    encoder = DeformableDetrTransformerEncoder(layers, layer)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for module in encoder.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.init_weights()
    return encoder


def _resized_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) bool: nearest resize of the padding mask (B, H, W)."""
    return F.interpolate(padding[:, None].float(), size=size, mode="nearest")[:, 0] > 0.5


def _valid_ratio(padding: Tensor) -> Tensor:
    """(B, 2) share of valid columns and rows of (B, h, w) padding masks, in x, y order (Deformable DETR)."""
    valid = ~padding
    return torch.stack([valid[:, 0].float().mean(1), valid[:, :, 0].float().mean(1)], dim=1)


def _flattened(maps: list[Tensor]) -> Tensor:
    """(B, sum of h_l w_l, D) from maps (B, D, h_l, w_l)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
