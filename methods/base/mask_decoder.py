"""Decoders whose masks are read from the raw logits of their own cross-attention (Panoptic SegFormer, Sec. 3.4).

The things decoder of the panoptic head has no self-attention, so that every instance is segmented on its own; decoders of
class queries (stuff, semantic branch) have it. Layers are post-norm. Follows the mask decoder of the PSPS and Point2Mask
released code: no positional embedding on the keys, padded keys never attended, no sigmoid on the masks. Keys can know their
place and the last ReLU can be left away (`MaskDecoder`, ``key_positions`` and ``rectify``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base.memory import Memory
from methods.base.types import Features

NORM_EPSILON = 1e-5
"""ε of the layer norms in the PSPS and Point2Mask released code; that of Panoptic SegFormer has 1e-6."""


@dataclass(frozen=True, slots=True)
class MaskDecoding:
    """Output of a `MaskDecoder`.

    Attributes:
        masks: one (B, N, h, w) per layer, values in [0, inf), foreground where above 0.5 (logits of any sign where the
            decoder does not ``rectify``); (h, w) is the size of the finest encoder map. Zero in the padding and for padded
            queries.
        queries: one (B, N, D) per layer that updates its queries.
    """

    masks: list[Tensor]
    queries: list[Tensor]


class LearnedQueries(nn.Module):
    """Learned queries with learned positions: an embedding of width 2 D, split in two. Initialised N(0, 1)."""

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * channels)

    def forward(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Queries and query positions, both (batch_size, count, D)."""
        query, position = self.embedding.weight[None].expand(batch_size, -1, -1).chunk(2, dim=-1)
        return query, position


class MaskAttention(nn.Module):
    """Multi-head cross-attention that also returns its logits before the softmax.

    Args:
        channels: width D of queries and keys, divisible by ``heads``.
        heads: attention heads.
        attend: False leaves the attention output away and keeps only the logits.
    """

    def __init__(self, channels: int, heads: int, attend: bool = True):
        super().__init__()
        if channels % heads:
            raise ValueError(f"Mask attention: {channels} channels do not divide into {heads} heads; change one of them.")
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels) if attend else None
        self.output = nn.Linear(channels, channels) if attend else None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor | None, Tensor]:
        """Attend all levels with one joint softmax.

        Args:
            queries: (B, N, D).
            memory: S tokens, the values; its ``keys`` are the tokens too, with or without their places.

        Returns:
            The projected attention output (B, N, D), None without ``attend``; padded keys have weight 0.
            The logits q kᵀ / sqrt(D / heads), (B, heads, N, S), exactly 0 at padded keys.
        """
        query = self._split(self.query(queries))
        if self.heads * queries.shape[1] <= queries.shape[2]:
            return self._of_few(query, memory)
        # A zero key has a zero logit: what the mask path wants at padded keys, at the cost of one key-sized copy.
        key = self._split(self.key(memory.keys).masked_fill(memory.padding[..., None], 0))
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if self.value is None or self.output is None:
            return None, logits
        # The fused kernel computes the logits again instead of keeping a second and third (B, heads, N, S) array.
        attended = F.scaled_dot_product_attention(
            query, key, self._split(self.value(memory.tokens)), attn_mask=~memory.padding[:, None, None]
        )
        return self.output(attended.transpose(1, 2).flatten(2)), logits

    def _of_few(self, query: Tensor, memory: Memory) -> tuple[Tensor | None, Tensor]:
        """The same for few queries (class queries, say), without making keys and values of the S tokens.

        ``q · (W t + b) = (Wᵀ q) · t + q · b`` and ``Σ a (W t + b) = W Σ a t + b``: the projections move to the side of the
        queries. Per token that is heads · N products of width D for the logits instead of D for its key.

        Args:
            query: (B, heads, N, D / heads).
            memory: S tokens.
        """
        query = query * query.shape[-1] ** -0.5
        count = query.shape[2]
        towards = query @ self.key.weight.unflatten(0, (self.heads, -1))  # (B, heads, N, D)
        offset = query @ self.key.bias.unflatten(0, (self.heads, -1))[..., None]  # (B, heads, N, 1)
        logits = torch.baddbmm(offset.flatten(1, 2), towards.flatten(1, 2), memory.keys.transpose(1, 2))
        padding = memory.padding[:, None]
        masked = logits.masked_fill(padding, 0).unflatten(1, (self.heads, count))
        if self.value is None or self.output is None:
            return None, masked
        seen = logits.masked_fill(padding, -torch.inf).softmax(dim=-1) @ memory.tokens  # (B, heads N, D)
        seen = seen.unflatten(1, (self.heads, count)) @ self.value.weight.unflatten(0, (self.heads, -1)).transpose(1, 2)
        return self.output(seen.transpose(1, 2).flatten(2) + self.value.bias), masked


