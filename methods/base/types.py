"""The types that data, networks, labelers and evaluation share.

Conventions, used everywhere in the project:

* images are RGB, float32 in [0, 1]; a backbone normalises for itself;
* a *label* is a contiguous class index, things first (``0 .. num_things - 1``), then stuff; category ids of a data set
  appear only in files and in COCO-style ``segments_info``;
* a *target* is one thing instance or one present stuff class of an image, the unit that gets points;
* point coordinates are integer pixel indices ``(x, y)``, boxes half-open pixel extents ``(x0, y0, x1, y1)``;
* segment ids are 0 for void and ``target index + 1`` in pseudo labels;
* batched maps have the padded input size ``(H, W)``; the valid part of image ``i`` is the top left ``sizes[i]``.

A point-supervised run loads `PointSample` only. It has slots and no mask, box or segment field, so that code which wants
a mask from it fails with an AttributeError. `MaskSample` is what the ``full_masks`` bound and evaluation load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from methods.base.labels import Categories, Category, Movable, PointLabels, PseudoLabels, boxes_of

__all__ = [
    "Categories", "Category", "Features", "MaskBatch", "MaskSample", "PanopticMap", "PointBatch", "PointLabels",
    "PointSample", "Progress", "PseudoLabels", "Segment", "SemanticMap", "boxes_of", "collate",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PointSample:
    """One training image with its points, and nothing else.

    Attributes:
        image: (3, h, w) float32 RGB in [0, 1], after the transforms.
        points: the labelled pixels, moved with the image.
        image_id: identity of the image in its data set.
        original_size: (height, width) of the image file.
    """

    image: Tensor
    points: PointLabels
    image_id: int | str
    original_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MaskSample(PointSample):
    """A training image with its dense ground truth, for the ``full_masks`` bound and the ground-truth controls only.

    Attributes:
        target: (h, w) labels read from masks; ``ignore`` is True on void and crowd pixels. Its targets are in the order of
            ``points`` (same ``classes``), so that identity is known.
    """

    target: PseudoLabels


@dataclass(frozen=True, slots=True)
class PointBatch(Movable):
    """Images padded to a common size, with their points.

    Attributes:
        images: (B, 3, H, W) float32 RGB in [0, 1], zero in the padding.
        padding: (B, H, W) bool, True where padded.
        sizes: B pairs (height, width), the valid part of each image.
        points: B point labels; empty labels when there is no supervision (prediction).
        image_ids: B identities.
        prepared: pieces that a labeler's `preparation` made in the data loader, see `methods.base.preparation`; None where
            nobody did.
    """

    images: Tensor
    padding: Tensor
    sizes: list[tuple[int, int]]
    points: list[PointLabels]
    image_ids: list[int | str]
    prepared: list[Movable] | None = field(default=None, kw_only=True)

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the padded batch."""
        return tuple(self.images.shape[-2:])  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class MaskBatch(PointBatch):
    """A `PointBatch` with dense ground truth, each of the padded size."""

    targets: list[PseudoLabels]


def collate(samples: Sequence[PointSample]) -> PointBatch:
    """Pad samples to the largest height and width: zeros for images, void and ignored for masks.

    Returns a `MaskBatch` if the samples are `MaskSample`, else a `PointBatch`.
    """
    sizes = [tuple(s.image.shape[-2:]) for s in samples]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(samples), 3, height, width)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for i, sample in enumerate(samples):
        h, w = sizes[i]
        images[i, :, :h, :w] = sample.image
        padding[i, :h, :w] = False
    common = (images, padding, sizes, [s.points for s in samples], [s.image_id for s in samples])
    if not isinstance(samples[0], MaskSample):
        return PointBatch(*common)
    return MaskBatch(*common, [_padded(s.target, (height, width)) for s in samples])  # type: ignore[attr-defined]


def _padded(labels: PseudoLabels, input_size: tuple[int, int]) -> PseudoLabels:
    h, w = labels.segment_ids.shape
    segment_ids = torch.zeros(input_size, dtype=torch.int64)
    ignore = torch.ones(input_size, dtype=torch.bool)
    segment_ids[:h, :w] = labels.segment_ids
    ignore[:h, :w] = labels.ignore
    return replace(labels, segment_ids=segment_ids, ignore=ignore)


@dataclass(frozen=True, slots=True)
class Features(Movable):
    """What the encoder gives to heads and labelers.

    Attributes:
        maps: (B, D, h_l, w_l) encoder outputs, finest first: 1/8, 1/16 and 1/32 of the input, which mask decoders and
            labelers read, then any coarser level (1/64), which only the location decoder attends to.
        positions: (B, D, h_l, w_l) sine encoding of each level, without the level embedding.
        level_embeddings: (levels, D), the learned embedding of each level.
        padding: (B, h_l, w_l) bool mask of each level, True where padded.
        fine: (B, C2, H/4, W/4) raw backbone map at 1/4, or None if the backbone gives none.
        input_size: (H, W) of the padded batch.
    """

    maps: list[Tensor]
    positions: list[Tensor]
    level_embeddings: Tensor
    padding: list[Tensor]
    fine: Tensor | None
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """One predicted segment: id in the map, contiguous label, thing or stuff, score in [0, 1]."""

    id: int
    label: int
    is_thing: bool
    score: float


@dataclass(frozen=True, slots=True)
class PanopticMap:
    """A panoptic prediction.

    Attributes:
        segment_ids: (H, W) int64, 0 = void, other values are listed in ``segments``.
        segments: the segments that occur in the map.
        semantic: (H, W) int64 class map of a semantic branch, or None.
    """

    segment_ids: Tensor
    segments: list[Segment]
    semantic: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SemanticMap:
    """A semantic prediction: ``classes`` (H, W) int64 contiguous labels."""

    classes: Tensor


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands; part of the checkpoint, so warm-ups survive a resume.

    Attributes:
        step: optimiser steps done, ``0 .. total_steps``.
        total_steps: length of the run.
        epoch: passes over the training images done.
        total_epochs: length of the run in passes (at least 1).
    """

    step: int
    total_steps: int
    epoch: int = 0
    total_epochs: int = 1

    @classmethod
    def finished(cls) -> Progress:
        """The progress of a trained model: every warm-up is over."""
        return cls(1, 1, 1, 1)

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))

    def warmup(self, length: float) -> float:
        """Linear warm-up factor in [0, 1]: 0 at the first step, 1 after ``length`` (a share of the run; 0 = none).

        The papers count warm-ups in iterations of their schedule; as a share they scale with the number of steps.
        """
        return 1.0 if length <= 0 else min(1.0, self.fraction / length)
