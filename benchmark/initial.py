"""``init_from``: the run, or the file of weights, whose network a run starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError
from benchmark.runs import Run, State


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

    def missing(self) -> str:
        """Why a run cannot begin yet, in one sentence; "" if it can."""
        if self.run is None:
            return ""
        try:
            state = self.run.state
        except ValueError:
            state = State.PLANNED  # a record that cannot be read is made again
        if state == State.DONE:
            return "" if self.weights.exists() else (
                f"the weights of {self.run.run_id}, which it starts from, are not here (they are never committed); "
                f"make them again with force={self.run.run_id}"
            )
        return f"{self.run.run_id}, which it starts from, is not done but {state}"


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


@lru_cache(maxsize=64)
def _content(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
