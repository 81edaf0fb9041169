"""The contrastive loss on pixel embeddings of PSPS: a labelled pixel belongs to the prototype of its own segment."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
