"""The pixel embedding projector of PSPS ("manifold features"): unit vectors that tell instances apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.types import Features

INPUTS = ("map", "position", "level")


@dataclass(frozen=True, slots=True)
class Projection:
    """What the projector reads, and its hidden width; defaults are those of the PSPS released code.

    Attributes:
        levels: encoder maps that are summed, finest first, at least 1.
        inputs: what is added at each level, of `INPUTS`: the encoder's ``map``, the sine encoding of the ``position``, the
            learned embedding of the ``level``.
        hidden: channels between the two 1x1 convolutions; None for as many as the encoder's maps have.

    Raises:
        ValueError: no level, or inputs that are empty, repeated or unknown.
    """

    levels: int = 3
    inputs: Sequence[str] = INPUTS
    hidden: int | None = None

    def __post_init__(self):
        if self.levels < 1:
            raise ValueError(f"The projector's levels are {self.levels}; it reads at least one encoder map.")
        if not self.inputs or len(set(self.inputs)) < len(self.inputs) or not set(self.inputs) <= set(INPUTS):
            given = ", ".join(self.inputs) or "none"
            raise ValueError(f"The projector's inputs are {given}; give some of {', '.join(INPUTS)}, each once.")


class EmbeddingProjector(nn.Module):
    """Projects the encoder maps, without gradient to them, to unit-norm pixel embeddings.

    Args:
        channels: width D of the encoder maps.
        out: width of the embeddings.
        projection: what is read, and the hidden width.
    """

    def __init__(self, channels: int = 256, out: int = 128, projection: Projection = Projection()):
        super().__init__()
        self.levels, self.inputs = projection.levels, tuple(projection.inputs)
        hidden = channels if projection.hidden is None else projection.hidden
        self.project = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out, 1))

    def forward(self, features: Features) -> Tensor:
        """(B, out, h, w) embeddings of L2 norm 1 at the size of the finest encoder map.

        The inputs of each level are added, detached (PSPS released code: the metric loss trains the projector only),
        resized bilinearly to the finest level and summed. ValueError if the features have fewer than ``levels`` maps.
        """
        if len(features.maps) < self.levels:
            raise ValueError(
                f"The projector reads {self.levels} encoder levels but the features have {len(features.maps)}; "
                "lower its 'levels' or add encoder levels."
            )
        size = features.maps[0].shape[-2:]
        resized = [
            F.interpolate(self._embedded(features, level).detach(), size=size, mode="bilinear", align_corners=False)
            for level in range(self.levels)
        ]
        return F.normalize(self.project(sum(resized[1:], resized[0])).float(), dim=1)

    def _embedded(self, features: Features, level: int) -> Tensor:
        """(B, D, h_l, w_l) sum of the inputs of a level."""
        tables = {
            "map": features.maps[level],
            "position": features.positions[level],
            "level": features.level_embeddings[level, :, None, None].expand_as(features.maps[level]),
        }
        first, *rest = (tables[name] for name in self.inputs)
        return sum(rest, first)
