"""The two branches of FDD: one map per target, and the auxiliary one with one map per class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.base.mask_decoder import NORM_EPSILON, LearnedQueries, MaskDecoder
from methods.base.types import Features

INJECTIONS = ("query", "position")


class MaskReader(nn.Module):
    """A mask decoder whose maps get the scale and shift of their query's class; these start at 1 and 0.

    Args:
        num_classes: K.
        channels, layers, heads, feedforward, levels, self_attention, norm_epsilon, key_positions, rectify: of the
            `MaskDecoder`. Its last layer makes masks only, as nobody reads its queries.
        intermediate: every layer makes masks; False: only the last, and the others have no parameters for it.
    """

    def __init__(
        self, num_classes: int, channels: int, layers: int = 6, heads: int = 8, feedforward: int = 1024, levels: int = 3,
        self_attention: bool = True, norm_epsilon: float = NORM_EPSILON, intermediate: bool = True,
        key_positions: bool = False, rectify: bool = True,
    ):
        super().__init__()
        self.last_only = not intermediate
        self.decoder = MaskDecoder(
            channels, layers, heads, levels, feedforward, self_attention, norm_epsilon, update_last=False,
            key_positions=key_positions, rectify=rectify,
        )
        if self.last_only:
            for layer in self.decoder.layers[:-1]:
                layer.to_masks = None
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.shift = nn.Parameter(torch.zeros(num_classes))

    def forward(
        self, features: Features, queries: Tensor, positions: Tensor, classes: Tensor, padding: Tensor | None = None
    ) -> list[Tensor]:
        """Logits of the queries' maps.

        Args:
            features: encoder maps.
            queries, positions: (B, N, D).
            classes: (B, N) int64 class of each query.
            padding: (B, N) bool, True for queries that only fill up the batch; None for none.

        Returns:
            Per layer with masks (B, N, h, w), at the size of the finest encoder map.
        """
        masks = self.decoder(features, queries, positions, padding, self.last_only).masks
        scale, shift = self.scale[classes][..., None, None], self.shift[classes][..., None, None]
        return [mask * scale + shift for mask in masks]


class Branches(nn.Module):
    """Pseudo-label branch and auxiliary semantic branch; they share decoder and position embeddings unless told otherwise.

    The table holds a query and a position per class. The semantic branch decodes all its rows. The pseudo-label branch takes
    the position of each target's class, and the generated query (``injection="query"``); or the query of its class, and the
    generated vector as position (``injection="position"``, FDD Table 3).

    Args:
        num_classes: K, things and stuff.
        channels: width D of the encoder maps.
        share_layers: one decoder, scale and shift for both branches; else two (FDD Table 2).
        share_positions: one table of positions for both; else two (FDD Table 2). Without effect where
            positions are generated.
        injection: what the generated vectors are.
        reader: options of `MaskReader`.

    Raises:
        ValueError: unknown ``injection``.
    """

    def __init__(
        self, num_classes: int, channels: int, share_layers: bool = True, share_positions: bool = True,
        injection: str = "query", **reader,
    ):
        super().__init__()
        if injection not in INJECTIONS:
            raise ValueError(f"Method 'fdd' has no injection '{injection}'; it is one of {', '.join(INJECTIONS)}.")
        self.num_classes, self.injection = num_classes, injection
        self.table = LearnedQueries(num_classes, channels)
        self.reader = MaskReader(num_classes, channels, **reader)
        self.semantic_reader = None if share_layers else MaskReader(num_classes, channels, **reader)
        own_positions = injection == "query" and not share_positions
        self.instance_positions = nn.Embedding(num_classes, channels) if own_positions else None

    def instances(
        self, features: Features, generated: Tensor, classes: Tensor, present: Tensor
    ) -> list[Tensor]:
        """Per layer with masks (B, N, h, w) logits of the targets, before the softmax over N.

        Args:
            features: encoder maps.
            generated: (B, N, D) of the query generator.
            classes: (B, N) int64, any class at targets that do not exist.
            present: (B, N) bool, targets that exist.
        """
        table_queries, table_positions = (rows[0] for rows in self.table(1))
        if self.injection == "position":
            queries, positions = table_queries[classes], generated
        else:
            rows = table_positions if self.instance_positions is None else self.instance_positions.weight
            queries, positions = generated, rows[classes]
        return self.reader(features, queries, positions, classes, ~present)

    def semantics(self, features: Features) -> list[Tensor]:
        """Per layer with masks (B, K, h, w) class logits."""
        queries, positions = self.table(len(features.maps[0]))
        classes = torch.arange(self.num_classes, device=queries.device).expand(len(queries), -1)
        reader = self.reader if self.semantic_reader is None else self.semantic_reader
        return reader(features, queries, positions, classes)
