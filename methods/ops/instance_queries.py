"""One query per target, pooled from a feature map over the target's labelled cells."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["max", "mean"]


def instance_queries(features: Tensor, labels: Tensor, count: int, pooling: Pooling = "max") -> Tensor:
    """``Q[n] = max of the features over the cells labelled n``, channel by channel (FDD Eq. 1).

    Gradient flows to the cells that hold the maximum (shared equally among equal ones).

    Args:
        features: (D, h, w) float.
        labels: (h, w) int64 target of each cell, negative where unlabelled (`methods.ops.instance_labels`).
        count: number of targets n.
        pooling: ``"max"`` as published, or the ``"mean"`` over the same cells.

    Returns:
        (n, D) in the dtype of the features; zeros for a target without a cell, as a maximum over nothing would be -inf.

    Raises:
        ValueError: unknown ``pooling``.
    """
    if pooling not in get_args(Pooling):
        raise ValueError(f"Queries cannot be pooled by '{pooling}'; the pooling is one of {', '.join(get_args(Pooling))}.")
    labelled = labels >= 0
    values, target = features[:, labelled].T, labels[labelled]
    queries = values.new_zeros(count, len(features))
    if pooling == "max":
        index = target[:, None].expand_as(values)
        return queries.scatter_reduce(0, index, values, "amax", include_self=False)
    cells = torch.bincount(target, minlength=count).clamp(min=1)
    return queries.index_add(0, target, values) / cells[:, None]
