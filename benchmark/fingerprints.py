"""Fingerprints of data and point labels, remembered, so that planning reads no data twice and needs no torch.

Reading a data set and its points takes seconds, and so does importing what reads them. So the answers are kept in
``results_dir/points/fingerprints.json`` for each combination of data set config, files (by size and time of change) and code
of the readers; whatever differs from then is looked at again, and so is a kind of data set whose files are not told here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.runs import write_json_atomically

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class DataFingerprints:
    """What identifies the data of a run.

    Attributes:
        points: split -> fingerprint of the point labels.
        data: fingerprint of the training data.
    """

    points: dict[str, str]
    data: str


class Fingerprints:
    """Fingerprints by config, each looked up once.

    Args:
        read_again: look at the data even if the answer is remembered, so that files which are missing or wrong are found
            before anything runs.
    """

    def __init__(self, read_again: bool = False):
        self._read_again = read_again
        self._known: dict[str, DataFingerprints] = {}

    def of(self, config: Mapping[str, Any]) -> DataFingerprints:
        """The fingerprints for a run's config; draws point labels that do not exist yet.

        Raises:
            DataError, ValueError: the data cannot be used.
        """
        key = json.dumps([config["dataset"], config["results_dir"]], sort_keys=True)
        if key not in self._known:
            self._known[key] = (not self._read_again and _remembered(config)) or _looked_up(config)
        return self._known[key]


def _looked_up(config: Mapping[str, Any]) -> DataFingerprints:
    from benchmark.build import points_of
    from benchmark.data.sources import build_source

    points = {split: points_of(config, split) for split in SPLITS}
    data = build_source(config["dataset"], "train").fingerprint
    found = DataFingerprints({split: file.fingerprint for split, file in points.items()}, data)
    _remember(config, found, [file.path for file in points.values() if file.path is not None])
    return found


def _memory(config: Mapping[str, Any]) -> Path:
    return Path(config["results_dir"]) / "points" / "fingerprints.json"


def _question(config: Mapping[str, Any]) -> str | None:
    """A hash of what the answer depends on, but for the points files; None if that is not known."""
    annotations = _annotation_files(config["dataset"])
    if annotations is None:
        return None
    files = [stamp for file in annotations for stamp in [str(file), *_stamp(file)]]
    return hashlib.sha256(json.dumps([config["dataset"], files, _code()], sort_keys=True).encode()).hexdigest()


def _annotation_files(dataset: Mapping[str, Any]) -> list[Path] | None:
    """The files that decide a data set's fingerprint, by its kind; None if they are not known, or their folder is not."""
    if dataset["kind"] == "scenes":
        return []
    if dataset["kind"] != "coco_panoptic" or not dataset["root"]:
        return None
    root, pattern = Path(str(dataset["root"])).expanduser(), str(dataset["json"])
    return [root / pattern.replace("{split}", split) for split in SPLITS]


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of change, zeros for no file."""
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns


@cache
def _code() -> str:
    """A hash of the modules that read data and draw points."""
    root = Path(__file__).resolve().parent
    files = [*sorted((root / "data").glob("*.py")), root / "build.py", root.parent / "methods" / "base" / "labels.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _entries(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        entries = json.loads(_memory(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it is only a memory: everything can be looked up again
    return entries if isinstance(entries, dict) else {}


def _remembered(config: Mapping[str, Any]) -> DataFingerprints | None:
    question = _question(config)
    entry = _entries(config).get(question) if question else None
    if not entry or any(list(_stamp(Path(file))) != stamp for file, stamp in entry["points_files"].items()):
        return None
    return DataFingerprints(entry["points"], entry["data"])


def _remember(config: Mapping[str, Any], found: DataFingerprints, points_files: list[Path]) -> None:
    if question := _question(config):
        files = {str(file): _stamp(file) for file in points_files}
        entry = {**asdict(found), "points_files": files}
        write_json_atomically(_memory(config), {**_entries(config), question: entry})
