"""Runs as folders: identity, state and record. What is not in the folder is not known.

``results/runs/<run_id>/`` holds ``run.json`` (the record, written atomically), ``metrics.jsonl`` (one line per logged
step), ``log.txt``, ``checkpoints/`` and ``weights.safetensors`` (both never committed), ``pictures/`` and ``owner/`` (who
works on it, see `benchmark.ownership`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.ownership import Token

SCHEMA = 1

NOT_IDENTITY = (
    "results_dir",
    "device",
    "devices",
    "precision",
    "jobs",
    "threads",
    "workers",
    "tensorboard",
    "report",
    "launcher",
    "slurm",
    "dataset.root",
    "dataset.points.file",
    "schedule.log_every",
    "schedule.checkpoint_every",
    "evaluation.gallery_images",
    "learned_maps",
    "merging",
)
"""Config keys that say where and how a run is executed, not what it computes. The data themselves enter a run's identity
through the fingerprint of the point labels, which holds the fingerprint of the data they were drawn from. ``learned_maps``
and ``merging`` are defaults that keys of some methods and heads take over; those keys are part of it."""
_NOT_IDENTITY = frozenset(NOT_IDENTITY)
_PLACES = {"points_folder": frozenset(("dataset.images", "dataset.categories", "dataset.val"))}
"""Further such keys of some kinds of data sets: where their files lie. (Of other kinds, ``dataset.images`` is a pattern.)"""

LATER_KEYS = ("init_from",)
"""Top-level keys that are younger than recorded runs. Null is what every run did before they existed, and is left out of a
run's identity, so that those runs keep their ids."""


AFTER_TRAINING = (
    "dataset.val",
    "evaluation.label_images",
    "evaluation.multi_scale",
    "evaluation.window",
    "head.test_queries",
    "head.mask_threshold",
    "head.quality_threshold",
    "head.thing_overlap",
    "head.stuff_overlap",
    "head.quality",
    "head.score_threshold",
    "head.overlap_threshold",
)
"""Config keys of a run's identity that training does not read: what is measured, and how masks are merged at test time. Runs
that differ in nothing else have the same weights (`benchmark.shared_training`)."""


class State(StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    NODE_FAILED = "node_failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Diverged(ArithmeticError):
    """A loss or gradient that is no longer finite."""


def now() -> str:
    """UTC time, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text_atomically(path: Path, text: str, before_rename: Callable[[], None] | None = None) -> None:
    """Write to a temporary name in the same folder, then rename: readers see the old file or the new one, never half.

    Args:
        path: the file. text: its content.
        before_rename: called between the two; if it raises, the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        if before_rename is not None:
            before_rename()
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, value: Any, before_rename: Callable[[], None] | None = None) -> None:
    """`write_text_atomically` of JSON with one key per line; NaN is refused (ValueError)."""
    write_text_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", before_rename)


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder. Every path of a run is a property of this object.

    Attributes:
        results_dir: the folder of all results.
        run_id: name of the run's folder.
        token: the claim of the process that works on the run; without one, nothing checks who else writes.
    """

    results_dir: Path
    run_id: str
    token: Token | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        return self.results_dir / "runs" / self.run_id

    @property
    def record_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def weights_file(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def owner_folder(self) -> Path:
        return self.folder / "owner"

    def read(self) -> dict[str, Any] | None:
        """The record, or None if the run never started. ValueError if the file is not a record."""
        try:
            record = json.loads(self.record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            what = f"is not valid JSON ({error}); delete the folder to repeat the run"
            raise ValueError(f"{self.record_file} {what}.") from None
        if not isinstance(record, dict) or record.get("run_id") != self.run_id:
            raise ValueError(f"{self.record_file} is not the record of {self.run_id}; delete the folder to repeat it.")
        return record

    def guard(self) -> None:
        """To be called before every write to the folder: Superseded if another process took the run over from this one."""
        if self.token is not None:
            self.token.check()

    def clear(self) -> None:
        """Delete what the run has written; its claims stay, so that fencing numbers go on growing."""
        self.guard()
        for path in self.folder.iterdir():
            if path == self.owner_folder:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def update(self, **changes: Any) -> dict[str, Any]:
        """Change fields of the record (creating it if needed) and write it atomically; returns the whole record."""
        try:
            record = self.read()
        except ValueError:
            record = None  # half a file of a crashed machine: what is written now replaces it
        record = {**(record or {"schema": SCHEMA, "run_id": self.run_id, "created": now()}), **changes}
        self.guard()
        # Again as late as can be: who takes the run over while a slow disk writes must not find its record replaced. Between
        # this look and the rename are microseconds; a run that is lost in them is made again, and nothing else happens.
        write_json_atomically(self.record_file, record, self.guard)
        return record

    @property
    def state(self) -> State:
        record = self.read()
        return State(record["state"]) if record else State.PLANNED


def identity(
    config: Mapping[str, Any], points_fingerprints: Mapping[str, str], start: str | None = None
) -> dict[str, Any]:
    """The part of a resolved config that decides what a run computes, with the fingerprints of what it starts from.

    Args:
        config: fully resolved config as plain containers.
        points_fingerprints: split name -> fingerprint of the point labels.
        start: fingerprint of the weights that ``init_from`` names (`benchmark.initial`); None without it.
    """
    return _identity(config, points_fingerprints, start, _NOT_IDENTITY)


def training_id(config: Mapping[str, Any], points_fingerprint: str, start: str | None = None) -> str:
    """Hash of the part of `identity` that decides the weights that training ends with.

    Args:
        config, start: as for `identity`.
        points_fingerprint: that of the point labels of the training split.
    """
    left_out = _NOT_IDENTITY | frozenset(AFTER_TRAINING)
    return _hash(_identity(config, {"train": points_fingerprint}, start, left_out))


def _identity(
    config: Mapping[str, Any], points_fingerprints: Mapping[str, str], start: str | None, left_out: frozenset[str]
) -> dict[str, Any]:
    left_out = left_out | _PLACES.get(config["dataset"].get("kind", ""), frozenset())

    def kept(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        result = {}
        for key, value in node.items():
            path = f"{prefix}{key}"
            if path not in left_out and not (value is None and path in LATER_KEYS):
                result[key] = kept(value, f"{path}.") if isinstance(value, Mapping) else value
        return result

    if config["precision"] != "auto":  # auto is the device's choice, like the device itself
        config = {**config, "chosen_precision": config["precision"]}
    if start is not None:  # what the weights are, not where they lie
        config = {**config, "init_from": start}
    return {"config": kept(config, ""), "points": dict(points_fingerprints)}


def run_name(config: Mapping[str, Any]) -> str:
    """The readable part of a run id: method, data, points per target, seed."""
    points = config["dataset"]["points"]["count"]
    return f"{config['method']['label']}-{config['scale']}-{config['dataset']['name']}-P{points}-s{config['seed']}"


def run_id(config: Mapping[str, Any], points_fingerprints: Mapping[str, str], start: str | None = None) -> str:
    """Readable name and ten hex digits of the hash of `identity`: equal exactly if the runs would compute the same."""
    return f"{run_name(config)}-{_hash(identity(config, points_fingerprints, start))[:10]}"


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