class LogitsToMasks(nn.Module):
    """Masks from attention logits: per level a 1x1 convolution over the heads and ReLU, resized to the finest level,
    concatenated, fused by a 1x1 convolution and ReLU.

    Args:
        heads, levels: of the logits.
        rectify: False leaves the last ReLU away.
    """

    def __init__(self, heads: int, levels: int, rectify: bool = True):
        super().__init__()
        self.rectify = rectify
        self.per_level = nn.ModuleList([nn.Conv2d(heads, heads, 1) for _ in range(levels)])
        self.fuse = nn.Conv2d(heads * levels, 1, 1)

    def forward(self, logits: Tensor, memory: Memory) -> Tensor:
        """(B, heads, N, S) logits to (B, N, h, w) masks, in [0, inf) if rectified; zero in the padding."""
        batch, _, queries, _ = logits.shape
        height, width = memory.sizes[0]
        total = self.fuse.bias[:, None, None, None]
        # The fusing convolution acts on channels and the bilinear resize on positions, both linearly, so they commute:
        # resizing one fused channel instead of all heads gives the same masks from an eighth of the memory.
        weights = self.fuse.weight.flatten(1).chunk(len(self.per_level), dim=1)
        slices = logits.split([h * w for h, w in memory.sizes], dim=-1)
        for level, (convolution, weight, part) in enumerate(zip(self.per_level, weights, slices, strict=True)):
            # One product of matrices over all positions: on a CPU, convolutions of so few channels take many times as long.
            positions = part.transpose(0, 1).flatten(1)  # (heads, B N h w)
            hidden = torch.addmm(convolution.bias[:, None], convolution.weight.flatten(1), positions).relu()
            fused = (weight @ hidden).view(batch, queries, *memory.sizes[level])
            if level > 0:
                fused = F.interpolate(fused, size=(height, width), mode="bilinear", align_corners=False)
            total = total + fused
        finest_padding = memory.padding[:, : height * width].unflatten(-1, (height, width))
        return (total.relu() if self.rectify else total).masked_fill(finest_padding[:, None], 0)


