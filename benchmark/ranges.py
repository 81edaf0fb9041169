"""The least values of config keys that no run can go below, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.configs import ConfigError, value_at

LEAST_WHOLE = {
    "jobs": 1, "devices": 1, "threads": 0, "workers": 0,
    "schedule.steps": 1, "schedule.epochs": 1, "schedule.batch_size": 1, "schedule.log_every": 1,
    "schedule.checkpoint_every": 1,
    "evaluation.label_images": 0, "evaluation.gallery_images": 0,
    "method.layers": 1, "method.heads": 1, "method.rounds": 1,
}  # fmt: skip
"""Key -> the least whole number; null, where it has a meaning, is allowed."""

POSITIVE = ("schedule.lr",)
"""Numbers above zero."""


def check_ranges(config: Mapping[str, Any]) -> None:
    """ConfigError with the first key of a run's config that is out of its range. Keys that it lacks are passed over."""
    for key, least in LEAST_WHOLE.items():
        value = value_at(config, key)
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"{key}={value} is not a whole number from {least} on; write {key}={max(least, 1)} or more.")
    for key in POSITIVE:
        value = value_at(config, key)
        if value is not None and not value > 0:
            raise ConfigError(f"{key}={value} is not above 0.")
