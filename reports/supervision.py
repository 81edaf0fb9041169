"""What the training of a run read beside images, that of the weights which it started from included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.initial import UNKNOWN
from reports.records import Record


def starts(record: Record) -> list[Mapping[str, Any]]:
    """The supervision of the weights that a run started from, then of those that these started from, and so on.

    Records that started from weights and do not say what these had read started from unknown ones.
    """
    found = list(_chain(record.supervision))
    if not found and record.config.get("init_from"):
        return [{"weights": str(record.config["init_from"]), "kind": UNKNOWN}]
    return found


def _chain(read: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    start = read.get("start")
    if isinstance(start, Mapping):
        yield start
        yield from _chain(start)


def reads_masks(read: Mapping[str, Any]) -> bool:
    """Whether a part of a supervision is masks or boxes, its start not counted."""
    return read.get("kind") == "masks" or bool(read.get("boxes") or read.get("masks"))


def is_told_points_only(read: Mapping[str, Any]) -> bool:
    """Whether a supervision, its start not counted, is known and has neither box nor mask."""
    return read.get("kind") != UNKNOWN and not reads_masks(read)


def is_points_only(record: Record) -> bool:
    """Whether nothing that a run's weights come from read a box or a mask; False where no record tells."""
    return all(map(is_told_points_only, (record.supervision, *starts(record))))


def supervision_text(record: Record) -> str:
    """"points"; "masks"; "points, 3 boxes"; "points, started from masks"; "points, started from unknown weights"."""
    read = record.supervision
    kind = str(read.get("kind", ""))
    parts = [kind]
    parts += [f"{read[key]} {key}" for key in ("boxes", "masks") if read.get(key) and key != kind]
    before = starts(record)
    if kind != "masks":
        if any(reads_masks(start) for start in before):
            parts.append("started from masks")
        elif any(start.get("kind") == UNKNOWN for start in before):
            parts.append("started from unknown weights")
    return ", ".join(parts)
