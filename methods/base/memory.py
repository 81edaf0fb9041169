"""Encoder maps as one sequence of tokens, and what deformable attention wants to know about their levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.base.types import Features


def flattened(maps: Sequence[Tensor]) -> Tensor:
    """(B, S, D) tokens of maps (B, D, h_l, w_l), level by level in row-major order; S is the sum of h_l w_l."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def valid_ratios(padding: Sequence[Tensor]) -> Tensor:
    """Share of each level that is not padding (Deformable DETR).

    Args:
        padding: per level (B, h_l, w_l) bool, True where padded; the valid part is the top left rectangle.

    Returns:
        (B, levels, 2) float32, (horizontal, vertical), in (0, 1].
    """
    return torch.stack(
        [torch.stack([(~p[:, 0]).float().mean(dim=1), (~p[:, :, 0]).float().mean(dim=1)], dim=-1) for p in padding], dim=1
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """Encoder maps as one sequence of keys.

    Attributes:
        tokens: (B, S, D), levels one after the other, finest first.
        padding: (B, S) bool, True where padded.
        sizes: (height, width) of each level; S is the sum of their products.
        placed: (B, S, D) tokens with the sine encoding of their place added; None where no attention asks for it.
    """

    tokens: Tensor
    padding: Tensor
    sizes: list[tuple[int, int]]
    placed: Tensor | None = None

    @property
    def keys(self) -> Tensor:
        """(B, S, D) what queries are compared with: the ``placed`` tokens if there are any, else the tokens."""
        return self.tokens if self.placed is None else self.placed

    @classmethod
    def of_maps(cls, maps: Sequence[Tensor], padding: Sequence[Tensor]) -> Memory:
        """From maps (B, D, h_l, w_l) and their padding (B, h_l, w_l) bool, True where padded."""
        sizes = [tuple(m.shape[-2:]) for m in maps]
        return cls(flattened(maps), torch.cat([p.flatten(1) for p in padding], dim=1), sizes)

    @classmethod
    def of(cls, features: Features, levels: int, placed: bool = False) -> Memory:
        """The finest ``levels`` maps of an encoder, ``placed`` or not; ValueError if it has fewer."""
        if len(features.maps) < levels:
            raise ValueError(
                f"The decoder reads {levels} encoder levels but the features have {len(features.maps)}; "
                "lower the decoder's 'levels' or add encoder levels."
            )
        memory = cls.of_maps(features.maps[:levels], features.padding[:levels])
        return replace(memory, placed=memory.tokens + flattened(features.positions[:levels])) if placed else memory

    def layout(self) -> tuple[Tensor, Tensor]:
        """(levels, 2) int64 heights and widths, and (levels,) int64 places of the levels' first tokens."""
        shapes = torch.tensor(self.sizes, device=self.tokens.device)
        return shapes, torch.cat([shapes.new_zeros(1), shapes.prod(dim=1).cumsum(0)[:-1]])
