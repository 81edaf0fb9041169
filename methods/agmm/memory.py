"""Centres that outlive a step: a moving average over the batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.agmm.mixture import class_counts, class_means
from methods.base.losses import mean_over_devices


class MovingCentres(nn.Module):
    """Exponential moving average of the classes' centres; part of the checkpoint, without gradient.

    Args:
        num_classes: K.
        channels: D.
        momentum: share of the old centre in the new one; a class that is seen for the first time takes the batch's centre.
    """

    def __init__(self, num_classes: int, channels: int, momentum: float = 0.99):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centres", torch.zeros(num_classes, channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> Tensor:
        """Move to the mean of the labelled pixels of a batch, over all devices.

        Args:
            features: (B, D, h, w). labels: (B, h, w) int64, negative where unlabelled.

        Returns:
            (K, D) float32 copy of the centres after the move; 0 for classes that were never seen.
        """
        count = class_counts(labels, len(self.centres))
        with torch.autocast(features.device.type, enabled=False):
            means = class_means(features.detach().float(), labels, len(self.centres), epsilon=1.0)
        sums = (means * (count + 1)[..., None]).sum(dim=0)
        count, sums = mean_over_devices(count.sum(dim=0)), mean_over_devices(sums)
        found = (count > 0)[:, None]
        means = sums / count.clamp(min=torch.finfo(count.dtype).tiny)[:, None]
        moved = torch.where(self.seen[:, None], self.momentum * self.centres + (1 - self.momentum) * means, means)
        self.centres.copy_(torch.where(found, moved, self.centres))
        self.seen |= found[:, 0]
        return self.centres.clone()
