"""The semantic branch that PSPS and Point2Mask train from points: one mask query per class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base.mask_decoder import NORM_EPSILON, ClassMaskDecoder
from methods.base.types import Features


@dataclass(frozen=True, slots=True)
class SemanticMaps:
    """Output of the semantic branch, one entry per decoder layer.

    Attributes:
        logits: (B, K, h, w) each; class probabilities are their softmax over K; (h, w) is the size of
            the finest encoder map.
        presence: (B, K) logits each, for a sigmoid, of the class occurring in the image.
    """

    logits: list[Tensor]
    presence: list[Tensor]


class SemanticBranch(nn.Module):
    """Class queries with a mask decoder of their own; logits = (scale · mask + shift) · sigmoid(presence).

    The per-class scale and shift start at 1 and 0 and are shared by all layers; presence heads are per layer.

    Args:
        num_classes: K, things and stuff.
        channels: width D of the encoder maps.
        layers: decoder layers, all of them supervised.
        heads: attention heads of the decoder.
        feedforward: hidden width of its MLPs.
        levels: encoder maps that are attended, finest first.
        norm_epsilon: ε of its layer norms.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, layers: int = 6, heads: int = 8, feedforward: int = 1024,
        levels: int = 3, norm_epsilon: float = NORM_EPSILON,
    ):
        super().__init__()
        self.decoder = ClassMaskDecoder(num_classes, channels, layers, heads, levels, feedforward, norm_epsilon)
        self.affine = nn.Conv2d(num_classes, num_classes, 1, groups=num_classes)
        nn.init.ones_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, features: Features) -> SemanticMaps:
        """Logits and presence of every layer, from the finest encoder maps."""
        masks, presence = self.decoder(features)
        logits = [self.affine(m) * torch.sigmoid(p)[..., None, None] for m, p in zip(masks, presence, strict=True)]
        return SemanticMaps(logits, presence)
