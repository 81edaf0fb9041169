"""Backbone, neck and deformable transformer encoder of Panoptic SegFormer, from mmdet's parts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.models.necks import ChannelMapper
from torch import Tensor, nn

from methods.base.backbones import Backbone
from methods.base.memory import Memory, flattened, valid_ratios
from methods.base.types import Features

BACKBONE_LEVELS = 3
"""Levels at 1/8, 1/16 and 1/32 come from the backbone, a fourth one at 1/64 from a strided convolution."""


@dataclass(frozen=True, slots=True)
class SinePositions:
    """The two-dimensional sine encoding (DETR): a place counts the valid cells up to it, as a share of all of its line.

    Attributes:
        temperature: base of the wave lengths.
        offset: added to the counts; -0.5 gives cell centres.
        scale: what a share of 1 becomes, in radians.
        epsilon: added to the number of valid cells that is divided by.
    """

    temperature: float = 10000
    offset: float = -0.5
    scale: float = 2 * math.pi
    epsilon: float = 1e-6


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
        norm_groups: groups of the neck's GroupNorm, fewer at small widths (`group_norm`).
        positions: the sine encoding.

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
        norm_groups: int = 32,
        positions: SinePositions = SinePositions(),
    ):
        super().__init__()
        if levels not in (3, 4):
            raise ValueError(f"model.levels is {levels}; the encoder reads 3 levels (1/8 to 1/32) or 4 (and 1/64).")
        if channels % heads or channels % 8:
            raise ValueError(f"model.channels is {channels}; it must be divisible by 8 and by model.heads ({heads}).")
        self.channels = channels
        self.fine_channels = backbone.channels[4]
        self.backbone = backbone
        self.neck = _neck(backbone, channels, levels if layers else BACKBONE_LEVELS, norm_groups)
        self.positional_encoding = _sine_encoding(channels, positions)
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
        embedded = [p + e[:, None, None] for p, e in zip(positions, self.level_embeddings, strict=True)]
        tokens = Memory.of_maps(maps, padding)
        shapes, starts = tokens.layout()
        attended = self.transformer(
            query=tokens.tokens,
            query_pos=flattened(embedded),
            key_padding_mask=tokens.padding,
            spatial_shapes=shapes,
            level_start_index=starts,
            valid_ratios=valid_ratios(padding),
        )
        parts = attended.transpose(1, 2).split([h * w for h, w in tokens.sizes], dim=2)
        return [part.unflatten(2, size) for part, size in zip(parts, tokens.sizes, strict=True)]


def group_norm(channels: int, groups: int = 32) -> dict[str, Any]:
    """mmcv's norm config: 32 groups at the papers' 256 channels, fewer at smaller widths.

    A group keeps at least 8 channels: a 1x1 map normalised over very few values would lose what it says.
    """
    return {"type": "GN", "num_groups": math.gcd(groups, channels // 8)}


def _sine_encoding(channels: int, positions: SinePositions) -> SinePositionalEncoding:
    """Half of the channels for rows, half for columns, normalised by the valid size."""
    options = asdict(positions)
    return SinePositionalEncoding(channels // 2, normalize=True, eps=options.pop("epsilon"), **options)


def _neck(backbone: Backbone, channels: int, levels: int, norm_groups: int) -> ChannelMapper:
    """1x1 convolutions and GroupNorm on C3, C4, C5; the level at 1/64 is a 3x3 stride-2 convolution of the raw C5."""
    neck = ChannelMapper(
        [backbone.channels[stride] for stride in (8, 16, 32)],
        channels,
        kernel_size=1,
        norm_cfg=group_norm(channels, norm_groups),
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
