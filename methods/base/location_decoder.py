"""The location decoder: learned queries that find things (Panoptic SegFormer, Sec. 3.3; Deformable DETR, Sec. A.4).

Layers are mmdet's Deformable DETR layers. The loop over them is our own, because mmdet's decoder applies the box heads
once for the references and leaves it to the caller to apply them again for the boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers.transformer import inverse_sigmoid
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerDecoderLayer
from torch import Tensor, nn

from methods.base.mask_decoder import LearnedQueries
from methods.base.memory import Memory, valid_ratios
from methods.base.types import Features


def prior_bias(prior: float) -> float:
    """Bias at which a sigmoid gives the prior probability ``prior`` in (0, 1) that the focal loss starts from."""
    return -math.log((1 - prior) / prior)


@dataclass(frozen=True, slots=True)
class Locations:
    """Output of the location decoder.

    Attributes:
        queries: (B, Q, D) hidden states of the last layer.
        logits: (L, B, Q, C) class logits of each layer, for a sigmoid; there is no background column.
        boxes: (L, B, Q, 4) cx, cy, w, h in (0, 1), as shares of `valid_extent`.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor


def valid_extent(features: Features) -> Tensor:
    """(B, 2) float32 width and height in pixels that the decoder's normalised boxes refer to: the valid part of the finest
    level, which is the image's own size rounded up to that level's cells."""
    height, width = features.input_size
    return valid_ratios(features.padding[:1])[:, 0] * torch.tensor([width, height], device=features.maps[0].device)


class BoxHead(nn.Sequential):
    """MLP with two hidden ReLU layers to four box offsets; starts at ``size_bias`` for width and height, else 0."""

    def __init__(self, channels: int, size_bias: float):
        last = nn.Linear(channels, 4)
        super().__init__(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last)
        for layer in (self[0], self[2]):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, size_bias, size_bias]))


class LocationDecoder(nn.Module):
    """Deformable DETR decoder with iterative box refinement.

    Args:
        num_classes: C, thing classes.
        channels: width D of queries and encoder maps.
        queries: Q, learned queries.
        layers: decoder layers, each with class and box heads of its own.
        levels: encoder maps that are attended, finest first.
        heads, points: attention heads and sampling points per head and level.
        feedforward: hidden width of the MLPs.
        dropout: in attention and MLPs.
        prior: probability of every class at the start.
        size_bias: width and height of the first boxes around their references are its sigmoid.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, queries: int = 300, layers: int = 6, levels: int = 4,
        heads: int = 8, points: int = 4, feedforward: int = 1024, dropout: float = 0.1,
        prior: float = 0.01, size_bias: float = -2.0,
    ):
        super().__init__()
        self.levels = levels
        self.queries = LearnedQueries(queries, channels)
        self.reference_points = nn.Linear(channels, 2)
        self.layers = nn.ModuleList(
            [_decoder_layer(channels, levels, heads, points, feedforward, dropout) for _ in range(layers)]
        )
        self.class_heads = nn.ModuleList([nn.Linear(channels, num_classes) for _ in range(layers)])
        self._init_weights(prior)
        # The size is set once, by the first layer; the others keep what they are given.
        self.box_heads = nn.ModuleList([BoxHead(channels, size_bias if i == 0 else 0.0) for i in range(layers)])

    def _init_weights(self, prior: float) -> None:
        for parameter in [*self.layers.parameters(), *self.class_heads.parameters(), *self.reference_points.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.layers.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.zeros_(self.reference_points.bias)
        for head in self.class_heads:
            nn.init.constant_(head.bias, prior_bias(prior))

    def forward(self, features: Features) -> Locations:
        """Class logits and boxes of every layer.

        Raises ValueError if the features have fewer than ``levels`` maps.
        """
        memory = Memory.of(features, self.levels)
        ratios = valid_ratios(features.padding[: self.levels])
        shapes, starts = memory.layout()
        query, query_pos = self.queries(len(memory.tokens))
        reference = self.reference_points(query_pos).float().sigmoid()
        logits, boxes = [], []
        for layer, class_head, box_head in zip(self.layers, self.class_heads, self.box_heads, strict=True):
            size_of = ratios.repeat(1, 1, reference.shape[-1] // 2)
            query = layer(
                query, query_pos=query_pos, value=memory.tokens, key_padding_mask=memory.padding,
                reference_points=reference[:, :, None] * size_of[:, None], spatial_shapes=shapes, level_start_index=starts,
            )
            logits.append(class_head(query).float())
            boxes.append(_refined(box_head(query).float(), reference))
            reference = boxes[-1].detach()
        return Locations(query, torch.stack(logits), torch.stack(boxes))


def _refined(offsets: Tensor, reference: Tensor) -> Tensor:
    """Boxes from (…, 4) offsets and a reference that is a point (…, 2) or a box (…, 4), in logit space."""
    base = inverse_sigmoid(reference)
    return (offsets + nn.functional.pad(base, (0, 4 - base.shape[-1]))).sigmoid()


def _decoder_layer(
    channels: int, levels: int, heads: int, points: int, feedforward: int, dropout: float
) -> DeformableDetrTransformerDecoderLayer:
    return DeformableDetrTransformerDecoderLayer(
        self_attn_cfg={
            "embed_dims": channels, "num_heads": heads, "attn_drop": dropout, "batch_first": True,
            "dropout_layer": {"type": "Dropout", "drop_prob": dropout},
        },
        cross_attn_cfg={
            "embed_dims": channels, "num_heads": heads, "num_levels": levels, "num_points": points, "dropout": dropout,
            "batch_first": True,
        },
        ffn_cfg={
            "embed_dims": channels, "feedforward_channels": feedforward, "num_fcs": 2, "ffn_drop": dropout,
            "act_cfg": {"type": "ReLU", "inplace": True},
        },
    )
