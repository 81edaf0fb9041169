"""Schedules of the papers: what their text says in numbers, and in what a run's config differs from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EPOCHS = re.compile(r"(\d+) epochs")
DECAYS = re.compile(r"decay after (\d+)(?: and (\d+))?")
BATCH = re.compile(r"batch (\d+)(?! per process)\b")
"""A batch per process is no number of images a step: how many processes there were is not known."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length of a training in epochs, the epochs after which the rate falls, images per step; None and () if not said."""

    epochs: int | None = None
    decays: tuple[int, ...] = ()
    batch: int | None = None


def read_schedule(text: str) -> Schedule:
    """The numbers in a schedule's text: "24 epochs, decay after 15 and 20, batch 8"."""
    epochs, decays, batch = EPOCHS.search(text), DECAYS.search(text), BATCH.search(text)
    return Schedule(
        int(epochs[1]) if epochs else None,
        tuple(int(epoch) for epoch in decays.groups() if epoch) if decays else (),
        int(batch[1]) if batch else None,
    )


def schedule_differences(config: Mapping[str, Any], text: str) -> list[str]:
    """In what the schedule of a run's config is another than a paper's text says; what that leaves open is no difference.

    Args:
        config: the ``schedule`` block of a run: ``epochs`` or ``steps``, ``batch_size`` over all devices, ``decay_at`` as
            shares of the run.
        text: see `read_schedule`.
    """
    theirs = read_schedule(text)
    found = []
    epochs, batch, shares = config.get("epochs"), config.get("batch_size"), config.get("decay_at")
    if theirs.epochs is not None and epochs != theirs.epochs:
        ours = f"{epochs} epochs" if epochs is not None else f"{config.get('steps')} steps"
        found.append(f"{ours}, not {theirs.epochs} epochs")
    if theirs.batch is not None and batch != theirs.batch:
        found.append(f"batch {batch}, not {theirs.batch}")
    if theirs.decays and theirs.epochs and not _same_shares(shares, [epoch / theirs.epochs for epoch in theirs.decays]):
        ours = ", ".join(f"{share:.3g}" for share in shares or ()) or "no part"
        told = f"{' and '.join(map(str, theirs.decays))} of {theirs.epochs} epochs"
        found.append(f"decay after {ours} of the run, not after {told}")
    return found


def _same_shares(ours: Any, theirs: list[float]) -> bool:
    return isinstance(ours, list | tuple) and len(ours) == len(theirs) and all(
        math.isclose(a, b, abs_tol=1e-3) for a, b in zip(ours, theirs, strict=True)
    )  # fmt: skip
