"""The file of results: ``<out>/<device>.json`` with every round of every section, and ``<device>.md`` made from it.

A section carries its own revision, date and machine: measuring one again leaves the others as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError
from benchmark.provenance import provenance
from benchmark.runs import now, write_json_atomically, write_text_atomically
from benchmark.speed.rows import Table
from benchmark.speed.tables import document

SCHEMA = 1
COMPARED = ("POT", "hotcoco", "pillow")
"""Packages that only measurements depend on, beside those of every run record."""


@dataclass(frozen=True, slots=True)
class Record:
    """The results on one kind of device."""

    folder: Path
    device: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.device}.json"

    @property
    def page(self) -> Path:
        return self.folder / f"{self.device}.md"

    def read(self) -> dict[str, Any]:
        """What was measured before, nothing if there is no file; ConfigError if it is not a file of results."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"schema": SCHEMA, "device": self.device, "sections": {}}
        except json.JSONDecodeError as error:
            raise ConfigError(f"{self.file} is not valid JSON ({error}); delete it to measure anew.") from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA or content.get("device") != self.device:
            raise ConfigError(f"{self.file} does not hold measurements on '{self.device}'; choose another out=.")
        return content

    def put(self, name: str, section: dict[str, Any], order: Sequence[str]) -> None:
        """Replace one section and keep the others.

        Args:
            name, section: what to store, see `describe`.
            order: all names, as sections follow one another in the file.
        """
        content = self.read()
        sections = {**content["sections"], name: section}
        content["sections"] = {each: sections[each] for each in order if each in sections}
        write_json_atomically(self.file, content)
        write_text_atomically(self.page, document(content))


def describe(tables: Sequence[Table], device: str, threads: int, quick: bool, seconds: float) -> dict[str, Any]:
    """A section of the file: its tables and what made them.

    Args:
        tables: measured so far.
        device: ``cpu`` or ``cuda``. threads: of torch.
        quick: whether few rounds had to do.
        seconds: that measuring took.
    """
    origin = provenance(device, threads)
    return {
        "measured": now(), "quick": quick, "wall_seconds": seconds,
        "provenance": {**origin, "packages": {**origin["packages"], **{name: _version(name) for name in COMPARED}}},
        "tables": [table.to_json() for table in tables],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
