"""``init_from``: the run, or the file of weights, whose network a run starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError, other_versions
from benchmark.runs import Run, State

UNKNOWN = "unknown"
"""The kind of supervision of weights that come without a record."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the first weights of a run come from.

    Attributes:
        weights: the file.
        run: the run that makes the file, None if the file was named itself.
    """

    weights: Path
    run: Run | None = None

    @property
    def fingerprint(self) -> str:
        """What the weights are, wherever they lie: the id of their run, which says all that decides them, or a hash."""
        return self.run.run_id if self.run else f"sha256:{_content(self.weights, self.weights.stat().st_mtime_ns)}"

    def supervision(self) -> dict[str, Any]:
        """What the weights were trained on, for the record of a run that starts from them.

        Returns:
            Of a run: its id, its data set, and all that its record tells of its supervision, that of its own start included.
            Of a file: its fingerprint and the kind `UNKNOWN`; so of a run whose record is gone.
        """
        try:
            record = self.run.read() if self.run else None
        except ValueError:
            record = None
        if not record or not record.get("supervision"):
            return {"weights": self.fingerprint, "kind": UNKNOWN}
        return {
            "weights": self.fingerprint, "data_set": record["config"]["dataset"]["name"],
            **_with_start(record["supervision"], record["config"]),
        }  # fmt: skip

    def missing(self) -> str:
        """Why a run cannot begin yet, in one sentence; "" if it can."""
        if self.run is None:
            return ""
        try:
            record = self.run.read()
        except ValueError:
            record = None  # it is made again
        state = State(record["state"]) if record else State.PLANNED
        if state != State.DONE:
            return f"{self.run.run_id}, which it starts from, is not done but {state}"
        if not self.weights.exists():
            return (
                f"the weights of {self.run.run_id}, which it starts from, are not here (they are never committed); "
                f"make them again with force={self.run.run_id}"
            )
        config = (record or {}).get("config")
        versions = other_versions(config, network_only=True) if config else ""
        return f"{self.run.run_id}, which it starts from, was made by {versions}" if versions else ""


def start_of(config: Mapping[str, Any]) -> Start | None:
    """The start that a run's config names, None if it starts afresh.

    ``init_from`` is the id of a run in the same results folder, the path of a run folder, or of a ``.safetensors`` file.

    Raises:
        ConfigError: a file that does not exist.
    """
    named = config.get("init_from")  # records that are older than this key do not have it
    if named is None:
        return None
    path = Path(str(named))
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise ConfigError(f"init_from={named} is a weights file that does not exist.")
        return Start(path)
    run = Run(path.parent.parent, path.name) if path.parent.name == "runs" else Run(Path(config["results_dir"]), str(named))
    return Start(run.weights_file, run)


def _with_start(supervision: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A record that started from weights and does not say what they had read is older than this key."""
    if config.get("init_from") and "start" not in supervision:
        return {**supervision, "start": {"weights": str(config["init_from"]), "kind": UNKNOWN}}
    return dict(supervision)


@lru_cache(maxsize=64)
def _content(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
