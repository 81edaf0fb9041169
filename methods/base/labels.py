"""Categories, point labels and dense labels; see `methods.base.types`, which gives them to everybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

EMPTY_BOX = 0.5
"""Side of the central box of a target without a pixel, a share of the image's side (PSPS released code)."""


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


class Movable:
    """``to(device)`` and ``pin_memory()`` for a frozen dataclass: every tensor moves, also in lists and nested types."""

    __slots__ = ()

    def to(self, device: torch.device | str):
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})

    def pin_memory(self):
        """A copy in page-locked memory, as a data loader with ``pin_memory`` asks for."""
        return replace(self, **{f.name: _pinned(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class PointLabels(Movable):
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
class PseudoLabels(Movable):
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
        scores: Tensor | None = None, ignore: Tensor | None = None, empty_box: float = EMPTY_BOX,
    ) -> PseudoLabels:
        """Complete labels from an id map: boxes from the mask extents, pixels outside ``size`` void and ignored.

        Args:
            segment_ids: (H, W) int, 0 = void, ``i + 1`` = target ``i``.
            classes, is_thing: (n,) of the targets.
            size: (height, width) of the unpadded image.
            scores: (n,) or None for ones.
            ignore: (H, W) bool or None for "only the padding".
            empty_box: see `boxes_of`.
        """
        height, width = size
        inside = torch.zeros(segment_ids.shape, dtype=torch.bool, device=segment_ids.device)
        inside[:height, :width] = True
        segment_ids = segment_ids.long() * inside
        ignore = ~inside if ignore is None else ignore | ~inside
        scores = torch.ones(len(classes), device=segment_ids.device) if scores is None else scores
        boxes = boxes_of(segment_ids, len(classes), size, empty_box)
        return cls(segment_ids, classes.long(), is_thing.bool(), scores.float(), boxes, ignore)


def boxes_of(segment_ids: Tensor, count: int, size: tuple[int, int], empty_box: float = EMPTY_BOX) -> Tensor:
    """Boxes of the targets of an id map.

    Args:
        segment_ids: (H, W) int64, 0 = void, ``i + 1`` = target ``i``.
        count: number of targets n.
        size: (height, width) of the unpadded image, to which boxes are clipped.
        empty_box: side of the box of a target without a pixel, a share of the image's, in (0, 1].

    Returns:
        (n, 4) float32 half-open extents ``[x0, y0, x1 + 1, y1 + 1]``. A target without a pixel gets the central box
        of the share ``empty_box``: ``[w/4, h/4, 3w/4, 3h/4]`` in the PSPS released code.
    """
    height, width = size
    device = segment_ids.device
    near, far = (1 - empty_box) / 2, (1 + empty_box) / 2
    central = torch.tensor([width * near, height * near, width * far, height * far], device=device)
    boxes = central.repeat(count, 1)
    ids = segment_ids[:height, :width]
    if not count:
        return boxes
    extents = _extents(ids, count) if device.type == "cpu" else _scattered_extents(ids, count)
    found = extents[:, 2] > 0
    boxes[found] = extents[found]
    return boxes


def _extents(segment_ids: Tensor, count: int) -> Tensor:
    """(n, 4) float32 extents of the targets on the CPU; zeros for one without a pixel."""
    found = ndimage.find_objects(segment_ids.numpy(), max_label=count)
    places = [(0, 0, 0, 0) if e is None else (e[1].start, e[0].start, e[1].stop, e[0].stop) for e in found]
    return torch.tensor(places, dtype=torch.float32)


def _scattered_extents(segment_ids: Tensor, count: int) -> Tensor:
    """`_extents` on any device."""
    rows, cols = torch.nonzero((segment_ids > 0) & (segment_ids <= count), as_tuple=True)
    ids = segment_ids[rows, cols].long() - 1
    low = torch.full((count, 2), float("inf"), device=ids.device)
    high = torch.zeros(count, 2, device=ids.device)
    place = torch.stack([cols, rows], dim=1).float()
    index = ids[:, None].expand(-1, 2)
    low.scatter_reduce_(0, index, place, "amin")
    high.scatter_reduce_(0, index, place + 1, "amax")
    return torch.where(high[:, :1] > 0, torch.cat([low, high], dim=1), 0.0)