class MaskDecoderLayer(nn.Module):
    """One post-norm layer: optional self-attention, joint cross-attention with its masks, MLP.

    Args:
        channels, heads, levels, feedforward: widths of the layer.
        self_attention: whether the queries see each other.
        norm_epsilon: ε of the layer norms.
        update: False makes an attention-only layer that gives masks and leaves the queries as they are.
        rectify: see `LogitsToMasks`.
    """

    def __init__(
        self, channels: int, heads: int, levels: int, feedforward: int, self_attention: bool, norm_epsilon: float,
        update: bool = True, rectify: bool = True,
    ):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True) if self_attention else None
        self.self_attention_norm = nn.LayerNorm(channels, norm_epsilon) if self_attention else None
        self.cross_attention = MaskAttention(channels, heads, attend=update)
        self.to_masks = LogitsToMasks(heads, levels, rectify)
        self.update = update
        if update:
            self.cross_attention_norm = nn.LayerNorm(channels, norm_epsilon)
            self.mlp = nn.Sequential(
                nn.Linear(channels, feedforward), nn.GELU(), nn.Linear(feedforward, channels)
            )
            self.mlp_norm = nn.LayerNorm(channels, norm_epsilon)

    def forward(
        self, queries: Tensor, memory: Memory, query_padding: Tensor | None, with_masks: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) queries to updated queries and (B, N, h, w) masks (None without ``with_masks``)."""
        if self.self_attention is not None:
            seen = self.self_attention(
                queries, queries, queries, key_padding_mask=query_padding, need_weights=False
            )[0]
            queries = self.self_attention_norm(queries + seen)
        attended, logits = self.cross_attention(queries, memory)
        masks = self.to_masks(logits, memory) if with_masks else None
        if self.update:
            queries = self.cross_attention_norm(queries + attended)
            queries = self.mlp_norm(queries + self.mlp(queries))
        return queries, masks


class MaskDecoder(nn.Module):
    """A stack of mask layers over the finest encoder maps.

    Args:
        channels: width D of queries and encoder maps.
        layers: number of layers, each with masks of its own.
        heads: attention heads, the channels from which masks are made.
        levels: encoder maps that are attended, finest first.
        feedforward: hidden width of the MLPs.
        self_attention: whether queries see each other (class queries do, instances do not).
        norm_epsilon: ε of the layer norms.
        update_last: False when nobody reads the queries of the last layer; it then has no parameters without a gradient.
        key_positions: keys have the sine encoding of their place added (DETR), values do not. The released codes add none:
            six encoder layers tell a token where it is; one or two hardly do.
        rectify: False leaves the last ReLU of the masks away, so that they are logits of either sign. A map that starts at
            zero everywhere behind that ReLU gets no gradient.
    """

    def __init__(
        self, channels: int = 256, layers: int = 4, heads: int = 8, levels: int = 3, feedforward: int = 1024,
        self_attention: bool = False, norm_epsilon: float = NORM_EPSILON, update_last: bool = True,
        key_positions: bool = False, rectify: bool = True,
    ):
        super().__init__()
        self.levels, self.key_positions = levels, key_positions
        self.layers = nn.ModuleList([
            MaskDecoderLayer(
                channels, heads, levels, feedforward, self_attention, norm_epsilon, update_last or i < layers - 1, rectify
            )
            for i in range(layers)
        ])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, features: Features, queries: Tensor, query_pos: Tensor | None = None,
        query_padding: Tensor | None = None, last_only: bool = False,
    ) -> MaskDecoding:
        """Masks of the queries.

        Args:
            features: encoder maps with at least ``levels`` levels.
            queries: (B, N, D).
            query_pos: (B, N, D) or None; added to the input of every layer and kept in the residual stream, so that it
                accumulates (both released codes do so).
            query_padding: (B, N) bool, True for queries that only fill up the batch: no other query sees them and their
                masks are 0.
            last_only: skip the masks of all layers but the last (inference); both output lists then have one entry.
        """
        memory = Memory.of(features, self.levels, self.key_positions)
        seen = None
        if query_padding is not None:
            # A softmax over no key at all is NaN: an image without any real query lets its padding see itself.
            seen = query_padding & ~query_padding.all(dim=1, keepdim=True)
        decoding = MaskDecoding([], [])
        for i, layer in enumerate(self.layers):
            queries = queries if query_pos is None else queries + query_pos
            wanted = not last_only or i == len(self.layers) - 1
            queries, masks = layer(queries, memory, seen, wanted)
            if masks is not None:
                decoding.masks.append(masks if query_padding is None else masks * ~query_padding[..., None, None])
            if wanted and layer.update:
                decoding.queries.append(queries)
        return decoding


class ClassMaskDecoder(nn.Module):
    """One learned query per class, decoded to a mask and a presence logit in every layer.

    Args:
        num_classes: K, one query each.
        channels, layers, heads, levels, feedforward, norm_epsilon: as in `MaskDecoder`.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, layers: int = 6, heads: int = 8, levels: int = 3,
        feedforward: int = 1024, norm_epsilon: float = NORM_EPSILON,
    ):
        super().__init__()
        self.queries = LearnedQueries(num_classes, channels)
        self.decoder = MaskDecoder(channels, layers, heads, levels, feedforward, True, norm_epsilon)
        self.presence = nn.ModuleList([nn.Linear(channels, 1) for _ in range(layers)])

    def forward(self, features: Features, last_only: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Per layer (only the last with ``last_only``): (B, K, h, w) masks in [0, inf) and (B, K) presence logits."""
        queries, positions = self.queries(len(features.maps[0]))
        decoding = self.decoder(features, queries, positions, last_only=last_only)
        heads = self.presence[-1:] if last_only else self.presence
        logits = [head(q).squeeze(-1) for head, q in zip(heads, decoding.queries, strict=True)]
        return decoding.masks, logits
