"""The pixel embedding of PSPS ("manifold features"): unit vectors that tell instances apart, and the loss that trains them.

Point2Mask keeps both; its boundary decoder is a projector of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.types import Features, PointBatch, PseudoLabels
from methods.ops.rasterize import point_cells, resample

INPUTS = ("map", "position", "level")


@dataclass(frozen=True, slots=True)
class Projection:
    """What a projector reads, and its hidden width; defaults are those of the PSPS released code.

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


class LevelProjector(nn.Module):
    """Two 1x1 convolutions with a ReLU between, over the sum of the encoder maps at the finest size.

    Args:
        channels: width D of the encoder maps.
        out: channels of the result.
        projection: what is read, and the hidden width.
        detach: no gradient flows into the encoder.
    """

    def __init__(self, channels: int, out: int, projection: Projection = Projection(), detach: bool = True):
        super().__init__()
        self.levels, self.inputs, self.detach = projection.levels, tuple(projection.inputs), detach
        hidden = channels if projection.hidden is None else projection.hidden
        self.project = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out, 1))

    def forward(self, features: Features) -> Tensor:
        """(B, out, h, w) at the size of the finest encoder map.

        The inputs of each level are added, resized bilinearly to the finest level and summed. ValueError if the features
        have fewer than ``levels`` maps.
        """
        if len(features.maps) < self.levels:
            raise ValueError(
                f"The projector reads {self.levels} encoder levels but the features have {len(features.maps)}; "
                "lower its 'levels' or add encoder levels."
            )
        size = features.maps[0].shape[-2:]
        inputs = (self._inputs(features, level) for level in range(self.levels))
        resized = [F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in inputs]
        return self.project(sum(resized[1:], resized[0]))

    def _inputs(self, features: Features, level: int) -> Tensor:
        """(B, D, h_l, w_l) sum of the inputs of a level."""
        tables = {
            "map": features.maps[level],
            "position": features.positions[level],
            "level": features.level_embeddings[level, :, None, None].expand_as(features.maps[level]),
        }
        first, *rest = (tables[name] for name in self.inputs)
        total = sum(rest, first)
        return total.detach() if self.detach else total


class EmbeddingProjector(LevelProjector):
    """Projects the encoder maps, without gradient to them (the metric loss trains the projector only; PSPS released code),
    to unit-norm pixel embeddings.

    Args:
        channels: width D of the encoder maps.
        out: width of the embeddings.
        projection: what is read, and the hidden width.
    """

    def __init__(self, channels: int = 256, out: int = 128, projection: Projection = Projection()):
        super().__init__(channels, out, projection)

    def forward(self, features: Features) -> Tensor:
        """(B, out, h, w) embeddings of L2 norm 1 at the size of the finest encoder map; see `LevelProjector`."""
        return F.normalize(super().forward(features).float(), dim=1)


def segment_prototypes(embedding: Tensor, masks: Tensor) -> Tensor:
    """Mean embedding of each segment, ``sum_x m(x) F(x) / max(1, sum_x m(x))``, not normalised again.

    Args:
        embedding: (D, h, w) float.
        masks: (n, h, w) float in [0, 1].

    Returns:
        (n, D); 0 for an empty segment.
    """
    weights = masks.flatten(1).to(embedding.dtype)
    return weights @ embedding.flatten(1).T / weights.sum(dim=1, keepdim=True).clamp(min=1)


def contrastive_loss(
    embedding: Tensor, masks: Tensor, cells: Tensor, target: Tensor, temperature: float = 0.07, empty_slots: int = 0
) -> Tensor:
    """``-log softmax_k(F(x) . r_k / temperature)`` at the segment of each labelled pixel x, averaged over the pixels.

    Gradient flows into both F(x) and the prototypes r.

    Args:
        embedding: (D, h, w) float, unit norm over D.
        masks: (n, h, w) float in [0, 1], current pseudo masks of the targets, without gradient.
        cells: (p, 2) int64 row and column of each labelled pixel.
        target: (p,) int64 in ``0 .. n - 1``.
        temperature: positive.
        empty_slots: prototypes of value 0 beside those of the targets (the stuff classes that do not occur).

    Returns:
        Scalar; 0 without a labelled pixel.
    """
    if not len(cells):
        return embedding.sum() * 0
    prototypes = F.pad(segment_prototypes(embedding, masks), (0, 0, 0, empty_slots))
    logits = embedding[:, cells[:, 0], cells[:, 1]].T @ prototypes.T / temperature
    return F.cross_entropy(logits, target)


def metric_loss(
    embeddings: Tensor, labels: list[PseudoLabels], batch: PointBatch, num_stuff: int, temperature: float = 0.07
) -> Tensor:
    """`contrastive_loss` of a batch with the current pseudo masks, averaged over its images (PSPS released code).

    Args:
        embeddings: (B, D, h, w) float, unit norm over D, covering the padded input.
        labels: pseudo labels of the images.
        batch: images with points.
        num_stuff: stuff classes of the data set; those that do not occur are prototypes of value 0.
        temperature: positive.
    """
    grid = tuple(embeddings.shape[-2:])
    per_image = []
    with torch.autocast(embeddings.device.type, enabled=False):
        for embedding, label, points in zip(embeddings.float(), labels, batch.points, strict=True):
            masks = resample(label.masks().float(), batch.input_size, batch.input_size, grid)
            cells = point_cells(points.xy, batch.input_size, grid)
            empty = num_stuff - int((~points.is_thing).sum())
            per_image.append(contrastive_loss(embedding, masks, cells, points.target, temperature, empty))
    return torch.stack(per_image).mean()
