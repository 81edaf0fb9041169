"""Rounds of distance, aggregation and enhancement: a network over pixels and anchors. Our reading of EPLD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.anchor_query.anchors import Anchors
from methods.anchor_query.distance import (
    aggregated,
    anchor_distances,
    attention_logits,
    soft_assignment,
    squared_distances,
)

Form = Literal["squared", "softplus"]


@dataclass(frozen=True, slots=True)
class Cells:
    """The pixels that anchors are compared with.

    Attributes:
        tokens: (B, S, D) projected features, row-major.
        positions: (B, S, D) sine encoding.
        inside: (B, S) bool, cells without padding.
        grid: (h, w) with S = h w.
    """

    tokens: Tensor
    positions: Tensor
    inside: Tensor
    grid: tuple[int, int]


class DistanceHead(nn.Module):
    """Distance of projected anchors and cells, as queries and keys of a cross-attention with several heads.

    ``"squared"``: `squared_distances` plus ``softplus(b)``, b the bias of the class; ``"softplus"``: ``softplus(b - logit)``
    of the `attention_logits` (`anchor_distances`), which hardly tells two anchors apart at a cell that is near to both.

    Args:
        channels: width D, divisible by ``heads``.
        heads: attention heads, whose weights start at 1 / heads.
        num_classes: classes, each with a bias that starts at 0.
        spatial: a learned factor, starting at 0, adds the Euclidean distance to the anchor's points to b.
        form: as above.
    """

    def __init__(self, channels: int, heads: int, num_classes: int, spatial: bool, form: Form = "squared"):
        super().__init__()
        if channels % heads:
            raise ValueError(f"Anchor distances: {channels} channels do not divide into {heads} heads; change one of them.")
        self.form = form
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.head_weights = nn.Parameter(torch.full((heads,), 1 / heads))
        self.class_bias = nn.Parameter(torch.zeros(num_classes))
        self.spatial = nn.Parameter(torch.zeros(())) if spatial else None

    def forward(self, anchors: Anchors, keys: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, M, h, w) float32 distances >= 0 from keys (B, S, D)."""
        queries = self.query(anchors.vectors)
        bias = self.class_bias[anchors.classes][..., None]
        if self.spatial is not None and anchors.offsets is not None:
            bias = bias + self.spatial * anchors.offsets.flatten(2)
        if self.form == "squared":
            distances = squared_distances(queries, keys, self.head_weights) + F.softplus(bias.float())
        else:
            distances = anchor_distances(attention_logits(queries, keys, self.head_weights), bias)
        return distances.unflatten(-1, grid)


class Aggregation(nn.Module):
    """``a <- LN(a + W mean of V(F) over the cells assigned to a)``; see `aggregated`."""

    def __init__(self, channels: int, norm_epsilon: float):
        super().__init__()
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels, norm_epsilon)

    def forward(self, anchors: Tensor, probs: Tensor, cells: Cells) -> Tensor:
        """(B, M, D) anchors updated with assignments (B, M, h, w)."""
        return self.norm(anchors + self.output(aggregated(probs.flatten(2), self.value(cells.tokens), cells.inside)))


class Enhancement(nn.Module):
    """``a <- LN(a + SelfAttention(a + E)); a <- LN(a + MLP(a))``, E the embedding of the class: anchors see each other."""

    def __init__(self, channels: int, heads: int, feedforward: int, norm_epsilon: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(channels, norm_epsilon)
        self.mlp = nn.Sequential(nn.Linear(channels, feedforward), nn.GELU(), nn.Linear(feedforward, channels))
        self.mlp_norm = nn.LayerNorm(channels, norm_epsilon)

    def forward(self, anchors: Tensor, embeddings: Tensor, present: Tensor) -> Tensor:
        """(B, M, D) anchors; those that only fill up the batch are seen by no other."""
        # A softmax over no key at all is NaN: an image without any anchor lets what fills it up see itself.
        hidden = ~present & present.any(dim=1, keepdim=True)
        x = anchors + embeddings
        anchors = self.attention_norm(anchors + self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0])
        return self.mlp_norm(anchors + self.mlp(anchors))


