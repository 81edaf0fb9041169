"""Why a finished run is not a cell of a grid: the keys in which it differs from the nearest one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError, unknown
from benchmark.fingerprints import Fingerprints
from benchmark.grid import Planned
from benchmark.initial import start_of
from benchmark.runs import Run, identity

ABSENT = "(no such key)"
POINTS = "points.train"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the identity with the value of the run and that of the cell."""

    key: str
    run: str
    cell: str


def differences(run_id: str, planned: Sequence[Planned], fingerprints: Fingerprints) -> tuple[Run, list[Difference]]:
    """The cell that differs from a run in the fewest keys, and these keys.

    Args:
        run_id: a run with a record in the results folder of the cells.
        planned: the cells.
        fingerprints: of their data.

    Returns:
        (the nearest cell's run, differences); the run itself and no difference if it is a cell.

    Raises:
        ConfigError: no such run, or a record without a config.
        ValueError: a record that cannot be read.
    """
    for _, run in planned:
        if run.run_id == run_id:
            return run, []
    results_dir = Path(planned[0][0].config["results_dir"])
    run = Run(results_dir, run_id)
    record = run.read()
    if record is None:
        raise unknown(f"run in {results_dir / 'runs'}", run_id, [p.parent.name for p in results_dir.glob("runs/*/run.json")])
    if "config" not in record:
        raise ConfigError(f"{run.record_file} has no config: the run never began, so nothing of it can be reused.")
    known = dict(_recorded(record))
    nearest: tuple[Run, list[Difference]] | None = None
    for cell, other in planned:
        here = {key: value for key, value in _of_cell(cell.config, fingerprints) if key in known or key != POINTS}
        found = _compared(known, here)
        if nearest is None or len(found) < len(nearest[1]):
            nearest = other, found
    assert nearest is not None  # a grid has cells
    return nearest


def _recorded(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The identity of a run as far as its record tells: of the point labels it has the training split's."""
    fingerprints = (record.get("provenance") or {}).get("fingerprints") or {}
    points = {"train": fingerprints["points"]} if "points" in fingerprints else {}
    yield from _flat(identity(record["config"], points, fingerprints.get("start")))


def _of_cell(config: Mapping[str, Any], fingerprints: Fingerprints) -> Iterator[tuple[str, Any]]:
    start = start_of(config)
    points = fingerprints.of(config).points
    yield from _flat(identity(config, {"train": points["train"]}, start.fingerprint if start else None))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".removeprefix("config."), value


def _compared(run: Mapping[str, Any], cell: Mapping[str, Any]) -> list[Difference]:
    found = []
    for key in dict.fromkeys((*run, *cell)):
        if run.get(key, ABSENT) != cell.get(key, ABSENT):
            found.append(Difference(key, str(run.get(key, ABSENT)), str(cell.get(key, ABSENT))))
    return found
