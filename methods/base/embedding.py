"""The pixel embedding projector of PSPS ("manifold features"): unit vectors that tell instances apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.types import Features


class EmbeddingProjector(nn.Module):
    """Projects the encoder maps, without gradient to them, to unit-norm pixel embeddings.

    Args:
        channels: width D of the encoder maps.
        out: width of the embeddings.
        levels: encoder maps that are summed, finest first.
    """

    def __init__(self, channels: int = 256, out: int = 128, levels: int = 3):
        super().__init__()
        self.levels = levels
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, out, 1))

    def forward(self, features: Features) -> Tensor:
        """(B, out, h, w) embeddings of L2 norm 1 at the size of the finest encoder map.

        Map, position and level embedding of each level are added, detached (PSPS released code: the metric loss trains the
        projector only), resized bilinearly to the finest level and summed.
        """
        size = features.maps[0].shape[-2:]
        total: Tensor | None = None
        for level in range(self.levels):
            embedded = features.maps[level] + features.positions[level] + features.level_embeddings[level, :, None, None]
            resized = F.interpolate(embedded.detach(), size=size, mode="bilinear", align_corners=False)
            total = resized if total is None else total + resized
        return F.normalize(self.project(total).float(), dim=1)
