"""What the data loader's workers make of a batch for a labeler: whatever depends on images and points alone.

A labeler names the parts in `PseudoLabeler.preparation`; each makes one *piece*. A step takes a piece where there is one.
Otherwise, for a batch that is labelled, say, it makes the same itself (up to the rounding of its device).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from methods.base.backbones import STRIDES
from methods.base.labels import Movable
from methods.base.types import PointBatch

FINEST_STRIDE = STRIDES[1]
"""Pixels per cell of the finest encoder map, where semantic branches have their logits."""

Piece = TypeVar("Piece", bound=Movable)


def finest_grid(input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the finest encoder map of an input."""
    return tuple(-(-side // FINEST_STRIDE) for side in input_size)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Preparation:
    """Makes ``PointBatch.prepared`` of a batch on the CPU. It is pickled with its parts.

    Attributes:
        parts: each makes a piece, all of different types.
    """

    parts: tuple[Callable[[PointBatch], Movable], ...]

    @classmethod
    def of(cls, *parts: Callable[[PointBatch], Movable] | None) -> Preparation:
        """From those of the parts that are not None."""
        return cls(tuple(part for part in parts if part is not None))

    def __call__(self, batch: PointBatch) -> list[Movable]:
        return [part(batch) for part in self.parts]


def piece_of(batch: PointBatch, kind: type[Piece], **wanted: Any) -> Piece | None:
    """The piece of a type that the loader has made and whose attributes have the wanted values; None if there is none."""
    for piece in batch.prepared or ():
        if isinstance(piece, kind) and all(getattr(piece, name) == value for name, value in wanted.items()):
            return piece
    return None
