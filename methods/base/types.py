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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Category:
    """One category of a data set, as in a COCO panoptic JSON: sparse positive ``id``, ``name``, ``is_thing``."""

    id: int
    name: str
    is_thing: bool


class Categories(Sequence[Category]):
    """The categories of a data set, things first, each at its contiguous label.

    The order within things and within stuff is the given one. Raises ValueError on an empty list, on a repeated id and on
    a repeated name.
    """

    def __init__(self, categories: Iterable[Category]):
        given = list(categories)
        self._items = [c for c in given if c.is_thing] + [c for c in given if not c.is_thing]
        if not self._items:
            raise ValueError("A data set needs at least one category, the list is empty.")
        for what in ("id", "name"):
            values = [getattr(c, what) for c in self._items]
            repeated = sorted({str(v) for v in values if values.count(v) > 1})
            if repeated:
                raise ValueError(f"Category {what} {', '.join(repeated)} is listed more than once.")
        self._label_of_id = {c.id: label for label, c in enumerate(self._items)}

    @classmethod
    def from_coco(cls, categories: Iterable[dict[str, Any]]) -> Categories:
        """From COCO category dicts with ``id``, ``name`` and ``isthing`` (0 or 1)."""
        return cls(Category(int(c["id"]), str(c["name"]), bool(c["isthing"])) for c in categories)

    def to_coco(self) -> list[dict[str, Any]]:
        """The COCO category dicts, in label order."""
        return [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, label):  # type: ignore[override]
        return self._items[label]

    def __iter__(self) -> Iterator[Category]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Categories) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_things(self) -> int:
        return sum(c.is_thing for c in self._items)

    @property
    def num_stuff(self) -> int:
        return len(self._items) - self.num_things

    @property
    def names(self) -> list[str]:
        return [c.name for c in self._items]

    def label_of(self, category_id: int) -> int:
        """Contiguous label of a category id; KeyError with the known ids otherwise."""
        try:
            return self._label_of_id[category_id]
        except KeyError:
            known = ", ".join(f"{c.id} ({c.name})" for c in self._items)
            raise KeyError(f"Unknown category id {category_id}; known are {known}.") from None


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value.to(device) if hasattr(value, "to") else value


def _pinned(value: Any) -> Any:
    if isinstance(value, list):
        return [_pinned(item) for item in value]
    return value.pin_memory() if hasattr(value, "pin_memory") else value


