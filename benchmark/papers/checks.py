"""Checks of the papers' files, each answered with one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmark.configs import ConfigError, unknown

METRICS = {"pq": "PQ", "pq_th": "PQ_th", "pq_st": "PQ_st", "sq": "SQ", "rq": "RQ", "miou": "mIoU"}
"""Key of a metric, as in run records, -> its name."""


def check_keys(raw: Any, what: str, needed: Sequence[str], optional: Sequence[str]) -> None:
    """ConfigError unless ``raw`` is a mapping with all needed keys and no other than these and the optional ones."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{what} is {raw!r}, not a mapping with {', '.join(needed)}.")
    for key in needed:
        if key not in raw:
            raise ConfigError(f"{what} has no '{key}'; it needs {', '.join(needed)}.")
    for key in raw:
        if key not in (*needed, *optional):
            raise unknown(f"key in {what}", str(key), (*needed, *optional))


def check_unique(names: Sequence[str], what: str) -> None:
    """ConfigError if a name is there twice."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise ConfigError(f"{what} '{name}' {count} times.")