@dataclass(frozen=True, slots=True)
class RoundOptions:
    """How anchors become distances.

    Attributes:
        count: rounds, each with distances that are supervised, at least 1.
        shared: all rounds have the same weights.
        aggregation, enhancement: what happens to the anchors between two rounds.
        temperature: τ of the soft assignment, > 0.
        learn_temperature: start at τ and train it.
        spatial, form: see `DistanceHead`.
    """

    count: int = 3
    shared: bool = False
    aggregation: bool = True
    enhancement: bool = True
    temperature: float = 1.0
    learn_temperature: bool = False
    spatial: bool = False
    form: Form = "squared"

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"Anchor queries need at least one round, got {self.count}.")
        if not self.temperature > 0:
            raise ValueError(f"The temperature of the soft assignment must be positive, got {self.temperature}.")


class AnchorRounds(nn.Module):
    """T rounds of distances, with an update of the anchors between two rounds; none after the last, which nobody reads.

    Args:
        num_classes: classes of the data set.
        channels, heads, feedforward, norm_epsilon: widths of the layers.
        options: rounds and what happens in them.
    """

    def __init__(
        self, num_classes: int, channels: int, heads: int, feedforward: int, norm_epsilon: float, options: RoundOptions
    ):
        super().__init__()
        self.count = options.count
        rounds, updates = (1, min(1, options.count - 1)) if options.shared else (options.count, options.count - 1)
        self.distances = nn.ModuleList(
            DistanceHead(channels, heads, num_classes, options.spatial, options.form) for _ in range(rounds)
        )
        self.aggregations = nn.ModuleList(
            Aggregation(channels, norm_epsilon) for _ in range(updates if options.aggregation else 0)
        )
        self.enhancements = nn.ModuleList(
            Enhancement(channels, heads, feedforward, norm_epsilon) for _ in range(updates if options.enhancement else 0)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self._start_without_updates()
        start = torch.tensor(float(options.temperature)).log()
        self.log_temperature = nn.Parameter(start, requires_grad=options.learn_temperature)

    def _start_without_updates(self) -> None:
        """What is added to an anchor begins at zero: assignments of the first steps are arbitrary, nearly uniform with the
        softplus, and their means would wash out which labelled cells an anchor stands for."""
        outputs = [update.output for update in self.aggregations]
        for update in self.enhancements:
            outputs += [update.attention.out_proj, update.mlp[-1]]
        for layer in outputs:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def temperature(self) -> Tensor:
        """Scalar τ."""
        return self.log_temperature.exp()

    def forward(self, cells: Cells, sets: Sequence[Anchors], embeddings: Sequence[Tensor]) -> list[list[Tensor]]:
        """Distances of several sets of anchors that do not see each other.

        Args:
            cells: of the batch.
            sets: anchors.
            embeddings: (B, M, D) embedding of the class of each anchor, for each set.

        Returns:
            For each set, T maps (B, M, h, w) float32 >= 0.
        """
        sets, maps = list(sets), [[] for _ in sets]
        for t in range(self.count):
            head = _of_round(self.distances, t)
            keys = head.key(cells.tokens + cells.positions)
            for index, anchors in enumerate(sets):
                distances = head(anchors, keys, cells.grid)
                maps[index].append(distances)
                if t < self.count - 1:
                    sets[index] = self._updated(anchors, embeddings[index], distances, cells, t)
        return maps

    def _updated(self, anchors: Anchors, embeddings: Tensor, distances: Tensor, cells: Cells, t: int) -> Anchors:
        vectors = anchors.vectors
        if len(self.aggregations):
            probs = soft_assignment(distances, self.temperature, anchors.present)
            vectors = _of_round(self.aggregations, t)(vectors, probs, cells)
        if len(self.enhancements):
            vectors = _of_round(self.enhancements, t)(vectors, embeddings, anchors.present)
        return replace(anchors, vectors=vectors)


def _of_round(modules: nn.ModuleList, t: int) -> nn.Module:
    """The module of round t; the only one if rounds share it."""
    return modules[min(t, len(modules) - 1)]