class _Movable:
    """``to(device)`` and ``pin_memory()`` for a frozen dataclass: every tensor moves, also in lists and nested types."""

    __slots__ = ()

    def to(self, device: torch.device | str):
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})

    def pin_memory(self):
        """A copy in page-locked memory, as a data loader with ``pin_memory`` asks for."""
        return replace(self, **{f.name: _pinned(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class PointLabels(_Movable):
    """Sparse labels of one image: labelled pixels, each belonging to one target.

    Points and scribbles are the same type (a scribble is many pixels of one target). For purely semantic labels a target
    is a class.

    Attributes:
        xy: (p, 2) int64, pixel column and row of each labelled pixel, inside the image.
        target: (p,) int64 in ``0 .. n-1``, the target that each pixel belongs to.
        classes: (n,) int64, contiguous label of each target.
        is_thing: (n,) bool.
        ids: (n,) int64, the target's identity in the points file (the segment it was drawn from, never its mask).
    """

    xy: Tensor
    target: Tensor
    classes: Tensor
    is_thing: Tensor
    ids: Tensor

    @property
    def num_targets(self) -> int:
        return self.classes.numel()

    @property
    def point_classes(self) -> Tensor:
        """(p,) int64, the label of each labelled pixel."""
        return self.classes[self.target]


@dataclass(frozen=True, slots=True)
class PseudoLabels(_Movable):
    """Dense labels of one image, made from points or read from masks: what a head is trained on.

    Attributes:
        segment_ids: (H, W) int64, 0 = void, ``i + 1`` = target ``i``. A target may be empty.
        classes: (n,) int64 contiguous labels.
        is_thing: (n,) bool.
        scores: (n,) float32 in [0, 1], confidence of each segment (1 where the labeler has none).
        boxes: (n, 4) float32, half-open pixel extents x0, y0, x1, y1; an empty target has the central box (see `boxes_of`).
        ignore: (H, W) bool, pixels that no loss may read: padding, and unknown pixels of partial labels. A void pixel that
            is not ignored is a negative of every mask.
    """

    segment_ids: Tensor
    classes: Tensor
    is_thing: Tensor
    scores: Tensor
    boxes: Tensor
    ignore: Tensor

    @property
    def num_targets(self) -> int:
        return self.classes.numel()

    def masks(self) -> Tensor:
        """(n, H, W) bool, one mask per target."""
        targets = torch.arange(1, self.num_targets + 1, device=self.segment_ids.device)
        return self.segment_ids[None] == targets[:, None, None]

    @classmethod
    def from_segment_ids(
        cls, segment_ids: Tensor, classes: Tensor, is_thing: Tensor, size: tuple[int, int],
        scores: Tensor | None = None, ignore: Tensor | None = None,
    ) -> PseudoLabels:
        """Complete labels from an id map: boxes from the mask extents, pixels outside ``size`` void and ignored.

        Args:
            segment_ids: (H, W) int, 0 = void, ``i + 1`` = target ``i``.
            classes, is_thing: (n,) of the targets.
            size: (height, width) of the unpadded image.
            scores: (n,) or None for ones.
            ignore: (H, W) bool or None for "only the padding".
        """
        height, width = size
        inside = torch.zeros(segment_ids.shape, dtype=torch.bool, device=segment_ids.device)
        inside[:height, :width] = True
        segment_ids = segment_ids.long() * inside
        ignore = ~inside if ignore is None else ignore | ~inside
        scores = torch.ones(len(classes), device=segment_ids.device) if scores is None else scores
        boxes = boxes_of(segment_ids, len(classes), size)
        return cls(segment_ids, classes.long(), is_thing.bool(), scores.float(), boxes, ignore)


def boxes_of(segment_ids: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Boxes of the targets of an id map.

    Args:
        segment_ids: (H, W) int64, 0 = void, ``i + 1`` = target ``i``.
        count: number of targets n.
        size: (height, width) of the unpadded image, to which boxes are clipped.

    Returns:
        (n, 4) float32 half-open extents ``[x0, y0, x1 + 1, y1 + 1]``. A target without a pixel gets the central box
        ``[w/4, h/4, 3w/4, 3h/4]``, the convention of the released PSPS code.
    """
    height, width = size
    device = segment_ids.device
    central = torch.tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4], device=device)
    boxes = central.repeat(count, 1)
    ids, rows, cols = _pixels(segment_ids[:height, :width], count)
    if not ids.numel():
        return boxes
    low = torch.full((count, 2), float("inf"), device=device)
    high = torch.full((count, 2), -1.0, device=device)
    place = torch.stack([cols, rows], dim=1).float()
    index = ids[:, None].expand(-1, 2)
    low.scatter_reduce_(0, index, place, "amin")
    high.scatter_reduce_(0, index, place, "amax")
    found = high[:, 0] >= 0
    boxes[found] = torch.cat([low, high + 1], dim=1)[found]
    return boxes


def _pixels(segment_ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, cols = torch.nonzero((segment_ids > 0) & (segment_ids <= count), as_tuple=True)
    return segment_ids[rows, cols].long() - 1, rows, cols


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
class PointBatch(_Movable):
    """Images padded to a common size, with their points.

    Attributes:
        images: (B, 3, H, W) float32 RGB in [0, 1], zero in the padding.
        padding: (B, H, W) bool, True where padded.
        sizes: B pairs (height, width), the valid part of each image.
        points: B point labels; empty labels when there is no supervision (prediction).
        image_ids: B identities.
    """

    images: Tensor
    padding: Tensor
    sizes: list[tuple[int, int]]
    points: list[PointLabels]
    image_ids: list[int | str]

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
class Features(_Movable):
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
