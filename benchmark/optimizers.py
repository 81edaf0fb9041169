"""Optimiser and learning-rate decay by name, as the ``schedule`` config says; AdamW with steps where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def step_decay(config: Mapping[str, Any], fraction: float) -> float:
    """Learning-rate factor at a share of the run: ``decay_factor`` for each point of ``decay_at`` that is passed."""
    return config["decay_factor"] ** sum(fraction >= point for point in config["decay_at"])


def poly_decay(config: Mapping[str, Any], fraction: float) -> float:
    """Learning-rate factor ``(1 - fraction) ** power`` at a share of the run, in [0, 1]."""
    return (1 - fraction) ** config["power"]


DECAYS: dict[str, Callable[[Mapping[str, Any], float], float]] = {"steps": step_decay, "poly": poly_decay}
OPTIMIZERS = ("adamw", "sgd")


def decay_factor(config: Mapping[str, Any], fraction: float) -> float:
    """Learning-rate factor of ``config["decay"]`` at a share of the run; ValueError for an unknown decay."""
    name = config.get("decay", "steps")
    if name not in DECAYS:
        raise ValueError(f"schedule.decay is '{name}'; it is one of {', '.join(DECAYS)}.")
    return DECAYS[name](config, fraction)


def build_optimizer(groups: list[dict[str, Any]], config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimiser of a ``schedule`` config over parameter groups; ValueError for an unknown one.

    ``adamw``, or ``sgd`` with ``momentum``; both with ``weight_decay``.
    """
    name = config.get("optimizer", "adamw")
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config["weight_decay"], fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config["momentum"], weight_decay=config["weight_decay"])
    raise ValueError(f"schedule.optimizer is '{name}'; it is one of {', '.join(OPTIMIZERS)}.")
